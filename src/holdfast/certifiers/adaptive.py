"""Randomized smoothing that takes as many samples as the radius is worth.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, with exact
group-sequential boundaries (Lan & DeMets, 1983) on a grid of radii: see `holdfast.smoothing.radius_grid`.

    holdfast certify RUN adaptive --price 0.2
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..smoothing.binomial import radius_cap
from ..smoothing.radius_grid import RadiusBoundaries
from ..smoothing.sampling import Procedure, sample
from ..smoothing.sequential import looks
from ..smoothing.walk import Walk, boundaries, check, evidence, select, walk
from ..types import Certificate, Certifier, Classifier

STEP = 0.005
"""Step of the grid of radii, in units of sigma: what is lost by rounding a radius down to it."""


@dataclass(frozen=True)
class Adaptive(Certifier):
    """l2 certificates that stop when more samples would add little."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    price: float = 0.1
    """Stop when 10,000 more samples are expected to add less radius than this, in units of sigma. 0 leaves the decision
    to the tolerance."""
    tolerance: float = 0.02
    """Stop when n_max samples could add no more radius than this, in units of sigma."""
    n0: int = 100
    """Samples that select the class; never those that bound its probability."""
    first: int = 400
    """Samples at the first look."""
    growth: float = 2.0
    """Factor between the samples of one look and the next."""
    n_max: int = 100_000
    """Samples after which the radius proven so far is taken."""
    alpha: float = 0.001
    """Probability that the certificate of an example is wrong, over all looks together."""
    beta: float = 0.001
    """Probability that sampling stops early although more could be proven; costs radius, never soundness."""

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.price < math.inf:
            raise ValueError(f"price must not be negative, in units of sigma, got {self.price}")
        self._boundaries()

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[int], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        return sample(classifier, x, seeds, self.sigma, self._procedure, batch_size)

    def cap(self) -> float:
        return self._boundaries().radii[-1] * self.sigma

    def samples(self) -> int:
        return self.n0 + self.n_max

    def _procedure(self, seed: int) -> Procedure:
        selection = yield from select(self.n0)
        grid = self._boundaries()
        found = yield from walk(grid, selection.top, lambda now: self._enough(grid, now, now.votes[selection.top]))
        return Certificate(
            prediction=selection.top if found.certified else None,
            radius=grid.radii[found.certified - 1] * self.sigma if found.certified else 0.0,
            norm="l2",
            confidence=1 - self.alpha,
            evidence=evidence(self, selection, found.votes, found.looks),
        )

    def _enough(self, grid: RadiusBoundaries, now: Walk, count: int) -> bool:
        if now.possible == 0:
            return True
        proven = grid.radii[now.certified - 1] if now.certified else -math.inf
        if grid.radii[now.possible - 1] - proven <= self.tolerance:
            return True
        return self.price > 0 and 10_000 * float(grid.gain(now.looks - 1, count, now.certified)) < self.price

    def _boundaries(self) -> RadiusBoundaries:
        """Radii from 0 to the largest that n_max samples can prove."""
        cap = radius_cap(1.0, self.n_max, self.alpha)
        if not cap > 0:
            raise ValueError(f"n_max = {self.n_max} samples at alpha = {self.alpha} can never certify anything")
        radii = (*np.arange(0, cap, STEP).tolist(), cap)
        return boundaries(radii, self.alpha, looks(self.first, self.n_max, self.growth), self.beta)


DEFAULT = Adaptive()
