"""Kills at random, real ones: workers of Ray, nodes of Ray and the process that writes; then the records are compared.

    python benchmarks/kills.py --kills 1000 --minutes 45

Runs of the digits, a hundred noisy copies for each, take place one after the other on a Ray cluster that is played by
one machine. While one runs, at random moments, by --seed: a worker gets SIGKILL, at work or just starting; or the
process that writes does, and is begun again, of which the run's folder is all that it finds; or a node is taken away,
with SIGKILL to its processes, and another one joins. What a run left is compared with what one process alone writes,
line by line and byte by byte: only the order may differ. The kills that count are those that happened.

Stopped and started again, it continues: FOLDER/kills.jsonl tells what has been.

A worker waits a while for each example, so that the processor is free to start those that come after the dead ones; it
is a fork of a process that has imported torch (see `mold`).
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from mold import Child, Mold
from torch import Tensor, nn

from holdfast import Gaussian, RayEngine
from holdfast.certification import dispatch, engines
from holdfast.certification.dispatch import Done, Examples
from holdfast.certification.driver import EarlierVotes
from holdfast.certification.identity import as_program
from holdfast.certification.run import Job, prepare
from holdfast.data import load
from holdfast.machine import describe_worker
from holdfast.progress import clock

KINDS = {"worker": 0.85, "writer": 0.10, "node": 0.05}
"""What is killed, and how often."""

BUSY = "ray::Slow.certify"
"""What Ray calls a worker that is at work: three of four that are killed are, the others are whatever they are."""

SHORT = 0.3
"""Seconds of work that a worker is given at a time, and between two looks at what machines there are."""

WAIT = 0.2
"""Seconds that a worker waits for an example."""

STUCK = 180.0
"""Seconds without a new record that are a hang."""


@dataclass
class Options:
    """Random kills of a certification on Ray."""

    folder: Path = Path("kills")
    """Where the runs and kills.jsonl go."""
    kills: int = 1000
    minutes: float = 45.0
    """Stop after so many, whether or not that many kills have been."""
    seed: int = 0
    pause: float = 1.0
    """Seconds from one kill to the next, on average."""
    nodes: int = 2
    cores: int = 2
    """Workers of each node."""


def warm() -> None:
    """Do once, before the forks, what takes long the first time: importing, compiling, asking git for the commit."""
    for name in ("aiohttp", "google.protobuf", "jsonschema", "requests", "yaml"):  # not Ray: it reads its environment
        import_module(name)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        job(folder, seed=0, limit=8).run()
    describe_worker()


@cache
def network() -> nn.Module:
    """A linear classifier of digits, as the program that is certified."""
    torch.manual_seed(0)
    return as_program(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), load("digits", "test").info.shape)


class Slow(engines.Worker):
    """A worker that waits."""

    def certify(self, examples: Examples, images: Tensor, votes: EarlierVotes | None = None) -> Done:
        time.sleep(WAIT * len(examples))
        done = super().certify(examples, images, votes)
        return replace(done, seconds=done.seconds + WAIT * len(examples))


def certify(folder: str, seed: str, address: str = "") -> None:
    """In a fork: certify into a folder, by this process alone or by the workers of a cluster."""
    dispatch.SPAN = engines.LOOK = SHORT
    engines.Worker = Slow
    job(folder, int(seed), engine=RayEngine(address) if address else None).run()


def job(folder: str, seed: int, **settings: Any) -> Job:
    """The certification of a run."""
    return prepare(network(), "digits", Gaussian(0.25, n=100), runs=folder, device="cpu", seed=seed, **settings)


class Tally:
    """What has been, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self.kills, self.runs, self.gave_up = path, Counter[str](), list[dict[str, Any]](), 0
        for line in path.read_text().splitlines() if path.exists() else ():
            self._count(json.loads(line))

    def _count(self, event: dict[str, Any]) -> None:
        if "kill" in event:
            self.kills[event["kind"]] += 1
        elif "gave_up" in event:
            self.gave_up += 1
        else:
            self.runs.append(event)

    def tell(self, **event: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")
        self._count(event)

    def words(self) -> str:
        kinds = ", ".join(f"{self.kills[kind]} {kind}s" for kind in KINDS)
        found = ", ".join(f"{sum(run[what] for run in self.runs)} {what}" for what in ("lost", "doubled", "different"))
        records = sum(run["records"] for run in self.runs)
        ended = f"{len(self.runs)} runs ended, {self.gave_up} times one gave up, {records:,} records"
        return f"{self.kills.total()} kills ({kinds}); {ended}: {found}"


@contextmanager
def played(options: Options) -> Iterator[tuple[Any, Mold]]:
    """A cluster on this machine: a head without workers, and nodes."""
    from ray.cluster_utils import Cluster

    mold = Mold("kills")
    worker = {"setup_worker_path": str(Path(__file__).with_name("mold.py"))}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **worker})
    cluster.add_node = partial(cluster.add_node, num_cpus=options.cores, **worker)
    try:
        for _ in range(options.nodes):
            begun(cluster.add_node)
        yield cluster, mold
    finally:
        mold.close()
        cluster.shutdown()


