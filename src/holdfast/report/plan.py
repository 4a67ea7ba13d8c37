"""How many samples are worth it: closed forms, and the exact answer for the vote shares of a pilot run or of a log.

The figures are those of Seferis, Kollias & Cheng (2024): what fewer samples leave, by their formulas and exactly.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.stats import binom

from ..runs.certified import CertifiedRun
from ..runs.find import sources
from ..smoothing.statistics import planning
from ..smoothing.statistics.binomial import lower_bounds, radius_cap, share_needed
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


SHARES = np.linspace(0.5, 0.9999, 200)
"""Vote shares at which the radius of a point is shown."""

N_SHOWN = (100, 1000, 10_000, 100_000)
"""Numbers of samples that have a curve of their own."""

N_LAWS = (25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000)
"""Numbers of samples at which the laws are compared with what is exact."""

RADII = 61
"""Radii of a curve of certified accuracy."""

Rows = list[dict[str, float]]


def point_radii(plan: Plan) -> Rows:
    """The radius of a point by its vote share, in pixel units: eq. (1) beside the exact expectation."""
    rows: Rows = []
    for n in _shown(plan):
        shore = plan.sigma * planning.shore_radius(SHARES, n, plan.alpha)
        exact = plan.sigma * planning.expected_radii(SHARES, n, plan.alpha)
        found = zip(SHARES, shore, exact, strict=True)
        rows += [{"n": n, "share": float(p), "shore": float(s), "exact": float(e)} for p, s, e in found]
    return rows


def certified_accuracy(plan: Plan, pilot: Pilot) -> Rows:
    """Certified accuracy by radius, expected over the noise of n samples, for several n."""
    cap = float(planning.radii_of_counts(plan.n_max, plan.alpha)[-1])
    rows: Rows = []
    for n in _shown(plan):
        found = _accuracy(pilot, np.linspace(0, cap, RADII), n, plan.alpha)
        pairs = zip(np.linspace(0, plan.sigma * cap, RADII), found, strict=True)
        rows += [{"n": n, "radius": float(radius), "accuracy": float(share)} for radius, share in pairs]
    return rows


def laws(plan: Plan, pilot: Pilot) -> Rows:
    """For each n, against n_max: mean radius kept, largest drop of certified accuracy; by the formulas and exactly."""
    full = planning.expected_radii(pilot.shares, plan.n_max, plan.alpha).mean()
    grid = np.linspace(0, float(planning.radii_of_counts(plan.n_max, plan.alpha)[-1]), RADII)
    best = _accuracy(pilot, grid, plan.n_max, plan.alpha)
    rows: Rows = []
    for n in [n for n in N_LAWS if n <= plan.n_max]:
        drops = best - _accuracy(pilot, grid, n, plan.alpha)
        rows.append(
            {
                "n": n,
                "kept, formula": planning.radius_ratio(n, plan.alpha),
                "kept, exact": float(planning.expected_radii(pilot.shares, n, plan.alpha).mean() / full),
                "drop, formula": planning.accuracy_loss(n, plan.alpha),
                "drop, exact": float(drops.max()),
                "drop, mean over radii": float(drops.mean()),
            }
        )
    return rows


def write(plan: Plan, folder: Path) -> list[str]:
    """Write the figure curves.png and a table of each curve; the names of the files."""
    tables = {"point-radii": point_radii(plan)}
    if plan.pilot is not None:
        tables |= {"certified-accuracy": certified_accuracy(plan, plan.pilot), "laws": laws(plan, plan.pilot)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    _draw(tables, plan, folder / "curves.png")
    return [*(f"{name}.csv" for name in tables), "curves.png"]


def _accuracy(pilot: Pilot, grid: Float[NDArray, " radius"], n: int, alpha: float) -> Float[NDArray, " radius"]:
    """At radii in units of sigma: `planning.certified_probability` for all of them at once."""
    bounds = lower_bounds(np.arange(n + 1), n, alpha)
    enough = np.searchsorted(bounds, [share_needed(float(radius), 1.0) for radius in grid])
    return (binom.sf(enough[:, None] - 1, n, pilot.shares) * pilot.correct).mean(1)


def _shown(plan: Plan) -> list[int]:
    return [n for n in N_SHOWN if n <= plan.n_max]


def _draw(tables: dict[str, Rows], plan: Plan, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * (1 if len(tables) == 1 else 4), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 if len(tables) == 1 else 4, squeeze=False)[0]
    for n, rows in _by_n(tables["point-radii"]).items():
        (line,) = axes[0].plot([row["share"] for row in rows], [row["exact"] for row in rows], label=f"n = {n:,.0f}")
        axes[0].plot([row["share"] for row in rows], [row["shore"] for row in rows], "--", color=line.get_color())
    axes[0].set(xlabel="vote share", ylabel="radius of a point; dashed: eq. (1)")
    axes[0].legend()
    if len(tables) > 1:
        for n, rows in _by_n(tables["certified-accuracy"]).items():
            axes[1].plot([row["radius"] for row in rows], [row["accuracy"] for row in rows], label=f"n = {n:,.0f}")
        axes[1].set(xlabel="l2 radius", ylabel="certified accuracy")
        axes[1].legend()
        found = tables["laws"]
        for axis, what, words in ((axes[2], "kept", "mean radius kept"), (axes[3], "drop", "drop of accuracy")):
            for name in [name for name in found[0] if name.startswith(what)]:
                style = "--" if name.endswith("formula") else "o-"
                axis.plot([row["n"] for row in found], [row[name] for row in found], style, label=name)
            axis.set(xlabel="samples", ylabel=f"{words}, against {plan.n_max:,}", xscale="log")
            axis.legend()
    figure.savefig(path, dpi=150)


def _by_n(rows: Rows) -> dict[float, Rows]:
    found: dict[float, Rows] = {}
    for row in rows:
        found.setdefault(row["n"], []).append(row)
    return found
