"""Interim analyses of votes: what each look does, and the exact type-one error of all together.

The error follows from the counts alone, by forward recursion, so that it does not matter where a design comes from.

Several radii are decided by the same votes, with the error of one. Each radius has a design of its own, and is claimed
if its design certifies it and those of all smaller radii certify theirs (a fixed sequence of tests: Maurer, Hothorn and
Lehmacher, 1995). Let r be the smallest radius of the list that is false. Whoever claims a false radius claims r too,
and the design of r certifies it with probability at most alpha, whatever the other designs do. So there is no union
bound, no need for common looks, and giving up can only end walks that might have been certified.
"""

from collections.abc import Sequence
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


class Decision:
    """Where one input stands: which radii are certified, which are given up, and when to look next."""

    def __init__(self, designs: Sequence[Design | None]) -> None:
        """Designs by increasing radius; from the first None on, no radius is tried."""
        tried = list(designs)
        self.designs = [design for design in tried[: (*tried, None).index(None)] if design is not None]
        self.samples: list[int] = []
        """Samples at each look taken."""
        self.counts: list[int] = []
        """Votes of the class in question at each look taken."""
        self._next = [0] * len(self.designs)  # the look of each design that is next
        self.ends = ["open"] * len(self.designs)
        """What became of each radius: certified, given up, undecided after the last look, or open: a smaller radius
        was lost first, or there are looks to come."""
        self._open = list(range(len(self.designs)))  # those still to be looked at

    @property
    def certified(self) -> int:
        """How many radii are claimed: all before the first that is not certified."""
        return (*[end == "certified" for end in self.ends], False).index(False)

    def next_look(self) -> int | None:
        """The number of samples at which to look next; None when everything is decided."""
        return min([self.designs[test].looks[self._next[test]] for test in self._open], default=None)

    def look(self, samples: int, count: int) -> None:
        """Take a look: so many samples so far, so many of them for the class in question."""
        self.samples.append(samples)
        self.counts.append(count)
        for test in tuple(self._open):
            design, at = self.designs[test], self._next[test]
            if samples != design.looks[at]:
                continue
            self._next[test] += 1
            if design.certified(at, count):
                self.ends[test] = "certified"
                self._open.remove(test)
            elif design.given_up(at, count) or self._next[test] == len(design.looks):
                self.ends[test] = "given up" if design.given_up(at, count) else "undecided"
                self._open = [other for other in self._open if other < test]
                break

    def reached(self) -> list[int]:
        """How many looks of each design count: those that its radius was open for, and the one after them."""
        return [min(taken + 1, len(design.looks)) for taken, design in zip(self._next, self.designs, strict=True)]


def replay(designs: Sequence[Design], samples: Sequence[int], counts: Sequence[int]) -> Decision:
    """Where recorded votes leave each radius.

    Raises:
        ValueError: the looks are not those that the designs ask for.
    """
    decision = Decision(designs)
    for n, count in zip(samples, counts, strict=True):
        if decision.next_look() != n:
            raise ValueError(f"expected a look at {decision.next_look()} samples, found one at {n}")
        decision.look(n, count)
    return decision
