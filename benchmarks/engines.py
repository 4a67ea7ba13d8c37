"""What handing examples out to workers costs: memory of the writer, time of its own, and how well two workers are used.

    python benchmarks/engines.py memory                     # a million tiny examples, by one worker of Ray
    python benchmarks/engines.py efficiency --rounds 3      # at-radius on digits: one worker, two, one, two, ...
    python benchmarks/engines.py writer                     # one certificate, from the worker's bytes to the disk

All say how loaded the machine was. Efficiency is the rate of two workers, of each from when it is there, over
twice that of one, each kept on one core; overhead by the clock is the time of a worker that is not spent on
certificates, for each example. Beside it, what two processes can do at best: forward passes of the same network in one
process, and in two that know nothing of each other. Cores that are two threads of one, or that share their caches and
clock, stay below 1.

Other work on the machine changes rates by the clock. Overhead by the processor hardly: the seconds of the processor
that the process that writes, all of Ray's and the workers take while workers are there, less those in which these
certify.
"""

import json
import os
import pickle
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import nn

from holdfast import AtRadius, Margin, RayEngine, certify
from holdfast.certification.dispatch import Done, Event, Examples, Joined, Spelled
from holdfast.certification.engines import Processes, ProcessPool, RayPool, _certify_by, _cluster
from holdfast.certification.run import Job, prepare
from holdfast.core.registry import DATASETS
from holdfast.data import Arrays, load
from holdfast.nn.normalize import Normalize
from holdfast.nn.zoo import build
from holdfast.runs.records import RecordWriter, line, read_labels, spelled


@dataclass
class Options:
    """Costs of an engine."""

    what: tyro.conf.Positional[Literal["memory", "efficiency", "writer"]]
    examples: int = 1_000_000
    """Of `memory`."""
    repeats: int = 12
    """Times that `efficiency` takes the 364 digits."""
    r: float = 0.5
    """Radius at which `efficiency` decides, at sigma 0.25: 0.5 takes some 300 samples for an example, 0.1 takes 44."""
    rounds: int = 2
    engine: Literal["ray", "processes"] = "ray"


def main(options: Options) -> None:
    torch.set_num_threads(1)
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    {"memory": memory, "efficiency": efficiency, "writer": writer}[options.what](options)
    print(f"load after: {os.getloadavg()[0]:.1f}")


def memory(options: Options) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.examples, 2, 2, 1), np.uint8)
    DATASETS.add("tiny", lambda split, where: Arrays(images, rng.integers(0, 2, options.examples), 2))
    model = nn.Sequential(Normalize((0.5,), (0.5,)), nn.Flatten(), nn.Linear(4, 2)).eval()
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(model, "tiny", Margin("l2"), runs=folder, device="cpu", engine=_engine(options, 1))
        started = time.perf_counter()
        job.run()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        written = (job.folder / "records-0-of-1.jsonl").read_bytes().count(b"\n")
        lost = options.examples - len(read_labels(job.folder))
        print(f"{written:,} records, {lost} lost, {written - options.examples + lost} doubled")
        print(f"{seconds:.0f} s, {1e6 * seconds / written:.0f} us an example; peak memory of the writer {peak:.2f} GiB")


def writer(options: Options) -> None:
    """Seconds of the processor that the process that writes takes for a certificate, beside what Ray itself takes."""
    torch.manual_seed(0)
    data = load("digits", "test")
    proofs = certify(build("cnn", data.info).eval(), data.pixels(slice(0, 100)), AtRadius(r=(options.r,)), seed=0)
    found = [(index, Spelled(spelled(proof), 0)) for index, proof in enumerate(proofs)]
    sent, seconds = pickle.dumps(Done("worker", tuple(range(len(found))), found, 1.0)), list[float]()
    with tempfile.TemporaryDirectory() as folder, RecordWriter(Path(folder), 0, 1) as records:
        for _ in range(40):
            started = time.process_time()
            received = pickle.loads(sent)
            records.write(b"".join(line(index, 0, told.text) for index, told in received.certificates))
            seconds.append(time.process_time() - started)
    print(f"{1e6 * min(seconds) / len(found):.1f} us a certificate at best, {len(sent) / len(found):.0f} bytes each")


def efficiency(options: Options) -> None:
    digits = DATASETS["digits"]
    DATASETS.add("many-digits", lambda split, where: _repeated(digits(split, where), options.repeats))
    rates: dict[int, list[float]] = {1: [], 2: []}
    alone: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for workers, found in rates.items():
            alone[workers].append(_bare(workers))
            with tempfile.TemporaryDirectory() as folder:
                torch.manual_seed(0)
                model = build("cnn", load("digits", "test").info).eval()
                engine = Watched(_engine(options, workers))
                job = prepare(model, "many-digits", AtRadius(r=(options.r,)), runs=folder, device="cpu", engine=engine)
                job.run()
                found.append(_told(job.folder, engine))
    for what, found in (("efficiency", rates), ("bare forward passes", alone)):
        best, median = (_over(found, statistic) for statistic in (max, np.median))
        print(f"{what}: two over twice one {best:.3f} by the best rounds, {median:.3f} by medians")