def begun(start: Callable[[], Any]) -> Any:
    """A node that was started: Ray gives one up that has not come in half a minute, as on a busy machine."""
    for left in range(9, -1, -1):
        try:
            return start()
        except Exception as error:
            if not left:
                raise
            print(f"a node did not start, another one is: {error}", flush=True)


class Killer:
    """Does one run after the other, and kills."""

    def __init__(self, options: Options, tally: Tally, cluster: Any, mold: Mold) -> None:
        self._options, self._tally, self._cluster, self._mold = options, tally, cluster, mold
        self._rng = random.Random(f"{options.seed} {tally.kills.total()}")
        self._next = self._drawn()
        self._ends = time.monotonic() + 60 * options.minutes
        self._started, self._before, self._spoke = time.monotonic(), tally.kills.total(), -1e9

    @property
    def over(self) -> bool:
        return self._tally.kills.total() >= self._options.kills or time.monotonic() > self._ends

    def run(self, number: int) -> None:
        """One run, killed at random moments until it is done; then compare."""
        folder = self._options.folder / f"run-{number}"
        folder.mkdir(exist_ok=True)
        self._begun = time.time()
        seed, told = str(1000 * self._options.seed + number), folder / "output.txt"
        alone = self._mold.cast("certify", str((folder / "alone").resolve()), seed, output=told)
        settings = (str((folder / "ray").resolve()), seed, self._cluster.address)
        while not complete(folder / "ray"):
            writer, killed = self._mold.cast("certify", *settings, output=told), False
            while not writer.ended(self._rng.expovariate(1 / self._options.pause)):
                if not self.over:
                    killed |= self._kill(number, writer) == "writer"
                self._watch(folder / "ray")
            if not killed and not complete(folder / "ray"):
                print(f"the writer of run {number} gave up: {told.read_text()[-600:]}", flush=True)
                self._tally.tell(gave_up=number)
        while not alone.ended(1.0):
            pass
        self._tally.tell(run=number, **compared(folder))

    def _kill(self, run: int, writer: Child) -> str | None:
        """Kill what is next to be killed, if it is there."""
        (kind, busy), workers, process = self._next, self._workers(), 0
        able = [process for process, doing in workers.items() if not busy or doing == BUSY]
        if kind == "node":
            self._cluster.remove_node(self._rng.choice(list(self._cluster.worker_nodes)), allow_graceful=False)
            begun(self._cluster.add_node)
        elif not (victims := [writer.process] if kind == "writer" else able):
            return None
        else:
            process = self._rng.choice(victims)
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:  # it has just ended
                return None
        doing = workers[process] if kind == "worker" else f"{len(workers)} workers"
        told = {"kind": kind, "doing": doing, "run": run, "time": round(time.time(), 2)}
        self._tally.tell(kill=self._tally.kills.total() + 1, **told)
        self._next = self._drawn()
        return kind

    def _drawn(self) -> tuple[str, bool]:
        """What is killed next, and of a worker, whether it must be at work."""
        return self._rng.choices(list(KINDS), list(KINDS.values()))[0], self._rng.random() < 0.75

    def _workers(self) -> dict[int, str]:
        """The processes of workers, with what each is doing, as Ray names it."""
        return {process: name for process, name in self._mold.offspring() if name.startswith("ray::Slow")}

    def _watch(self, folder: Path) -> None:
        """Tell how far it is; stop where nothing moves."""
        if time.monotonic() - self._spoke < 10:
            return
        self._spoke = now = time.monotonic()
        new = self._tally.kills.total() - self._before
        left = min(self._ends - now, (self._options.kills - new - self._before) * (now - self._started) / max(new, 1))
        print(f"{clock(now - self._started)}, {clock(max(left, 0))} left: {self._tally.words()}", flush=True)
        files = [path.stat().st_mtime for path in folder.glob("*/certify-*/records-*")]
        if time.time() - max([self._begun, *files]) > STUCK:
            raise RuntimeError(f"no record for {STUCK:g} s in {folder}: it hangs")


def complete(runs: Path) -> bool:
    """Whether the writer has told that all is done."""
    return any('"certified"' in path.read_text() for path in runs.glob("*/certify-*/log.jsonl"))


def compared(folder: Path) -> dict[str, int]:
    """The records of a run beside those of one process alone, by example and byte by byte."""
    (expected,), (found,) = ([*folder.glob(f"{name}/*/certify-*/records-*.jsonl")] for name in ("alone", "ray"))
    there = {json.loads(line)["index"]: line for line in expected.read_bytes().splitlines(keepends=True)}
    lines = found.read_bytes().splitlines(keepends=True)
    by_index = Counter(json.loads(line)["index"] for line in lines)
    return {
        "records": len(there),
        "lost": len(there.keys() - by_index.keys()),
        "doubled": sum(count - 1 for count in by_index.values()),
        "different": sum(line != there.get(json.loads(line)["index"]) for line in lines),
    }


def main(options: Options) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    tally = Tally(options.folder / "kills.jsonl")
    try:
        with played(options) as (cluster, mold):
            killer = Killer(options, tally, cluster, mold)
            while not killer.over:
                killer.run(len(tally.runs))
    finally:
        print(f"{tally.words()}; load {os.getloadavg()[0]:.1f}")
    sys.exit(any(run["lost"] or run["doubled"] or run["different"] for run in tally.runs))


if __name__ == "__main__":
    main(tyro.cli(Options))
