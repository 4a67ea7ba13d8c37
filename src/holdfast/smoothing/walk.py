"""One example on its way over the looks of a sequential test: sample, look, stop when enough is known."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .evidence import Votes, sparse
from .statistics.decision import Decision
from .statistics.design import Design
from .statistics.radius_grid import RadiusBoundaries
from .statistics.selection import HOPELESS, MORE, Plan
from .statistics.stopping import Stopping


@dataclass(frozen=True)
class Selection:
    """The class that a first sample selects, and the votes that selected it."""

    top: int
    votes: Votes
    samples: int


def select(n0: int) -> Generator[int, list[int], Selection]:
    """Ask for n0 samples and take the class with most votes."""
    votes = yield n0
    return Selection(int(np.argmax(votes[:-1])), sparse(votes), n0)


def select_by(plans: Sequence[Plan]) -> Generator[int, list[int], tuple[Selection, list[Design | None]]]:
    """Ask for votes until each plan has chosen its design, or sees no hope (None).

    Args:
        plans: by increasing radius, all with the same stages. No radius is tried above a hopeless one.
    """
    votes, chosen = list[int](), list[int]()
    for stage, n in enumerate(plans[0].stages):
        new = yield n - sum(votes)
        votes = [a + b for a, b in zip(votes, new, strict=True)] if votes else new
        chosen = [plan.actions[stage][max(votes[:-1])] for plan in plans]
        if MORE not in chosen[: (*chosen, HOPELESS).index(HOPELESS)]:
            break
    designs = [None if choice < 0 else plan.designs[choice] for plan, choice in zip(plans, chosen, strict=True)]
    return Selection(int(np.argmax(votes[:-1])), sparse(votes), sum(votes)), designs


@dataclass
class Walk:
    """The votes of one example, look by look."""

    top: int
    total: list[int] = field(default_factory=list)
    """Votes of all samples after the selection, by class; last those for no class."""
    counts: list[int] = field(default_factory=list)
    """Votes of the top class at every look."""
    rivals: list[int] = field(default_factory=list)
    """Most votes of any other class at every look."""

    def look(self, n: int) -> Generator[int, list[int], None]:
        """Ask for what is missing to n samples."""
        votes = yield n - sum(self.total)
        self.total = [a + b for a, b in zip(self.total, votes, strict=True)] if self.total else votes
        self.counts.append(self.total[self.top])
        self.rivals.append(max(self.total[: self.top] + self.total[self.top + 1 : -1]))


@dataclass(frozen=True)
class Standing:
    """What the tests of a grid of radii say so far."""

    certified: int
    """How many radii of the grid are certified."""
    possible: int
    """How many are not ruled out."""
    looks: int
    """Looks taken."""
    count: int
    """Votes of the top class."""


def walk(tests: RadiusBoundaries, top: int, enough: Callable[[Standing], bool]) -> Generator[int, list[int], Walk]:
    """Sample from look to look until `enough` says stop, or the last look is taken.

    The largest number certified at any look counts: the error of ever crossing is what the boundaries bound. Stopping
    early can only lower it.
    """
    votes, certified, possible = Walk(top), 0, len(tests.radii)
    for look, n in enumerate(tests.looks):
        yield from votes.look(n)
        count = votes.counts[-1]
        certified = max(certified, int(tests.certified(look, count)))
        possible = min(possible, int(tests.possible(look, count)))
        if enough(Standing(certified, possible, look + 1, count)):
            break
    return votes


def follow(decision: Decision, top: int) -> Generator[int, list[int], Walk]:
    """Sample from look to look until every radius is decided."""
    votes = Walk(top)
    while (n := decision.next_look()) is not None:
        yield from votes.look(n)
        decision.look(n, votes.counts[-1])
    return votes


def advance(rule: Stopping, top: int) -> Generator[int, list[int], Walk]:
    """Sample from look to look as long as there are enough votes to go on."""
    votes = Walk(top)
    for n, go_on_at in zip(rule.looks, rule.go_on_at, strict=True):
        yield from votes.look(n)
        if votes.counts[-1] < go_on_at:
            break
    return votes
