"""What certificates at given radii by optimal designs rest on (`statistics.optimal`). No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Self

from ..core.certificate import MADE_BY, TOLERANCE, Claim
from ..core.config import Config
from .evidence import SamplingEvidence, check_path, more
from .noise import Noise
from .statistics.decision import Decision, replay
from .statistics.design import Design


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

    def chosen(self) -> dict[tuple[Any, ...], Sequence[int]]:
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


MADE_BY["AtRadius"] = (*MADE_BY["AtRadius"], DesignVotes)
