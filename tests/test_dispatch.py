"""Examples handed out to workers that come, go, die and vote otherwise: none lost, none doubled, the same records."""

import itertools
import json
import os
import pickle
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import HalfSpace, images
from torch import nn

from holdfast import Gaussian
from holdfast.certification import engines
from holdfast.certification.dispatch import Dispatch, Done, Event, Examples, Joined, Left, Pool, Spelled
from holdfast.certification.engines import Processes, ProcessPool, votes_alike
from holdfast.certification.run import Job, prepare
from holdfast.core.certificate import Record
from holdfast.core.recipe import DataInfo
from holdfast.data import Dataset
from holdfast.progress import Progress
from holdfast.runs.records import read_records, spelled

COUNT = 40
DATA = Dataset(
    DataInfo("toy", (3, 4, 4), 2, (0.5,) * 3, (0.5,) * 3),
    "test",
    (255 * images(COUNT)).round().to(torch.uint8),
    torch.arange(COUNT) % 2,
)


class Simulated:
    """A pool whose workers take random times and die at random: without processes, and without waiting.

    Args:
        know: the certificate of every example.
        kills: how many workers still die; some with an answer on its way that arrives after they were given up.
    """

    def __init__(self, know: dict[int, Spelled], kills: list[int], rng: random.Random, writer_dies: bool) -> None:
        self._know, self._kills, self._rng, self._writer_dies = know, kills, rng, writer_dies
        self._held: dict[str, list[Examples]] = {}
        self._late: list[Done] = []
        self._begun = 0
        self.starting = 0

    def hand_out(self, worker: str, examples: Examples) -> None:
        self._held[worker].append(examples)

    def wait(self) -> Sequence[Event]:
        if self._writer_dies and self._rng.random() < 0.2:
            raise KeyboardInterrupt
        if len(self._held) < 3:
            self._begun += 1
            self._held[f"worker-{self._begun}"] = []
            return [Joined(f"worker-{self._begun}")]
        if self._late and self._rng.random() < 0.3:
            return [self._late.pop()]
        name = self._rng.choice(list(self._held))
        if self._kills[0] and self._rng.random() < 0.4:
            self._kills[0] -= 1
            held = self._held.pop(name)
            if held and self._rng.random() < 0.3:
                self._late.append(self._done(name, held[0]))
            return [Left(name, "killed")]
        return [self._done(name, self._held[name].pop(0))] if self._held[name] else []

    def _done(self, name: str, examples: Examples) -> Done:
        return Done(name, examples, [(i, self._know[i]) for i in examples], self._rng.expovariate(1 / len(examples)))


def job_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Job:
    monkeypatch.setattr("holdfast.certification.run.load", lambda *_: DATA)
    return prepare(HalfSpace(), "toy", Gaussian(0.5, n=100), split="test", runs=folder, device="cpu", **settings)


def records_of(job: Job) -> list[Record]:
    job.run()
    return read_records(job.folder)


def test_a_thousand_kills_of_workers_and_writers_end_in_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what is killed is simulated, and thousands of them take minutes
    job = job_of(tmp_path, monkeypatch)
    whole = records_of(job)
    know = {record.index: Spelled(spelled(record.certificate), 200) for record in whole}
    rng, workers, writers = random.Random(0), 0, 0
    while min(workers, writers) < 500:
        kills = [rng.randrange(30)]
        workers += kills[0]
        again = replace(job, folder=tmp_path / f"killed-{workers}-{writers}" / "certify")
        for deaths in range(rng.randrange(30), -1, -1):  # the last writer lives
            pool = Simulated(know, kills, rng, writer_dies=deaths > 0)
            try:
                replace(again, engine=By(pool)).run()
            except KeyboardInterrupt:
                writers += 1
                torn(again.folder / "records-0-of-1.jsonl", rng)
        workers -= kills[0]
        assert read_records(again.folder) == whole
        assert (again.folder / "records-0-of-1.jsonl").read_bytes().count(b"\n") == COUNT


