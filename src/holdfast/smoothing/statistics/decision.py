"""Several radii decided by the same votes, with the error of one.

Each radius has a design of its own. A radius is claimed if its design certifies it and those of all smaller radii
certify theirs (a fixed sequence of tests: Maurer, Hothorn and Lehmacher, 1995). Let r be the smallest radius of the
list that is false. Whoever claims a false radius claims r too, and the design of r certifies it with probability at
most alpha, whatever the other designs do. So there is no union bound, no need for common looks, and giving up can only
end walks that might have been certified.
"""

from bisect import bisect_right
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
        self.ends = ["open"] * len(self.designs)
        """What became of each radius: certified, given up, undecided after the last look, or still open."""

    @property
    def certified(self) -> int:
        """How many radii are claimed: all before the first that is not certified."""
        return (*[end == "certified" for end in self.ends], False).index(False)

    def next_look(self) -> int | None:
        """The number of samples at which to look next; None when everything is decided."""
        now = self.samples[-1] if self.samples else 0
        ahead = [self.designs[test].looks[bisect_right(self.designs[test].looks, now) :][:1] for test in self._open()]
        return min((look for looks in ahead for look in looks), default=None)

    def look(self, samples: int, count: int) -> None:
        """Take a look: so many samples so far, so many of them for the class in question."""
        self.samples.append(samples)
        self.counts.append(count)
        for test in self._open():
            design = self.designs[test]
            if samples in design.looks:
                at = design.looks.index(samples)
                if design.certified(at, count):
                    self.ends[test] = "certified"
                elif design.given_up(at, count):
                    self.ends[test] = "given up"
                elif samples == design.looks[-1]:
                    self.ends[test] = "undecided"

    def _open(self) -> list[int]:
        """The radii that are neither decided nor above one that is given up."""
        lost = [end in ("given up", "undecided") for end in self.ends]
        return [test for test in range((*lost, True).index(True)) if self.ends[test] == "open"]


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
