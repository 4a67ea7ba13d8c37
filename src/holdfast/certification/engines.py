"""Engines with several workers: processes of this machine, or those of Ray; one without is `run.Here`.

    certify_run(model, "cifar10", Gaussian(sigma=0.25), engine=RayEngine("auto", gpus_per_worker=0.5))

One process writes, and hands out: see `dispatch`. A worker that dies loses what it was at; the writer loses nothing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..core.config import check_fields
from ..machine import choose, describe_worker, interrupts_later
from ..progress import Progress, say
from ..runs import store
from ..runs.records import RecordWriter, line, spelled
from .dispatch import Dispatch, Done, Event, Examples, Joined, Left, Pool, Spelled, named
from .driver import EarlierVotes, Ready, drawn, missing
from .parcel import Parcel, packed
from .revise import votes_before
from .task import Certification, same_data, same_model

if TYPE_CHECKING:
    from .run import Job

BYTES = 64e6
"""Of the images of a batch that is sent to a worker, at most."""

LARGEST = 4096
"""Examples of a batch at most: more of them wait too long for the disk."""

LOOK = 5.0
"""Seconds between two looks at what machines a cluster has."""


class Engine(Protocol):
    """Where a certification runs. It changes no record."""

    def certify(self, job: Job) -> None:
        """Add to the folder of a job the records that it lacks, or a share of them; safe to kill and to call again."""
        ...


@dataclass(frozen=True)
class Processes:
    """Several processes of this machine, one GPU each where there are GPUs."""

    count: int
    allow_mixed: bool = False
    """Use processes that vote otherwise than those that the run was started with."""

    def certify(self, job: Job) -> None:
        if choose(job.device).type == "cuda" and self.count > torch.cuda.device_count():
            here = torch.cuda.device_count()
            raise ValueError(f"expected at most {here} devices, the GPUs that are here, got {self.count}")
        with closing(ProcessPool(self.count, job)) as pool:
            _certify_by(pool, job, self.allow_mixed)


@dataclass(frozen=True)
class RayEngine:
    """Workers of a Ray cluster: one per CPU core or GPU, on all machines that it has, as they come and go."""

    address: str = "local"
    """Of the cluster: `auto` for the one that this machine belongs to, `ray://HOST:PORT`, or `local` for one of this
    machine alone."""
    gpus_per_worker: float | None = None
    """GPUs, or a part of one; by default one where the cluster has any, and else none."""
    cpus_per_worker: float = 1
    """CPU cores."""
    allow_mixed: bool = False
    """Use workers that vote otherwise than those that the run was started with."""

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.gpus_per_worker or 0) < 0 or self.cpus_per_worker < 0:
            raise ValueError(f"expected no negative share of a machine for a worker, got {self}")

    def certify(self, job: Job) -> None:
        with _cluster(self.address) as ray, closing(RayPool(ray, self, job)) as pool:
            _certify_by(pool, job, self.allow_mixed)


def _certify_by(pool: Pool, job: Job, allow_mixed: bool) -> None:
    """What the folder of a job lacks, by a pool; this process writes."""
    data, task, started, samples = job.read()[1], job.task, time.perf_counter(), 0
    same_data(job.folder, data, indices := task.indices(len(data)))
    with RecordWriter(job.folder, 0, 1) as writer:
        todo, labels = missing(job.folder, indices, data.labels), data.labels.tolist()
        store.log(job.folder, event="certify", engine=type(job.engine).__name__, examples=len(todo))

        def write(found: Sequence[tuple[int, Spelled]]) -> None:
            nonlocal samples
            samples += sum(spelled.samples for _, spelled in found)
            writer.write(b"".join(line(index, labels[index], spelled.text) for index, spelled in found))

        joined: list[float] = []

        def accepts(worker: Joined) -> bool:
            joined.append(time.perf_counter())
            store.log(job.folder, event="worker", **worker.machine)
            return votes_alike(job, worker) or allow_mixed

        largest = max(1, min(LARGEST, int(BYTES / (4 * torch.Size(data.info.shape).numel()))))
        with Progress("certifying", len(todo)) as progress:
            dispatch = Dispatch(todo, pool, write, accepts, largest, progress)
            dispatch.run()
        for member in dispatch.worked:
            rate = {"examples": member.done, "busy_seconds": round(member.seconds, 1), "rate": round(member.rate, 3)}
            rate["processor_seconds"] = round(member.processor, 3)
            store.log(job.folder, event="worked", worker=member.name, **rate)
        ended = time.perf_counter()
        seconds = {"seconds": round(ended - started, 1), "worked_seconds": round(ended - min(joined, default=ended), 3)}
        store.log(job.folder, event="certified", examples=len(todo), samples=samples, **seconds)


def votes_alike(job: Job, worker: Joined) -> bool:
    """Whether a worker votes as the first one of the run did, whose votes are in probe.json; if not, it is named."""
    path = job.folder / "probe.json"
    if not path.exists():
        content = {"classes": list(worker.probe), "worker": named(worker), "machine": dict(worker.machine)}
        store.write_whole(path, (json.dumps(content) + "\n").encode())
    expected = json.loads(path.read_text())
    pairs = list(zip(expected["classes"], worker.probe, strict=True))
    if not (other := sum(a != b for a, b in pairs)):
        return True
    unlike = {key: value for key, value in worker.machine.items() if expected["machine"].get(key) != value}
    unlike = {key: (expected["machine"].get(key), value) for key, value in unlike.items() if key not in _OWN}
    told = "; ".join(f"{key} {value!r}, there {before!r}" for key, (before, value) in unlike.items())
    say(
        f"worker {named(worker)} votes otherwise than {expected['worker']}, the first of this run, on {other} of "
        f"{len(pairs)} noisy copies ({told or 'the machines and their versions are the same'}); its results are used "
        "only with --allow-mixed"
    )
    return False


_OWN = {"time", "host", "process", "noisy_rows", "changed_classes", "compiling", "runtime_changed"}
"""What differs between two workers that vote alike."""


class Worker:
    """What a worker process holds: the classifier, ready. Its pool calls it `name`."""

    def __init__(self, name: str, task: Certification, device: str, batch_size: int | None, threads: int) -> None:
        self._name, self._task, self._device, self._batch_size = name, task, device, batch_size
        torch.set_num_threads(threads)

    def start(self, parcel: Parcel) -> Joined:
        """Bring the model to the device, and tell how it votes."""
        settings = (parcel.indices, parcel.images, self._device, self._batch_size)
        self._ready = Ready.make(self._task, parcel.model(), *settings)
        machine = describe_worker() | dict(self._ready.facts)
        return Joined(self._name, machine, self._ready.probe(parcel.indices, parcel.images))

    def certify(self, examples: Examples, images: Tensor, votes: EarlierVotes | None = None) -> Done:
        started, worked = time.perf_counter(), time.process_time()
        found = [
            (index, Spelled(spelled(certificate), drawn(index, certificate, votes)))
            for index, certificate in self._ready.certify(examples, images, votes)
        ]
        return Done(self._name, examples, found, time.perf_counter() - started, time.process_time() - worked)


class ProcessPool:
    """Processes of this machine that load the model and the data anew; one that dies is replaced."""

    def __init__(self, count: int, job: Job) -> None:
        self._job, self._begun = replace(job, loaded=None), 0
        self._context = get_context("spawn")
        self._ranks = set(range(count))
        self._running: dict[connection.Connection, tuple[str, int, Any]] = {}
        self._joined: set[str] = set()
        self._busy: set[str] = set()

    @property
    def starting(self) -> int:
        return len(self._running) + len(self._ranks) - len(self._joined)

    def hand_out(self, worker: str, examples: Examples) -> None:
        (pipe,) = (pipe for pipe, (name, *_) in self._running.items() if name == worker)
        self._busy.add(worker)
        with suppress(OSError):  # `wait` tells that it is gone
            pipe.send(examples)

    def wait(self) -> list[Event]:
        while self._ranks:
            self._begin(self._ranks.pop())
        return [self._hear(pipe) for pipe in connection.wait(list(self._running), timeout=0.5)]  # pyright: ignore[reportArgumentType]

    def _begin(self, rank: int) -> None:
        device, count = choose(self._job.device), len(self._running) + len(self._ranks) + 1
        threads = max(1, torch.get_num_threads() // count)
        here = str(torch.device(device.type, rank) if device.type == "cuda" else device)
        self._begun += 1
        ours, theirs = self._context.Pipe()
        name = f"worker-{self._begun}"
        process = self._context.Process(target=_serve, args=(theirs, name, self._job, here, threads), daemon=True)
        with interrupts_later():
            process.start()
        theirs.close()
        self._running[ours] = (name, rank, process)

    def _hear(self, pipe: Any) -> Event:
        name, rank, process = self._running[pipe]
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            process.join()
            del self._running[pipe]
            self._joined.discard(name)
            self._ranks.add(rank)
            return Left(name, f"exit code {process.exitcode}")
        if isinstance(message, Exception):
            raise message
        self._joined.add(name)
        self._busy.discard(name)
        return message

    def close(self) -> None:
        """End all of them, those that work too, in a way that leaves nothing behind."""
        for pipe, (name, _, process) in self._running.items():
            pipe.close()
            if name not in self._joined - self._busy:
                process.terminate()
        for *_, process in self._running.values():
            process.join(10)
            process.kill()


def _serve(pipe: Any, name: str, job: Job, device: str, threads: int) -> None:
    """The life of a process of `ProcessPool`; Ctrl-C is for the one that writes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        model, data = job.read()
        same_model(job.task, job.source.identity(model))
        worker, votes = Worker(name, job.task, device, job.batch_size, threads), votes_before(job.folder)
        pipe.send(worker.start(Parcel.of(job.task, lambda: model, data)))
        while True:
            examples = pipe.recv()
            pipe.send(worker.certify(examples, data.pixels(torch.tensor(examples)), votes))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the process that writes is gone
    except Exception as error:  # a user's code may raise anything
        pipe.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """An error, or one that tells it: not all can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class RayPool:
    """Actors of a Ray cluster: as many as its machines have room for, looked at now and then."""

    def __init__(self, ray: Any, engine: RayEngine, job: Job) -> None:
        self._ray, self._engine, self._job, self._data = ray, engine, job, job.read()[1]
        self._gpus = engine.gpus_per_worker
        if self._gpus is None:
            self._gpus = 1.0 if job.device != "cpu" and ray.cluster_resources().get("GPU") else 0.0
        shares = {"GPU": self._gpus, "CPU": engine.cpus_per_worker}
        self._share = {kind: share for kind, share in shares.items() if share}
        """What a worker takes of a machine."""
        self._parcel = ray.put(
            packed(job.read()[0], job.source.load, job.task, self._data, ray.cloudpickle.CloudPickler)
        )
        self._actors: dict[str, Any] = {}
        self._pending: dict[Any, tuple[str, Examples]] = {}
        """What is asked for, with the worker and the examples; none of them while it starts."""
        self._votes = votes_before(job.folder)
        self._begun, self._looked = 0, -math.inf
        if not self._room():
            raise ValueError(
                f"no machine of the cluster has room for a worker, which takes {_told(self._share)}; at most there are "
                f"{_told({kind: max(here.get(kind, 0) for here in self._machines()) for kind in self._share})}"
            )

    @property
    def starting(self) -> int:
        return sum(not examples for _, examples in self._pending.values())

    def _room(self) -> int:
        """Workers that the machines of the cluster can hold."""
        return sum(
            min(int(here.get(kind, 0) / share + 1e-9) for kind, share in self._share.items())
            for here in self._machines()
        )

    def _machines(self) -> list[dict[str, float]]:
        """What each machine has of what there is, such as CPU and GPU."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _hire(self) -> None:
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        kind, cores = self._ray.remote(Worker), self._engine.cpus_per_worker
        for _ in range(self._room() - len(self._actors)):
            self._begun += 1
            name = f"worker-{self._begun}"
            settings = (name, self._job.task, "cuda" if self._gpus else "cpu", self._job.batch_size, max(1, int(cores)))
            actor = kind.options(num_cpus=cores, num_gpus=self._gpus).remote(*settings)
            self._actors[name] = actor
            self._pending[actor.start.remote(self._parcel)] = (name, ())

    def hand_out(self, worker: str, examples: Examples) -> None:
        images = self._data.pixels(torch.tensor(examples))
        votes = {index: self._votes[index] for index in examples} if self._votes else None
        self._pending[self._actors[worker].certify.remote(examples, images, votes)] = (worker, examples)

    def wait(self) -> list[Event]:
        self._hire()
        if not self._pending:
            time.sleep(0.2)
            return []
        asked = list(self._pending)
        ready, _ = self._ray.wait(asked, timeout=1.0)
        if ready:
            ready, _ = self._ray.wait(asked, num_returns=len(asked), timeout=0)
        return [event for answer in ready if (event := self._hear(answer))]

    def _hear(self, answer: Any) -> Event | None:
        errors = self._ray.exceptions
        if answer not in self._pending:
            return None  # of a worker that was found dead just now
        name, examples = self._pending.pop(answer)
        try:
            return self._ray.get(answer)
        except errors.RayTaskError as error:
            if examples:
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            return Joined(name, error=str(error.cause))
        except errors.RayError as error:
            self._ray.kill(self._actors.pop(name))
            self._pending = {asked: held for asked, held in self._pending.items() if held[0] != name}
            return Left(name, " ".join(str(error).split())[:200])

    def close(self) -> None:
        """End all of them."""
        for actor in self._actors.values():
            self._ray.kill(actor)


def _told(share: Mapping[str, float]) -> str:
    return " and ".join(f"{count:g} {kind}" for kind, count in share.items())


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """The library Ray, connected; what was connected before stays so."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports home otherwise
        import ray
        from ray.exceptions import RayError
    except ImportError:
        raise ValueError("several machines need Ray, which is not installed: pip install 'holdfast[ray]'") from None
    before = ray.is_initialized()
    if not before:
        _refuse_silence(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise ValueError(f"there is no Ray cluster at {address!r}: {error}") from error
    try:
        yield ray
    finally:
        if not before:
            ray.shutdown()


def _refuse_silence(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself goes on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"there is no Ray cluster at {address!r}: {error}") from None
