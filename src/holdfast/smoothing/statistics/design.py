"""Interim analyses of votes: what each look does, and the exact type-one error of all together.

The error follows from the counts alone, by forward recursion, so that it does not matter where a design comes from.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from .binomial import window

ROUNDING = 1 + 1e-9
"""Factor above the rounding error of sums of positive numbers."""

_window = lru_cache(maxsize=1024)(window)


@dataclass(frozen=True)
class Design:
    """Looks and what to do at each: certify, give up, or go on. Giving up is final.

    Raises:
        ValueError: looks that are not positive and increasing, lists of unequal length, counts that both certify and
            give up, or p0 outside (0, 1).
    """

    p0: float
    """The share to exceed: Phi(r / sigma) for a radius r (`binomial.share_needed`)."""
    looks: tuple[int, ...]
    """Numbers of samples at which to look."""
    certify_at: tuple[int, ...]
    """Certify at the first look with at least this many votes; samples + 1 where that is impossible."""
    give_up_at: tuple[int, ...]
    """Give up at the first look with at most this many votes; -1 where that is impossible."""

    def __post_init__(self) -> None:
        if not 0 < self.p0 < 1:
            raise ValueError(f"expected p0 in (0, 1), got {self.p0}")
        if not self.looks or any(b <= a for a, b in pairwise((0, *self.looks))):
            raise ValueError(f"expected positive, increasing numbers of samples to look at, got {self.looks}")
        if not len(self.looks) == len(self.certify_at) == len(self.give_up_at):
            raise ValueError("expected one count to certify and one to give up at for each look")
        if any(c <= f for c, f in zip(self.certify_at, self.give_up_at, strict=True)):
            raise ValueError("expected every look to certify at more votes than it gives up at")

    @cached_property
    def type_one_error(self) -> float:
        """The probability that a share of p0 is certified, rounded up: what is cut from the walk counts as an error.

        It bounds that of every smaller share: votes of a smaller share can be coupled to be fewer at every look, and a
        walk with more votes is not given up before one with fewer, and certified no later.
        """
        certified, _, cut = self._follow(self.p0)
        return float(certified + cut) * ROUNDING

    def part(self, looks: int) -> "Design":
        """The first so many looks."""
        return Design(self.p0, self.looks[:looks], self.certify_at[:looks], self.give_up_at[:looks])

    def outcome(self, share: float) -> tuple[float, float]:
        """Probability to certify, and expected samples, at a share in [0, 1]."""
        certified, samples, _ = self._follow(min(max(share, 1e-12), 1 - 1e-12))
        return certified, samples

    def certified(self, look: int, count: int) -> bool:
        """Whether so many votes certify at this look, if no look before gave up."""
        return count >= self.certify_at[look]

    def given_up(self, look: int, count: int) -> bool:
        """Whether so many votes give up at this look, if no look before certified."""
        return count <= self.give_up_at[look]

    def _follow(self, share: float) -> tuple[float, float, float]:
        """Probability to certify, expected samples, and a bound on the probability that was cut; by forward recursion.

        walk[i] is the probability that nothing is decided yet and that there are first + i votes.
        """
        walk, first, before = np.ones(1), 0, 0
        certified = samples = cut = 0.0
        for n, certify_at, give_up_at in zip(self.looks, self.certify_at, self.give_up_at, strict=True):
            samples += (n - before) * float(walk.sum())
            step, least, outside = _window(n - before, share)
            walk, first, before, cut = np.convolve(walk, step), first + least, n, cut + outside
            end = min(max(certify_at - first, 0), len(walk))
            begin = min(max(give_up_at + 1 - first, 0), end)
            certified += float(walk[end:].sum())
            walk, first = walk[begin:end], first + begin
            if not len(walk):
                break
        return certified, samples, cut
