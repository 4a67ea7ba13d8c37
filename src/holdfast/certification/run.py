"""`certify_run`: a data set certified into a folder, in one process or many, resumed where it stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from ..core.certifier import Certifier
from ..data import Images, default_split, load
from ..machine import choose
from ..progress import Progress
from ..runs import store
from ..runs.certified import CertifiedRun
from ..runs.records import count_records
from .checks import check, check_certifier, check_classes
from .driver import certify_share
from .identity import model_hash, parts_of
from .look import FirstLook, first_look
from .precision import default_batch_size, in_precision, seconds_per_image
from .revise import earlier, revises, votes_before
from .task import Certification, of_other_models, open_certification

EXPLAINED = 8
"""Images that a certifier may look at to explain a classifier."""


class ModelSource(Protocol):
    """Where a model comes from; it can be sent to another process, which loads the model anew."""

    def load(self) -> nn.Module: ...

    def identity(self, model: nn.Module) -> str:
        """Of what `load` gave."""
        ...

    def folder(self, runs: Path, identity: str) -> Path:
        """Where certify folders of this model go."""
        ...

    def facts(self, model: nn.Module) -> Mapping[str, Any]:
        """What run.json should tell of the model besides, such as where its parts come from."""
        ...


@dataclass(frozen=True)
class Given:
    """A model at hand, as a source."""

    model: nn.Module

    def load(self) -> nn.Module:
        return self.model

    def identity(self, model: nn.Module) -> str:
        return model_hash(model)

    def folder(self, runs: Path, identity: str) -> Path:
        return runs / f"{type(self.model).__name__.lower()}-{identity}"

    def facts(self, model: nn.Module) -> Mapping[str, Any]:
        return parts_of(model)


@dataclass(frozen=True)
class Job:
    """A certification that was checked and can be run: nothing is written before `run`."""

    source: ModelSource
    task: Certification
    folder: Path
    """The certify folder."""
    device: str
    batch_size: int | None
    devices: int
    shard: tuple[int, int] | None
    data_dir: Path | None
    loaded: tuple[nn.Module, Images] | None = field(default=None, repr=False, compare=False)
    """What the check has read already; left behind when the job is sent to another process."""

    @property
    def examples(self) -> int:
        """Examples that the finished run has."""
        return len(self.task.indices(len(self.read()[1])))

    def read(self) -> tuple[nn.Module, Images]:
        """The model and the data set."""
        return self.loaded or (self.source.load(), load(self.task.dataset, self.task.split, self.data_dir))

    def seconds(self) -> float:
        """How long it can take at most in one process, by a measured forward pass."""
        model, data = self.read()
        device = choose(self.device)
        model = in_precision(model.to(device), self.task.precision)
        batch_size = self.batch_size or default_batch_size(device)
        once = seconds_per_image(model, torch.zeros(data.info.shape, device=device), batch_size)
        return self.examples * self.task.certifier.samples() * once

    def look(self) -> FirstLook:
        """What the model says of a few images of the data set, plainly and under the noise; in float32."""
        model, data = self.source.load(), self.read()[1]
        device = choose(self.device)
        return first_look(model.to(device), data.to(device), self.task.certifier, self.batch_size)

    def others(self) -> list[Path]:
        """Folders with the same settings for a model of another identity, whose records are not used."""
        return of_other_models(self.task, self.folder)

    def earlier(self) -> Path | None:
        """The finished run with fewer samples whose votes this one goes on from, if there is one."""
        data = self.read()[1]
        return earlier(self.task, self.folder, data.checksums(self.task.indices(len(data))))

    def run(self) -> CertifiedRun:
        """Do the share that was asked for, or the one that torchrun or SLURM gives this process, or all of it."""
        model, data = self.read()
        before = self.earlier()
        facts = dict(self.source.facts(model))
        if before:
            facts["revises"] = revises(before, self.task.certifier)
        open_certification(self.task, self.folder, data, self.folder.parent.name, facts)
        if self.devices > 1:
            _spawn(replace(self, loaded=None))
        else:
            outside = _from_environment()
            device = choose(self.device)
            if outside and device.type == "cuda":
                device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))
            self.certify(self.shard or outside or (0, 1), device, visible=True)
        explain(self.task, model, data, self.folder)
        return CertifiedRun.open(self.folder)

    def certify(self, shard: tuple[int, int], device: torch.device, visible: bool) -> None:
        """Certify a share of the examples in this process."""
        model, data = self.read()
        settings: dict[str, Any] = {"device": device, "batch_size": self.batch_size, "shard": shard, "visible": visible}
        settings["votes"] = votes_before(self.folder)
        certify_share(self.task, model, data, self.folder, identity=self.source.identity(model), **settings)


def prepare(
    model: nn.Module | ModelSource,
    dataset: str,
    certifier: Certifier,
    *,
    split: str | None = None,
    every: int = 1,
    start: int = 0,
    limit: int | None = None,
    seed: int = 0,
    precision: str = "32-true",
    runs: Path | str = "runs",
    device: str = "auto",
    devices: int = 1,
    shard: tuple[int, int] | None = None,
    batch_size: int | None = None,
    data_dir: Path | None = None,
) -> Job:
    """Check all that `certify_run` is asked for, before anything is written; arguments and errors are the same."""
    check_certifier(certifier)
    split = split or default_split(dataset, data_dir)
    if devices < 1 or (devices > 1 and shard):
        raise ValueError(
            f"expected one process or more, and either several processes or a shard, got {devices} and {shard}"
        )
    source = Given(model) if isinstance(model, nn.Module) else model
    network, where = source.load(), choose(device)
    identity = source.identity(network)
    task = Certification(certifier, identity, dataset, split, every, start, limit, seed, precision)
    data = load(dataset, split, data_dir)
    task.indices(len(data))
    computing = in_precision(network.to(where), precision)
    certifier.require(computing)
    if certifier.sampling is not None:
        certifier.sampling.refuse_seed(seed)
    rows = check(computing, data.pixels(slice(0, 2)).to(where), batch_size or default_batch_size(where))
    certifier.bind(computing, rows)
    check_classes(computing, rows, data.info.classes, dataset)
    folder = source.folder(Path(runs), identity) / f"certify-{task.fingerprint()}"
    return Job(source, task, folder, device, batch_size, devices, shard, data_dir, (network, data))


def certify_run(model: nn.Module | ModelSource, dataset: str, certifier: Certifier, **settings: Any) -> CertifiedRun:
    """Certify a data set into a folder; killed and called again, it continues.

    Args:
        model: maps images in [0, 1] to logits (batch, class), in eval mode; or where one comes from, such as
            `holdfast.opening.Source("runs/NAME")`, whose folder the records then go to.
        dataset: name of the data set.
        certifier: for example `holdfast.Gaussian(sigma=0.25)`.
        split: by default what the data set's test split is called.
        every, start, limit: which examples: every k-th from the first on, at most so many.
        seed: the noise of an example follows from it and from the example's index.
        precision: numbers the model computes with; that function is the certified one.
        runs: folder for the runs of models that have none of their own.
        device, devices, shard, batch_size: the machine; they change no record.
        data_dir: where named data sets are looked up first.

    Returns:
        the records so far, which are all of them unless a shard was asked for.

    Raises:
        ValueError: the model, the data or a setting cannot be certified, or the folder holds something else.
    """
    return prepare(model, dataset, certifier, **settings).run()


def explain(task: Certification, model: nn.Module, data: Images, folder: Path) -> None:
    """Write explanation.json: what the certifier says about the classifier as a whole, unless it is there.

    Args:
        model: in eval mode.
        data: the data set of the task.
    """
    path = folder / "explanation.json"
    if path.exists():
        return
    like = next(model.parameters(), torch.zeros(()))
    some = data.pixels(torch.tensor(task.indices(len(data))[:EXPLAINED])).to(like.device)
    if found := task.certifier.explain(model, some):
        store.write_whole(path, (json.dumps(found, indent=2) + "\n").encode())


def _from_environment() -> tuple[int, int] | None:
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if int(os.environ.get(size, "1")) > 1 and rank in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return None


def _spawn(job: Job) -> None:
    device, processes = choose(job.device), job.devices
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(
            f"expected at most {torch.cuda.device_count()} devices, the GPUs that are here, got {processes}"
        )
    threads = max(1, torch.get_num_threads() // processes)
    context = spawn(_work, args=(job, device.type, threads), nprocs=processes, join=False)
    total = store.read_run(job.folder)["total"]
    with Progress(f"certifying, {processes} processes", total) as progress:
        done = 0
        while context is not None and not context.join(timeout=1):
            now = count_records(job.folder)
            progress.advance(now - done)
            done = now
            time.sleep(0.2)
        progress.advance(count_records(job.folder) - done)


def _work(rank: int, job: Job, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    here = torch.device(device, rank) if device == "cuda" else torch.device(device)
    job.certify((rank, job.devices), here, visible=False)
