"""Several radii decided by the same votes, with the error of one.

Each radius has a design of its own. A radius is claimed if its design certifies it and those of all smaller radii
certify theirs (a fixed sequence of tests: Maurer, Hothorn and Lehmacher, 1995). Let r be the smallest radius of the
list that is false. Whoever claims a false radius claims r too, and the design of r certifies it with probability at
most alpha, whatever the other designs do. So there is no union bound, no need for common looks, and giving up can only
end walks that might have been certified.
"""

from collections.abc import Sequence

from .design import Design


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
