"""A radius that is proven at every look at once: group-sequential boundaries on a grid of radii.

Each radius of the grid has its own exact boundary at level alpha, made monotone in the radius. Let r be the smallest
grid radius above the true one: every false claim crosses the boundary of r, which happens with probability at most
alpha. So there is no union bound over radii or looks, and any stopping rule is allowed.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from .binomial import lower_bound, share_needed
from .sequential import GroupSequential


@dataclass(frozen=True)
class RadiusBoundaries:
    """Boundaries for several radii of one input, whose votes are looked at several times.

    Raises:
        ValueError: radii not increasing, negative or beyond what the last look can prove; alpha, beta or looks as in
            `GroupSequential`.
    """

    radii: tuple[float, ...]
    """Increasing radii in units of sigma; 0.0 stands for "no abstention"."""
    alpha: float
    """Probability, at most, that the largest certified radius exceeds the true one."""
    looks: tuple[int, ...]
    """Numbers of samples at which to look."""
    beta: float = 1e-3
    """Probability, at most, that a radius is ruled out although it is below the true one."""
    shares: tuple[float, ...] = ()
    """The share of the votes that each radius needs; by default that under Gaussian noise."""

    def __post_init__(self) -> None:
        if not self.shares:
            object.__setattr__(self, "shares", tuple(share_needed(radius, 1.0) for radius in self.radii))
        if not self.radii or any(b <= a for a, b in pairwise(self.radii)):
            raise ValueError(f"expected increasing radii in units of sigma, got {self.radii}")
        if len(self.shares) != len(self.radii) or any(b < a for a, b in pairwise(self.shares)):
            raise ValueError(f"expected an increasing share for every radius, got {self.shares}")
        most = self._test(self.shares[0]).looks[-1]
        cap = lower_bound(most, most, self.alpha)
        if self.shares[-1] > cap:
            raise ValueError(
                f"a radius of {self.radii[-1]:.4g} sigma can never be certified: it needs {self.shares[-1]:.6f} of the "
                f"votes, and {most} samples at alpha = {self.alpha} prove at most {cap:.6f}; take more samples or a "
                "larger sigma"
            )

    @cached_property
    def certify_at(self) -> Int[np.ndarray, "look radius"]:
        """Votes that certify each radius at each look; increasing with the radius."""
        counts = np.stack([self._test(share).certify_at for share in self.shares], axis=1)
        return np.maximum.accumulate(counts, axis=1)

    @cached_property
    def give_up_at(self) -> Int[np.ndarray, "look radius"]:
        """Votes at or below which each radius is ruled out at each look; increasing with the radius."""
        counts = np.stack([self._test(share).give_up_at for share in self.shares], axis=1)
        return np.minimum.accumulate(counts[:, ::-1], axis=1)[:, ::-1]

    def certified(self, look: int, counts: ArrayLike) -> Int[np.ndarray, "*shape"]:
        """How many of the radii these votes certify at this look; keep the maximum over the looks seen."""
        return np.searchsorted(self.certify_at[look], counts, side="right")

    def possible(self, look: int, counts: ArrayLike) -> Int[np.ndarray, "*shape"]:
        """How many of the radii these votes leave possible at this look; keep the minimum over the looks seen."""
        return np.searchsorted(self.give_up_at[look], counts, side="left")

    def gain(self, look: int, counts: ArrayLike, certified: ArrayLike) -> Float[np.ndarray, "*shape"]:
        """The most radius per further sample, in units of sigma, that going on to a later look is expected to add.

        For votes that go on arriving at the estimated share (count + 1/2) / (n + 1), with `certified` radii so far.
        It may be used to decide when to stop: a wrong guess costs samples or radius, never validity.
        """
        counts, certified, n = np.asarray(counts), np.asarray(certified), self.looks[look]
        proven = np.array([0.0, *self.radii])
        rates = [np.zeros(np.broadcast_shapes(counts.shape, certified.shape))]
        for later, more in enumerate(np.array(self.looks[look + 1 :]) - n, start=look + 1):
            ahead = self.certified(later, np.rint(counts + more * (counts + 0.5) / (n + 1)))
            rates.append((proven[np.maximum(ahead, certified)] - proven[certified]) / more)
        return np.max(rates, axis=0)

    def _test(self, share: float) -> GroupSequential:
        return GroupSequential(share, self.alpha, self.looks, self.beta)
