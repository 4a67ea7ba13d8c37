"""What certificates rest on that are tests of given radii. No torch in here.

One optimal design for each radius (`statistics.optimal`), or group-sequential boundaries on a grid of radii
(`statistics.sequential`), as versions before 0.2 had them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Self

import numpy as np

from ..core.certificate import MADE_BY, OLD, TOLERANCE, Certificate, Claim
from ..core.config import Config
from .evidence import OPTIMAL, SPENDING, SamplingEvidence, SequentialVotes, check_path, top_class
from .noise import Float32, Noise, less, more
from .statistics.binomial import fixed_lower
from .statistics.design import Decision, Design, replay
from .statistics.sequential import RadiusBoundaries, looks

STEP = 0.005
"""Step of the grid of radii of `AdaptiveVotes`, in units of sigma (`Noise.scale`): what rounding down to it costs."""


@dataclass(frozen=True)
class Reached(Config):
    """The part of a design that a walk can have met: its looks while the radius was open, and the one after them."""

    looks: tuple[int, ...]
    certify_at: tuple[int, ...]
    give_up_at: tuple[int, ...]
    later: float
    """What the looks that are left out can add to the type-one error."""

    @classmethod
    def of(cls, design: Design, looks: int) -> Self:
        """The first so many looks of a design."""
        return cls(*_reached(design, looks))

    def design(self, p0: float) -> tuple[Design, float]:
        """The looks as a design for one share, and the type-one error of these and all later looks."""
        design = _design(p0, self.looks, self.certify_at, self.give_up_at)
        return design, design.type_one_error + self.later


@dataclass(frozen=True)
class DesignVotes(SamplingEvidence):
    """Of one design for each of several radii, chosen by the votes that select the class."""

    made_with = OPTIMAL

    r: tuple[float, ...]
    """Increasing radii, in pixel units."""
    n_max: int
    selected: int
    """Samples that selected the class, of n0 at most."""
    looks: tuple[int, ...]
    """Numbers of samples at which the votes were looked at; none where the selection left no hope."""
    counts: tuple[int, ...]
    """Votes of the top class at every look."""
    tests: tuple[Reached, ...]
    """What decided each radius, as far as it was reached; the selection left no hope for those beyond."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not sum(self.selection.values()) <= self.selected <= self.n0:
            raise ValueError(f"{dict(self.selection)} are no votes of {self.selected} samples, of n0 = {self.n0}")
        if any(b <= a for a, b in pairwise((-1e-300, *self.r))) or len(self.tests) > len(self.r):
            raise ValueError(f"expected increasing radii with a test for each at most, got {self.r}")
        if self.looks and not self.looks[-1] <= self.n_max:
            raise ValueError(f"{self.looks[-1]} samples were looked at, of n_max = {self.n_max}")
        check_path(self, self.looks, self.counts)

    @cached_property
    def decision(self) -> Decision:
        """Where the votes leave each radius.

        Raises:
            ValueError: a test errs with a probability above alpha, or was looked at where it does not say so.
        """
        designs = []
        for radius, test in zip(self.r, self.tests, strict=False):
            design, error = test.design(share(self.noise, radius, self.sigma, self.delta))
            if not (test.later >= 0 and error <= self.alpha * (1 + TOLERANCE)):
                raise ValueError(
                    f"the test of radius {radius:g} errs with probability {error:.6g}, more than alpha = {self.alpha:g}"
                )
            designs.append(design)
        return replay(designs, self.looks, self.counts)

    def chosen(self) -> dict[tuple[Any, ...], Sequence[float | str]]:
        """The design of a radius follows from the votes that selected the class, by a plan that was there before."""
        by = (self.selected, max(self.selection.values(), default=0))
        found = super().chosen()
        for number, test in enumerate(self.tests):
            for name in ("looks", "certify_at", "give_up_at"):
                found[name, number, *by] = getattr(test, name)
        return found

    def claim(self) -> Claim:
        certified = self.decision.certified
        return Claim(self.top, self.r[certified - 1]) if certified else Claim(None, 0.0)

    def derived(self) -> dict[str, Any]:
        ends = self.decision.ends
        return {"samples": self.selected + self.estimation, "ends": ends + ["hopeless"] * (len(self.r) - len(ends))}


def share(noise: Noise, radius: float, sigma: float, delta: float) -> float:
    """The computed share that a radius needs, rounded up."""
    return more(noise.share_needed(radius, sigma), delta)


@lru_cache(maxsize=8192)
def _design(p0: float, looks: tuple[int, ...], certify_at: tuple[int, ...], give_up_at: tuple[int, ...]) -> Design:
    """Kept with its error, because many examples stop at the same look."""
    return Design(p0, looks, certify_at, give_up_at)


