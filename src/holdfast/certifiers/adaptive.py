"""Randomized smoothing that takes as many samples as the radius is worth.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, with
samples that end where more are not worth it (`holdfast.smoothing.statistics.stopping`). For comparison: exact
group-sequential boundaries (Lan & DeMets, 1983) on a grid of radii (`statistics.sequential`).

    holdfast certify RUN adaptive --min-gain 0.2
"""

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np

from ..core.certifier import Seed
from ..smoothing.certifier import SequentialCertifier, Standing, Walk, select, walk
from ..smoothing.evidence import Procedure, StoppedVotes
from ..smoothing.noise import Noise, less
from ..smoothing.radius_tests import AdaptiveVotes, boundaries, radius_grid
from ..smoothing.statistics.binomial import fixed_lower
from ..smoothing.statistics.sequential import RadiusBoundaries
from ..smoothing.statistics.stopping import FIRST_LOOK, GROWTH, MIN_GAIN, Stopping, best_stopping


@dataclass(frozen=True)
class Adaptive(SequentialCertifier):
    """Certificates that stop when more samples would add little."""

    first: int = FIRST_LOOK
    """Noise samples at the first look."""
    growth: float = GROWTH
    """Factor between the samples of one look and the next."""
    min_gain: float = MIN_GAIN
    """Radius, in units of sigma, that 10,000 samples must be expected to add. 0 takes n_max samples wherever they can
    add any; with spending boundaries, it leaves the decision to the tolerance."""
    boundaries: Literal["optimal", "spending"] = "optimal"
    """optimal: the most radius for the samples. spending: alpha spread over the looks, for each radius of a grid."""
    tolerance: float = 0.02
    """Stop when n_max samples could add no more radius than this, in units of sigma; spending boundaries only."""
    beta: float = 0.001
    """Probability that sampling stops early although more could be proven; costs radius, never soundness; spending
    boundaries only."""

    former_names: ClassVar[Mapping[str, str]] = {"price": "min_gain"}
    former_defaults: ClassVar[Mapping[str, Any]] = {
        **SequentialCertifier.former_defaults,
        "boundaries": "spending",
        "first": 400,
        "growth": 2.0,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boundaries not in ("optimal", "spending"):
            raise ValueError(f"boundaries must be optimal or spending, got {self.boundaries!r}")
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be positive, in units of sigma, got {self.tolerance}")
        if not 0 <= self.min_gain < math.inf:
            raise ValueError(f"min_gain must not be negative, in units of sigma, got {self.min_gain}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie between 0 and 1, got {self.beta}")
        self.cap()  # refuses what can never certify
        if self.boundaries == "spending":
            self._tests(self.delta(0))

    def cap(self) -> float:
        grid = self._grid(self.delta(0))
        unanimous = less(fixed_lower(self.n_max, self.n_max, self.alpha), self.delta(0))
        return grid[-1] if self.boundaries == "spending" else self.noise.radius(unanimous, 1 - unanimous, self.sigma)

    def procedure(self, seed: Seed, numbers: int) -> Procedure:
        selection, delta = (yield from select(self.n0)), self.delta(numbers)
        if self.boundaries == "optimal":
            rule = stopping(self.noise, self.sigma, delta, self.alpha, self.looks(), self.min_gain)
            votes = yield from advance(rule, selection.top)
            at = rule.go_on_at[: len(votes.counts)]
            return StoppedVotes(**self.settings(selection, votes, numbers), go_on_at=at)
        tests = self._tests(delta)
        votes = yield from walk(tests, selection.top, lambda now: self._enough(tests, now))
        return AdaptiveVotes(**self.settings(selection, votes, numbers), beta=self.beta)

    def _enough(self, tests: RadiusBoundaries, now: Standing) -> bool:
        if now.possible == 0:
            return True
        proven = tests.radii[now.certified - 1] if now.certified else -math.inf
        if tests.radii[now.possible - 1] - proven <= self.tolerance:
            return True
        return self.min_gain > 0 and 10_000 * float(tests.gain(now.looks - 1, now.count, now.certified)) < self.min_gain

    def _grid(self, delta: float) -> tuple[float, ...]:
        return radius_grid(self.noise, self.sigma, delta, self.alpha, self.n_max)

    def _tests(self, delta: float) -> RadiusBoundaries:
        return boundaries(self.noise, self.sigma, delta, self._grid(delta), self.alpha, self.looks(), self.beta)


def advance(rule: Stopping, top: int) -> Generator[int, list[int], Walk]:
    """Sample from look to look as long as there are enough votes to go on."""
    votes = Walk(top)
    for n, go_on_at in zip(rule.looks, rule.go_on_at, strict=True):
        yield from votes.look(n)
        if votes.counts[-1] < go_on_at:
            break
    return votes


@lru_cache(maxsize=64)
def stopping(
    noise: Noise, sigma: float, delta: float, alpha: float, looks: tuple[int, ...], min_gain: float
) -> Stopping:
    """Where samples end, kept for the next example with the same settings; min_gain in units of the noise's scale."""

    def radii(shares: np.ndarray) -> np.ndarray:
        bounds = [less(share, delta) for share in shares.tolist()]
        return np.array([noise.radius(p, 1 - p, sigma) for p in bounds]) / noise.scale(sigma)

    return best_stopping(looks, alpha, min_gain, radii)


DEFAULT = Adaptive()