def torn(file: Path, rng: random.Random) -> None:
    """What a writer leaves that dies while it writes."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - rng.randrange(min(40, len(whole) + 1))])


class By:
    """An engine with a given pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def certify(self, job: Job) -> None:
        engines._certify_by(self._pool, job, allow_mixed=True)


class Odd(Exception):
    """One that can be sent and not be received."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def test_an_error_that_cannot_be_sent_is_told() -> None:
    """A worker that died of sending it was begun again and again."""
    known = ValueError("as it is")
    assert engines._portable(known) is known
    assert str(pickle.loads(pickle.dumps(engines._portable(Odd("one", "two"))))) == "Odd: one two"


def dispatch(pool: Pool, count: int, accepts: Callable[[Joined], bool] = lambda _: True) -> list[int]:
    found: list[int] = []
    progress = Progress("certifying", count, visible=False)
    Dispatch(range(count), pool, lambda new: found.extend(i for i, _ in new), accepts, 4096, progress).run()
    return found


class Script:
    """A pool that plays events: each is a function of what was handed out so far."""

    starting = 0

    def __init__(self, *events: Callable[[dict[str, list[Examples]]], Event]) -> None:
        self._events, self.handed = list(events), dict[str, list[Examples]]()

    def hand_out(self, worker: str, examples: Examples) -> None:
        self.handed.setdefault(worker, []).append(examples)

    def wait(self) -> Sequence[Event]:
        return [self._events.pop(0)(self.handed)]


PROOF = Spelled("", 0)


def answer(worker: str, number: int, seconds: float = 1.0) -> Callable[[dict[str, list[Examples]]], Event]:
    def made(handed: dict[str, list[Examples]]) -> Event:
        examples = handed[worker][number]
        return Done(worker, examples, [(index, PROOF) for index in examples], seconds)

    return made


def joins(worker: str) -> Callable[[object], Event]:
    return lambda _: Joined(worker)


def test_a_worker_that_hangs_holds_nobody_up() -> None:
    pool = Script(joins("slow"), joins("fast"), answer("fast", 0), answer("fast", 1), answer("fast", 2))
    pool._events.append(answer("fast", 3))
    assert sorted(dispatch(pool, 4)) == [0, 1, 2, 3]
    assert set(pool.handed["fast"][2]) | set(pool.handed["fast"][3]) == {0, 1}  # copies of what slow holds


def test_batches_grow_to_seconds_of_work_and_shrink_towards_the_end() -> None:
    pool = Script(joins("one"), *(answer("one", number, 1e-3) for number in range(40)))
    assert sorted(dispatch(pool, 20_000)) == list(range(20_000))
    sizes = [len(examples) for examples in pool.handed["one"]]
    assert sizes[:2] == [1, 1]
    assert max(sizes) == 4096
    assert sizes[-1] == 1
    assert all(after <= 8 * before for before, after in itertools.pairwise(sizes))


def test_an_example_that_kills_every_worker_is_given_up_after_the_others_are_done() -> None:
    class Poison(Simulated):
        def wait(self) -> Sequence[Event]:
            if len(self._held) < 2:
                return super().wait()
            name = self._rng.choice([name for name, held in self._held.items() if held])
            if 3 in self._held[name][0]:
                self._held.pop(name)
                return [Left(name, "out of memory")]
            return [self._done(name, self._held[name].pop(0))]

    found: list[int] = []
    pool = Poison(dict.fromkeys(range(50), PROOF), [0], random.Random(0), writer_dies=False)
    pool._rng = random.Random(0)
    progress = Progress("certifying", 50, visible=False)
    work = Dispatch(range(50), pool, lambda new: found.extend(i for i, _ in new), lambda _: True, 1, progress)
    with pytest.raises(
        ValueError, match="workers in a row died before one certified anything; the last: out of memory"
    ):
        work.run()
    assert sorted(found) == [index for index in range(50) if index != 3]


class TestOtherVotes:
    @staticmethod
    def worker(name: str, classes: list[int], torch: str = "2.13") -> Joined:
        return Joined(name, {"host": name, "process": 1, "torch": torch}, classes)

    def test_a_worker_that_votes_otherwise_is_named_with_what_differs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        job = replace(job_of(tmp_path, monkeypatch), folder=tmp_path)
        assert votes_alike(job, self.worker("a", [0, 1, 1]))
        assert votes_alike(job, self.worker("b", [0, 1, 1], torch="2.9"))
        assert not votes_alike(job, self.worker("c", [0, 1, 0], torch="2.9"))
        told = capsys.readouterr().err
        assert "worker c:1 votes otherwise than a:1, the first of this run, on 1 of 3 noisy copies" in told
        assert "torch '2.9', there '2.13'" in told
        assert json.loads((tmp_path / "probe.json").read_text())["classes"] == [0, 1, 1]

    def test_it_is_given_no_work(self) -> None:
        pool = Script(joins("odd"), joins("good"), answer("good", 0), answer("good", 1))
        pool.starting = 1
        assert sorted(dispatch(pool, 2, accepts=lambda worker: worker.worker == "good")) == [0, 1]
        assert "odd" not in pool.handed

    def test_with_none_that_can_be_used_the_work_ends(self) -> None:
        with pytest.raises(ValueError, match="no worker can be used"):
            dispatch(Script(joins("odd")), 2, accepts=lambda _: False)


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_an_interrupt_while_processes_start_is_for_the_one_that_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    job = prepare(model, "digits", Gaussian(0.25, n=100), runs=tmp_path, devices=2, limit=4, device="cpu")
    real = ProcessPool._begin

    def interrupted(self: ProcessPool, rank: int) -> None:
        real(self, rank)
        for *_, process in self._running.values():
            os.kill(process.pid, signal.SIGINT)

    monkeypatch.setattr(ProcessPool, "_begin", interrupted)
    assert len(records_of(job)) == 4
    told = capfd.readouterr().err
    assert "is gone" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize("busy", [False, True])
def test_processes_end_by_themselves(busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Python warns at the end of semaphores that they left; what two have begun, one may still be at."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    job = prepare(model, "digits", Gaussian(0.25, n=100), runs=tmp_path, devices=2, limit=4, device="cpu")
    real, codes = ProcessPool.close, []

    def close(self: ProcessPool) -> None:
        processes = [process for *_, process in self._running.values()]
        while self.starting:
            self.wait()
        if busy:
            self.hand_out("worker-1", (0,))
        real(self)
        codes.extend(process.exitcode for process in processes)

    monkeypatch.setattr(ProcessPool, "close", close)
    assert len(records_of(job)) == 4
    assert codes == [0, 0]


@pytest.mark.skipif(os.name == "nt", reason="kills a process by a POSIX signal")
def test_a_process_that_is_killed_is_replaced_and_its_examples_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    settings: dict[str, Any] = {"limit": 40, "device": "cpu"}
    job = prepare(model, "digits", Gaussian(0.25, n=100), runs=tmp_path, devices=2, **settings)
    assert job.engine == Processes(2)
    real, killed = ProcessPool._hear, []

    def kills_the_first_that_joins(self: ProcessPool, pipe: Any) -> Event:
        event = real(self, pipe)
        if not killed:
            killed.append(event)
            process = self._running[pipe][2]
            os.kill(process.pid, signal.SIGKILL)
            process.join()  # on a busy machine the other could do all the work before this one has ended
        return event

    monkeypatch.setattr(ProcessPool, "_hear", kills_the_first_that_joins)
    found = records_of(job)
    assert f"is gone (exit code -{int(signal.SIGKILL)})" in capsys.readouterr().err
    alone = prepare(model, "digits", Gaussian(0.25, n=100), runs=tmp_path / "alone", **settings)
    assert found == records_of(alone)