@lru_cache(maxsize=8192)
def _reached(design: Design, looks: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], float]:
    part = design.part(looks)
    later = max(0.0, design.type_one_error - part.type_one_error)
    return part.looks, part.certify_at, part.give_up_at, later


@dataclass(frozen=True)
class RadiusVotes(SequentialVotes):
    """Of group-sequential tests, one for each of several radii."""

    made_with = SPENDING

    beta: float
    r: tuple[float, ...]
    """Increasing radii, in pixel units."""

    def boundaries(self) -> RadiusBoundaries:
        """The tests of all radii."""
        return boundaries(self.noise, self.sigma, self.delta, self.r, self.alpha, self.looks, self.beta)

    def claim(self) -> Claim:
        return claim_on_grid(self, self.r, self.boundaries())


@dataclass(frozen=True)
class AdaptiveVotes(SequentialVotes):
    """Of group-sequential tests for a whole grid of radii."""

    made_with = SPENDING

    beta: float

    def claim(self) -> Claim:
        grid = radius_grid(self.noise, self.sigma, self.delta, self.alpha, self.n_max)
        tests = boundaries(self.noise, self.sigma, self.delta, grid, self.alpha, self.looks, self.beta)
        return claim_on_grid(self, grid, tests)


def claim_on_grid(evidence: SequentialVotes, radii: tuple[float, ...], tests: RadiusBoundaries) -> Claim:
    """The largest radius that was certified at any look: the error of ever crossing is what the tests bound."""
    certified = max(int(tests.certified(look, count)) for look, count in enumerate(evidence.counts))
    return Claim(evidence.top, radii[certified - 1]) if certified else Claim(None, 0.0)


@lru_cache(maxsize=64)
def boundaries(
    noise: Noise,
    sigma: float,
    delta: float,
    radii: tuple[float, ...],
    alpha: float,
    looks: tuple[int, ...],
    beta: float,
) -> RadiusBoundaries:
    """Tests of radii in pixel units, kept for the next example with the same settings."""
    shares = tuple(more(noise.share_needed(radius, sigma), delta) for radius in radii)
    return RadiusBoundaries(tuple(radius / noise.scale(sigma) for radius in radii), alpha, looks, beta, shares)


@lru_cache(maxsize=64)
def radius_grid(noise: Noise, sigma: float, delta: float, alpha: float, n_max: int) -> tuple[float, ...]:
    """Radii from 0 to the largest that n_max samples can prove, in pixel units."""
    p_lower = less(unanimous := fixed_lower(n_max, n_max, alpha), delta)
    cap, shrink = noise.radius(p_lower, 1 - p_lower, sigma), 1e-12
    while cap > 0 and more(noise.share_needed(cap, sigma), delta) > unanimous:  # both round to the safe side
        cap, shrink = cap * (1 - shrink), 2 * shrink
    if not cap > 0:
        raise ValueError(f"n_max = {n_max} samples at alpha = {alpha} can never certify anything; raise n_max or alpha")
    return (*np.arange(0, cap, STEP * noise.scale(sigma)).tolist(), cap)


def _old_on_grid(certifier: Mapping[str, Any], found: Certificate) -> SequentialVotes | None:
    """Versions before 0.2 kept the votes of the last look only. The counts before it lie between two histories.

    The radius is known where it is that of the lower one, and impossible outside of what the two claim.
    """
    data, kind = found.evidence, {"Adaptive": AdaptiveVotes, "AtRadius": RadiusVotes}[certifier["kind"]]
    names = ("sigma", "n0", "alpha", "selection", "votes", "invalid", "first", "growth", "n_max", "beta")
    told: dict[str, Any] = {name: data[name] for name in names}
    told |= {"r": tuple(data["r"])} if kind is RadiusVotes else {}
    last = data["votes"].get(str(top_class(data["selection"])), 0)
    seen = looks(data["first"], data["n_max"], data["growth"])[: data["looks"]]
    fewest = kind(
        **told, noise=Float32(), numbers=0, delta=0.0, counts=tuple(max(0, last - seen[-1] + n) for n in seen)
    )
    most = fewest.replace(counts=tuple(min(last, n) for n in seen))
    low, radius, high = (_height(claim) for claim in (fewest.claim(), found, most.claim()))
    if radius <= low + TOLERANCE:
        return fewest
    return None if radius <= high + TOLERANCE and found.prediction == fewest.top else most


def _height(claim: Claim | Certificate) -> float:
    """The radius, and an abstention below all radii."""
    return -1.0 if claim.prediction is None else claim.radius


MADE_BY |= {"AtRadius": (RadiusVotes, DesignVotes), "Adaptive": (AdaptiveVotes, *MADE_BY["Adaptive"])}
OLD |= {"AtRadius": _old_on_grid, "Adaptive": _old_on_grid}
