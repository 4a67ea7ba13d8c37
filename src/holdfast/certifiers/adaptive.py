"""Randomized smoothing that takes as many samples as the radius is worth.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, with exact
group-sequential boundaries (Lan & DeMets, 1983) on a grid of radii: see `holdfast.smoothing.statistics.radius_grid`.

    holdfast certify RUN adaptive --min-gain 0.2
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.certifier import Seed
from ..smoothing.certifier import SequentialCertifier
from ..smoothing.evidence import AdaptiveVotes, Procedure, boundaries, radius_grid
from ..smoothing.statistics.radius_grid import RadiusBoundaries
from ..smoothing.walk import Standing, select, walk


@dataclass(frozen=True)
class Adaptive(SequentialCertifier):
    """Certificates that stop when more samples would add little."""

    first: int = 400
    """Noise samples at the first look."""
    growth: float = 2.0
    """Factor between the samples of one look and the next."""
    min_gain: float = 0.1
    """Stop when 10,000 more samples are expected to add less radius than this, in units of sigma. 0 leaves the decision
    to the tolerance."""
    tolerance: float = 0.02
    """Stop when n_max samples could add no more radius than this, in units of sigma."""
    beta: float = 0.001
    """Probability that sampling stops early although more could be proven; costs radius, never soundness."""

    former_names: ClassVar[Mapping[str, str]] = {"price": "min_gain"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be positive, in units of sigma, got {self.tolerance}")
        if not 0 <= self.min_gain < math.inf:
            raise ValueError(f"min_gain must not be negative, in units of sigma, got {self.min_gain}")
        self._tests(self.delta(0))

    def cap(self) -> float:
        return self._grid(self.delta(0))[-1]

    def procedure(self, seed: Seed, numbers: int) -> Procedure:
        selection, tests = (yield from select(self.n0)), self._tests(self.delta(numbers))
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


DEFAULT = Adaptive()
