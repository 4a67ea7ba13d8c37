"""How many samples are worth it: closed forms, and the exact answer for the vote shares of a pilot run or of a log."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from ..runs.certified import CertifiedRun
from ..runs.find import sources
from ..smoothing.statistics import planning
from ..smoothing.statistics.binomial import radius_cap
from ..smoothing.statistics.sequential import looks
from ..smoothing.statistics.stopping import FIRST_LOOK, GROWTH, MIN_GAIN, best_stopping

N = (25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000)


@dataclass(frozen=True)
class Pilot:
    """What a pilot run or a log tells of a classifier."""

    sigma: float
    shares: Float[NDArray, " example"]
    """The share of the votes that the top class of each example gets."""
    correct: Bool[NDArray, " example"]
    """Whether that class is the label."""

    @classmethod
    def of(cls, source: Path, sigma: float, alpha: float | None, n_max: int, every: int = 1) -> Self:
        """Vote shares: counted in a run, inverted from the radius in a log.

        Args:
            source: a certify folder, which knows its own sigma, or a log of n_max samples at sigma and alpha. A log
                whose settings are known (`runs.logs`) has those instead.
            alpha: of a log; None for what its records say.
            every: take only the examples whose index is a multiple of this.

        Raises:
            ValueError: there are several certified sets, or this one holds no votes.
        """
        (path, *others) = sources(source)
        if others:
            raise ValueError(f"{source} holds several certified sets; name one: {path}, {others[0]}, ...")
        run = CertifiedRun.open(path)
        records = [record for record in run.records if record.index % every == 0]
        if not records:
            raise ValueError(f"{path} holds no records, or none whose index is a multiple of {every}")
        correct = np.array([record.correct for record in records])
        if path.is_file():
            radii = np.array([record.certificate.radius for record in records])
            sigma, n = run.sigma or sigma, run.settings.get("n", n_max)
            return cls(sigma, planning.shares_from_radii(radii, sigma, n, alpha or run.alpha or 0.001), correct)
        votes = [record.certificate.evidence for record in records]
        votes = [found.get("votes") or found.get("selection") for found in votes]  # none where the selection sufficed
        if not all(votes):
            raise ValueError(f"{path} was not certified by sampling; a plan needs votes")
        shares = np.array([max(v.values()) / sum(v.values()) for v in votes if v])
        return cls(records[0].certificate.evidence["sigma"], shares, correct)


@dataclass(frozen=True)
class Plan:
    """What n samples leave of the radius and of certified accuracy under Gaussian noise."""

    sigma: float
    alpha: float
    n_max: int
    """The number of samples to compare with."""
    radius: float | None = None
    """Radius at which to tell certified accuracy, in pixel units; default sigma."""
    pilot: Pilot | None = None

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")

    def names(self) -> list[str]:
        """Of the columns."""
        names = ["n", "largest radius", "radius kept, closed form", "accuracy lost, at most"]
        if self.pilot is not None:
            names += ["ACR", "radius kept, exact", f"certified accuracy at {self.radius or self.sigma:g}"]
        return names

    def rows(self) -> Iterator[list[str]]:
        """One for each of several n."""
        for n in [n for n in N if n < self.n_max] + [self.n_max]:
            yield [
                f"{n:,}",
                f"{radius_cap(self.sigma, n, self.alpha):.3f}",
                f"{planning.radius_ratio(n, self.alpha):.3f}",
                f"{planning.accuracy_loss(n, self.alpha):.3f}",
                *([] if self.pilot is None else self._exact(self.pilot, n)),
            ]

    def _exact(self, pilot: Pilot, n: int) -> list[str]:
        """ACR, the part of the radius that is kept, and certified accuracy: expected over the noise of n samples."""
        radii, full = (planning.expected_radii(pilot.shares, m, self.alpha) for m in (n, self.n_max))
        radius = (self.radius or self.sigma) / self.sigma
        certified = planning.certified_probability(pilot.shares, radius, n, self.alpha)
        acr = self.sigma * (radii * pilot.correct).mean()
        return [f"{acr:.4f}", f"{radii.mean() / full.mean():.3f}", f"{(certified * pilot.correct).mean():.3f}"]

    def _adaptive(self, pilot: Pilot) -> str:
        """What `adaptive` takes and keeps, expected over its noise."""
        rule = best_stopping(looks(min(FIRST_LOOK, self.n_max), self.n_max, GROWTH), self.alpha, MIN_GAIN)
        radii, samples = rule.outcomes(pilot.shares, self.alpha)
        kept = radii.mean() / planning.expected_radii(pilot.shares, self.n_max, self.alpha).mean()
        told = f"{samples.mean():,.0f} samples per image after the selection and keeps {kept:.3f} of the radius"
        return (
            f"`adaptive` at --min-gain {MIN_GAIN:g} takes {told}, ACR {self.sigma * (radii * pilot.correct).mean():.4f}"
        )

    def advice(self, loss: float | None) -> list[str]:
        """What the numbers mean.

        Args:
            loss: the fraction of the average radius that may be lost, for the number of samples that loses it.
        """
        lines = [
            "radius kept, closed form: 1 - 1.64 z / sqrt(n); accuracy lost, at any radius, at most: z / sqrt(n), "
            "with z = Phi^-1(1 - alpha / 2) (Seferis, Kollias & Cheng, 2024)",
        ]
        if loss is not None:
            n = planning.samples_for_loss(loss, self.alpha)
            lines.append(f"to lose {loss:.0%} of the average radius: n = {n:,} by the closed form")
            if self.pilot is not None:
                n = planning.samples_for_share_loss(self.pilot.shares, loss, self.alpha, self.n_max)
                told = f"that at n = {self.n_max:,}: n = {n:,}, exactly, for this classifier"
                lines.append(f"to lose {loss:.0%} of {told}")
        if self.pilot is not None:
            lines.append(self._adaptive(self.pilot))
        lines.append(
            "the closed form is optimistic for strong classifiers: its constant depends on how the vote shares are "
            "spread, and where most of them are near 1, a hundredth of the samples costs 28 to 34 % of the radius, not "
            "20 %"
        )
        if self.pilot is None:
            lines.append("for the exact answer, name a pilot run or a log: --from PATH")
        lines.append("`holdfast certify RUN at-radius` or `adaptive` takes only as many samples as each image needs")
        return lines