class Watched:
    """An engine whose workers are kept on one core each; counts the processor's seconds of all of its processes."""

    def __init__(self, engine: RayEngine | Processes) -> None:
        self.engine = engine
        self.taken: dict[str, float] = {}
        """Seconds of the processor by what took them, from when the first worker was there."""
        self.there = 0.0
        """Seconds by the clock that workers were there, of all together."""

    def certify(self, job: Job) -> None:
        with ExitStack() as stack:
            if isinstance(self.engine, RayEngine):
                pool = RayPool(stack.enter_context(_cluster("local")), self.engine, job)
            else:
                pool = ProcessPool(self.engine.count, job)
            stack.enter_context(closing(pool))
            watched = Watching(pool)
            _certify_by(watched, job, allow_mixed=False)
            ended, now = _processor_seconds(), time.perf_counter()
        self.there = sum(now - joined for joined in watched.workers.values())
        for process, (name, seconds) in ended.items():
            kind = "writer" if process == os.getpid() else "workers" if process in watched.workers else name
            before = watched.begun.get(process, ("", 0.0))[1]
            self.taken[kind] = self.taken.get(kind, 0.0) + seconds - before


class Watching:
    """A pool that keeps its workers on one core each, and looks at the processor when the first one is there."""

    def __init__(self, pool: RayPool | ProcessPool) -> None:
        self.pool, self.workers = pool, dict[int, float]()
        self.begun: dict[int, tuple[str, float]] = {}

    @property
    def starting(self) -> int:
        return self.pool.starting

    def hand_out(self, worker: str, examples: Examples) -> None:
        self.pool.hand_out(worker, examples)

    def wait(self) -> list[Event]:
        events = self.pool.wait()
        for event in events:
            if isinstance(event, Joined):
                process = event.machine["process"]
                os.sched_setaffinity(process, {len(self.workers) % (os.cpu_count() or 1)})
                self.workers[process], now = time.perf_counter(), _processor_seconds()
                self.begun = {**(self.begun or now), process: now[process]}
        return events


def _processor_seconds() -> dict[int, tuple[str, float]]:
    """Of this process and all that came of it: by process, its name and what it has taken."""
    found: dict[int, tuple[str, float]] = {}
    waiting = [os.getpid()]
    while waiting:
        process = waiting.pop()
        with suppress(OSError):  # it has ended
            name, told = Path(f"/proc/{process}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
            ticks = sum(map(int, told.split()[11:13]))  # in user mode, in the system
            found[process] = (name, ticks / os.sysconf("SC_CLK_TCK"))
            for children in Path(f"/proc/{process}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())
    return found


def _over(rates: dict[int, list[float]], statistic: Callable[[list[float]], float]) -> float:
    return float(statistic(rates[2]) / statistic(rates[1]) / 2)


def _bare(processes: int) -> float:
    """Forward passes a second of so many processes that know nothing of each other, all together."""
    with get_context("spawn").Pool(processes) as pool:
        return sum(pool.map(_passes, [5.0] * processes, chunksize=1))


def _passes(seconds: float) -> float:
    torch.set_num_threads(1)
    info, done = load("digits", "test").info, 0
    model, images = build("cnn", info).eval(), torch.rand(256, *info.shape)
    with torch.inference_mode():
        model(images)
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            model(images)
            done += 1
    return done / (time.perf_counter() - started)


def _repeated(arrays: Arrays, times: int) -> Arrays:
    return Arrays(np.tile(arrays.images, (times, 1, 1, 1)), np.tile(arrays.labels, times), arrays.classes)


def _engine(options: Options, workers: int) -> RayEngine | Processes:
    if options.engine == "processes":
        return Processes(workers)
    import ray

    ray.shutdown()
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")  # pyright: ignore[reportArgumentType]
    return RayEngine()


def _told(folder: Path, engine: Watched) -> float:
    """Tell what a run took; its examples for a second of every worker that was there, times the workers."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    worked = [event for event in events if event["event"] == "worked"]
    done = next(event for event in events if event["event"] == "certified")
    examples, rate = done["examples"], len(worked) * done["examples"] / engine.there
    busy, certifying = (sum(event[name] for event in worked) for name in ("busy_seconds", "processor_seconds"))
    beside = {**engine.taken, "workers": engine.taken["workers"] - certifying}
    overhead = sum(beside.values())
    parts = ", ".join(f"{name} {1000 * seconds / examples:.3f}" for name, seconds in beside.items() if seconds > 0.005)
    print(f"{len(worked)} worker(s): {rate:.1f} examples/s, {done['samples'] / examples:.0f} samples each")
    print(f"  overhead by the clock {1000 * (engine.there - busy) / examples:.3f} ms an example")
    print(f"  overhead by the processor {1000 * overhead / examples:.3f} ms, {overhead / certifying:.4f} of certifying")
    print(f"  ({parts}); load {os.getloadavg()[0]:.1f}", flush=True)
    return rate


if __name__ == "__main__":
    main(tyro.cli(Options))
