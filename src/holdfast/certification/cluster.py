"""What a certification costs on a cluster: a simulation of the way its examples are handed out, on measured work.

The examples go through `dispatch`, as in a real run; the workers are simulated, and so is the clock.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..progress import Progress, clock
from ..runs import store
from ..runs.certified import read
from .dispatch import Dispatch, Done, Event, Examples, Joined, Left, Spelled

PROOF = Spelled("", 0)
"""Of every simulated example."""


@dataclass(frozen=True)
class Cluster:
    """Workers, and how they fail."""

    workers: int
    start: float = 30.0
    """Seconds until a worker has joined."""
    stragglers: float = 0.0
    """Share of the workers that are slower."""
    slowness: float = 4.0
    """How many times slower those are."""
    preemptions: float = 0.0
    """Of a worker, an hour; another one starts in its place."""
    latency: float = 0.005
    """Seconds between a worker's answer and the writer's knowledge of it."""
    writer: tuple[float, float] = (0.003, 0.0001)
    """Seconds that the writer takes for a batch and for an example of it."""
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a certification took."""

    wall: float
    """Seconds from start to end."""
    work: float
    """Seconds that one worker would take that never waits."""
    workers: int

    @property
    def efficiency(self) -> float:
        """The share of the paid time of all workers that went into certificates, each counted once."""
        return self.work / (self.wall * self.workers)


class Simulated:
    """A pool on a clock of its own.

    Args:
        seconds: of work of each example, on a worker that is not slow.
    """

    def __init__(self, cluster: Cluster, seconds: Sequence[float]) -> None:
        self._cluster, self._seconds = cluster, seconds
        self._random = random.Random(cluster.seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Event]] = []
        self._factor: dict[str, float] = {}
        self._free: dict[str, float] = {}
        self.now = 0.0
        self.starting = 0
        for _ in range(cluster.workers):
            self._begin()

    def hand_out(self, worker: str, examples: Examples) -> None:
        if worker in self._free:
            seconds = self._factor[worker] * sum(self._seconds[index] for index in examples)
            self._free[worker] = max(self.now + self._cluster.latency, self._free[worker]) + seconds
            done = Done(worker, examples, [(index, PROOF) for index in examples], seconds)
            self._push(self._free[worker] + self._cluster.latency, done)

    def wait(self) -> Sequence[Event]:
        time, _, event = heapq.heappop(self._events)
        self.now = max(self.now, time)
        if isinstance(event, Joined):
            self.starting -= 1
            self._free[event.worker] = self.now
        elif event.worker not in self._free:
            return []  # of a worker that is gone
        elif isinstance(event, Left):
            del self._free[event.worker]
            self._begin()
        else:
            batch, example = self._cluster.writer
            self.now += batch + example * len(event.examples)
        return [event]

    def _begin(self) -> None:
        cluster = self._cluster
        name, joins = f"worker-{len(self._factor)}", self.now + cluster.start
        slow = self._random.random() < cluster.stragglers
        self._factor[name] = cluster.slowness if slow else 1.0
        self.starting += 1
        self._push(joins, Joined(name))
        if cluster.preemptions:
            self._push(joins + self._random.expovariate(cluster.preemptions / 3600), Left(name, "preempted"))

    def _push(self, time: float, event: Event) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))


def simulate(cluster: Cluster, seconds: Sequence[float]) -> Outcome:
    """Certify examples that take so many seconds each on one worker of the cluster."""
    pool = Simulated(cluster, seconds)
    progress = Progress("simulating", len(seconds), visible=False)
    dispatch = Dispatch(range(len(seconds)), pool, lambda _: None, lambda _: True, 4096, progress, tell=lambda _: None)
    dispatch.run()
    return Outcome(pool.now, sum(seconds), cluster.workers)


def measured(folder: Path) -> tuple[list[int], float]:
    """Samples of each example of a certify folder, and the seconds that one took on the machine that it was made on.

    Raises:
        ValueError: the folder does not tell.
    """
    found = [entry for entry in store.entries(folder) if entry.get("samples")]
    lasted = [entry["seconds"] for entry in found if "shard" in entry]
    lasted += [entry["busy_seconds"] for entry in store.entries(folder) if entry.get("event") == "worked"]
    taken = [int(record.certificate.evidence.get("samples", 1)) for record in read(folder)]
    if not taken or not sum(lasted):
        raise ValueError(f"{folder} does not tell how long its certificates took; name a finished certify folder")
    return taken, sum(lasted) / sum(entry["samples"] for entry in found)


def rows(folder: Path, images: int, workers: Sequence[int], cluster: Cluster) -> Iterator[list[str]]:
    """Samples, device hours, wall time and efficiency for each number of workers, for `images` like those of a run."""
    taken, second = measured(folder)
    seconds = [second * samples for samples in itertools.islice(itertools.cycle(taken), images)]
    random.Random(cluster.seed).shuffle(seconds)
    samples = f"{images * sum(taken) / len(taken):,.0f}"
    for count in workers:
        found = simulate(Cluster(**{**vars(cluster), "workers": count}), seconds)
        hours = found.wall * count / 3600
        yield [f"{count:,}", samples, f"{hours:.3g}", clock(found.wall), f"{found.efficiency:.2f}"]
