"""Examples handed out to workers that come and go: who works on what, what is done again, how fast everybody is."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..progress import Progress, say

SPAN = 10.0
"""Seconds of work that a worker is given at a time: what its death loses, and long beside the way there and back."""

AHEAD = 2
"""Batches that a worker holds, so that it need not wait for the next."""

GROWTH = 8
"""A batch has at most this many times the examples of the one before, whatever the pace of that one promises."""

PATIENCE = 10
"""Deaths in a row, and two more for each worker, without a certificate between them: then work is given up."""

Examples = tuple[int, ...]


@dataclass(frozen=True)
class Joined:
    """A worker is ready, or cannot be."""

    worker: str
    machine: Mapping[str, Any] = field(default_factory=dict)
    """What it runs on: see `holdfast.machine.describe`."""
    probe: Sequence[int] = ()
    """How it votes: see `holdfast.certification.determinism.probe`."""
    error: str = ""
    """Why it cannot certify."""


class Spelled(NamedTuple):
    """A certificate as a worker sends it: the one process that writes has to do as little as can be for it."""

    text: str
    """See `holdfast.runs.records.spelled`."""
    samples: int
    """That were drawn for it."""


@dataclass(frozen=True)
class Done:
    """A worker has certified what it was given."""

    worker: str
    examples: Examples
    certificates: Sequence[tuple[int, Spelled]]
    seconds: float
    processor: float = 0.0
    """Seconds of the processor."""


@dataclass(frozen=True)
class Left:
    """A worker is gone, with all that it was given."""

    worker: str
    why: str


Event = Joined | Done | Left


class Pool(Protocol):
    """Workers, wherever they are."""

    @property
    def starting(self) -> int:
        """Workers that have not joined yet."""
        ...

    def hand_out(self, worker: str, examples: Examples) -> None:
        """Give a worker something to do, behind what it holds already. Never fails: a worker that is gone has left."""
        ...

    def wait(self) -> Sequence[Event]:
        """What has happened since; after a second at most, nothing perhaps.

        Raises:
            Exception: what a worker raised while it certified.
        """
        ...


@dataclass
class Member:
    """A worker that has joined."""

    name: str
    used: bool
    """Whether it is given work."""
    held: int = 0
    """Batches that it was given and did not return."""
    size: int = 0
    """Examples of the largest batch that it was given."""
    pace: float = 0.0
    """Examples a second, by its last batch."""
    done: int = 0
    seconds: float = 0.0
    processor: float = 0.0

    @property
    def rate(self) -> float:
        """Examples a second, by all of its batches."""
        return self.done / self.seconds if self.seconds else 0.0


class Dispatch:
    """Hands examples out in batches of about SPAN seconds, smaller ones towards the end, until each has a certificate.

    What a worker holds that leaves is handed out again. When nothing is left to hand out, an idle worker gets a copy of
    the batch that is out for longest: a slow or hanging worker holds nobody up. The first certificate of an example
    counts.

    Args:
        todo: the examples.
        pool: the workers.
        write: gets certificates, each of an example of `todo`, no example twice.
        accepts: whether the votes of a worker may be mixed in; called once for every worker that joins.
        largest: examples of a batch at most.
        progress: told how far it is.
        tell: gets a line for every worker that is lost.
    """

    def __init__(
        self,
        todo: Iterable[int],
        pool: Pool,
        write: Callable[[Sequence[tuple[int, Spelled]]], None],
        accepts: Callable[[Joined], bool],
        largest: int,
        progress: Progress,
        tell: Callable[[str], None] = say,
    ) -> None:
        self._waiting = deque(todo)
        self._missing = set(self._waiting)
        self._pool, self._write, self._accepts, self._largest = pool, write, accepts, largest
        self._progress, self._tell, self._told = progress, tell, -math.inf
        self._out: dict[Examples, list[str]] = {}
        """Batches that are out, the oldest first, with the workers that hold them."""
        self._members: dict[str, Member] = {}
        self._deaths, self._most, self._pace = 0, 0, 0.0
        self.worked: list[Member] = []
        """All that were ever given work."""

    def run(self) -> None:
        """Return when all examples have their certificates.

        Raises:
            ValueError: workers only die, or none may be used.
        """
        while self._missing:
            for event in self._pool.wait():
                self._take(event)
                lost = isinstance(event, Left)  # then there may be something to do for those who had nothing
                for worker in list(self._members) if lost else [event.worker]:
                    self._feed(worker)
            if time.monotonic() - self._told > 1:
                self._told = time.monotonic()
                self._progress.describe(self._words())

    def _feed(self, worker: str) -> None:
        """Give a worker as much as it may hold."""
        member = self._members.get(worker)
        while member and member.used and member.held < AHEAD and (batch := self._next(member)):
            self._out.setdefault(batch, []).append(worker)
            member.held += 1
            self._pool.hand_out(worker, batch)

    def _take(self, event: Event) -> None:
        if isinstance(event, Joined):
            self._join(event)
        elif isinstance(event, Done):
            self._finish(event)
        else:
            self._leave(event)

    def _join(self, event: Joined) -> None:
        if event.error:
            self._tell(f"worker {named(event)} cannot certify: {event.error}")
        member = Member(named(event), used=not event.error and self._accepts(event))
        self._members[event.worker] = member
        self._most = max(self._most, len(self._members))
        if member.used:
            self.worked.append(member)
        elif not self._pool.starting and not any(other.used for other in self._members.values()):
            why = event.error or "it votes otherwise than the first worker of the run, see above"
            raise ValueError(f"no worker can be used; the last, {member.name}: {why}")

    def _finish(self, event: Done) -> None:
        if member := self._members.get(event.worker):
            member.held -= 1
            self._pace -= member.pace
            member.pace = len(event.examples) / max(event.seconds, 1e-6)
            self._pace += member.pace
            member.done += len(event.examples)
            member.seconds += event.seconds
            member.processor += event.processor
        self._out.pop(event.examples, None)
        self._deaths = 0
        new = [(index, spelled) for index, spelled in event.certificates if index in self._missing]
        self._write(new)
        self._missing.difference_update(index for index, _ in new)
        if not self._missing:
            self._progress.describe(self._words())
        self._progress.advance(len(new))

    def _leave(self, event: Left) -> None:
        member = self._members.pop(event.worker, None)
        self._deaths += 1
        self._pace -= member.pace if member else 0.0
        self._tell(
            f"worker {member.name if member else event.worker} is gone ({event.why}); what it held is done again"
        )
        for batch, holders in list(self._out.items()):
            if event.worker in holders:
                holders.remove(event.worker)
            if not holders:
                del self._out[batch]
                self._waiting.extend(batch)
        if self._deaths > PATIENCE + 2 * self._most:
            raise ValueError(
                f"{self._deaths} workers in a row died before one certified anything; the last: {event.why}. What is "
                "certified so far is kept; the same command continues"
            )

    def _next(self, member: Member) -> Examples | None:
        """What a worker is given now; nothing where all is done, or another copy would not help."""
        size = min(self._size(member), GROWTH * max(member.size, 1))
        batch: list[int] = []
        while self._waiting and len(batch) < size:
            if (index := self._waiting.popleft()) in self._missing:  # else one that was given up came back after all
                batch.append(index)
        if batch:
            member.size = len(batch)
            return tuple(batch)
        return None if member.held else self._copy()

    def _size(self, member: Member) -> int:
        """Examples of SPAN seconds, but at most half of a worker's share of those that are left."""
        if not member.pace:
            return 1
        share = len(self._waiting) * member.pace / max(self._pace, member.pace) / AHEAD
        return max(1, min(int(SPAN * member.pace), int(share), self._largest))

    def _copy(self) -> Examples | None:
        """The oldest batch that one worker alone holds."""
        return next((batch for batch, holders in self._out.items() if len(holders) == 1), None)

    def _words(self) -> str:
        """The words of the progress bar."""
        at_work = [member for member in self._members.values() if member.used]
        text = f"certifying, {len(at_work)} worker{'s' * (len(at_work) != 1)}"
        if known := sorted((member.rate, member.name) for member in at_work if member.rate):
            text += f" at {known[0][0]:.3g} to {known[-1][0]:.3g} examples/s each, slowest {known[0][1]}"
        return text


def named(event: Joined) -> str:
    """A worker by its machine, where that is known."""
    machine = event.machine
    return f"{machine['host']}:{machine['process']}" if {"host", "process"} <= machine.keys() else event.worker
