"""`certify_run`: a data set certified into a folder, in one process or many, resumed where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..core.arguments import integer
from ..core.certifier import Certifier
from ..data import Images, default_split, load
from ..machine import choose, launched
from ..nn.stored import program_of
from ..runs import store
from ..runs.certified import CertifiedRun
from ..runs.store import Remote
from .checks import check, check_certifier, check_classes
from .driver import certify_share
from .engines import Engine, Processes
from .identity import as_program, model_hash, model_of, parts_of
from .look import FirstLook, first_look
from .revise import earlier, revises, votes_before
from .runtime import batch_size_of, check_runtime, faster, in_precision, seconds_per_image
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
    engine: Engine
    data_dir: Path | str | None
    store: str | None = None
    """URL of an object store that keeps a copy of the folder; see `holdfast.runs.store`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What run.json tells of the model."""
    loaded: tuple[nn.Module, Images] | None = field(default=None, repr=False, compare=False)
    """What the check has read already; left behind when the job is sent to another process."""

    @property
    def examples(self) -> int:
        """Examples that the finished run has."""
        return len(self.task.indices(len(self.read()[1])))

    def read(self) -> tuple[nn.Module, Images]:
        """The model and the data set."""
        if self.loaded:
            return self.loaded
        data = load(self.task.dataset, self.task.split, self.data_dir)
        return model_of(self.source, data.info.shape, self.task.model), data

    def seconds(self) -> float:
        """How long it can take at most in one process, by a measured forward pass."""
        model, data = self.read()
        device = choose(self.device)
        model = in_precision(model.to(device), self.task.precision)
        batch_size = batch_size_of(self.batch_size, device)
        once = seconds_per_image(model, torch.zeros(data.info.shape, device=device), batch_size)
        return self.examples * self.task.certifier.samples() * once

    def faster(self) -> str | None:
        """Another runtime that is worth naming: faster for such a model, installed, and allowed by the settings."""
        free = self.task.runtime == "torch" and self.task.precision == "32-true"
        if not free or self.task.certifier.sampling is None or self.folder.exists():
            return None
        return faster(self.read()[0], choose(self.device).type)

    def look(self) -> FirstLook:
        """What the model says of a few images of the data set, plainly and under the noise; in float32."""
        model, data = self.source.load(), self.read()[1]
        device = choose(self.device)
        return first_look(model.to(device), data.to(device), self.task.certifier, self.batch_size)

    def others(self) -> list[Path]:
        """Folders with the same settings for a model of another identity, whose records are not used."""
        return of_other_models(self.task, self.folder)

    def earlier(self) -> Path | None:
        """The finished run with fewer samples whose votes this one goes on from, if it begins and there is one."""
        if self.store and Remote(self.store, self.folder).begun:
            return None
        data = self.read()[1]
        return earlier(self.task, self.folder, data.checksums(self.task.indices(len(data))))

    def run(self) -> None:
        """Add the records that are missing, or the share that was asked for, or that torchrun or SLURM gives us."""
        remote = Remote(self.store, self.folder) if self.store else None
        if remote:
            remote.bring()
        model, data = self.read()
        facts = {**self.facts, "norm": self.task.certifier.norm_of(model)}
        if before := self.earlier():
            facts["revises"] = revises(before, self.task.certifier)
        created = open_certification(self.task, self.folder, data, self.folder.parent.name, facts)
        try:
            with remote.kept_up() if remote else nullcontext():
                self.engine.certify(self)
                explain(self.task, model, data, self.folder)
        except ValueError:  # such as a cluster that is not there
            if created:  # what another process has begun is its own
                store.discard(self.folder, {"run.json"})
                with suppress(OSError):
                    self.folder.parent.rmdir()  # of a model of which nothing else was certified
            raise

    def certify(self, shard: tuple[int, int], device: torch.device, visible: bool) -> None:
        """Certify a share of the examples in this process."""
        model, data = self.read()
        settings: dict[str, Any] = {"device": device, "batch_size": self.batch_size, "shard": shard, "visible": visible}
        settings["votes"] = votes_before(self.folder)
        certify_share(self.task, model, data, self.folder, identity=self.source.identity(model), **settings)


@dataclass(frozen=True)
class Here:
    """This process alone; with a shard, the share (i, n) of the examples, for job arrays. torchrun and SLURM tell it
    each of their processes."""

    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.shard is None:
            return
        if not isinstance(self.shard, Sequence) or len(self.shard) != 2:
            raise ValueError(f"expected a shard (i, n), got {self.shard!r:.80}")
        place, shards = (integer(name, value) for name, value in zip(("i", "n"), self.shard, strict=True))
        if place >= shards:
            raise ValueError(f"expected a shard (i, n) with i from 0 to n - 1, got {self.shard}")

    @property
    def share(self) -> tuple[int, int] | None:
        """Which of how many shares this process certifies; None where it certifies all."""
        return self.shard or launched()

    def certify(self, job: Job) -> None:
        device = choose(job.device)
        if launched() and device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))
        job.certify(self.share or (0, 1), device, visible=True)


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
    runtime: str = "torch",
    runs: Path | str = "runs",
    device: str = "auto",
    devices: int = 1,
    shard: tuple[int, int] | None = None,
    engine: Engine | None = None,
    batch_size: int | None = None,
    data_dir: Path | str | None = None,
    store: str | None = None,
) -> Job:
    """Check all that `certify_run` is asked for, before anything is written; arguments and errors are the same."""
    check_certifier(certifier)
    _check_named(dataset, runs, data_dir, store)
    engine = _engine(devices, shard, engine)
    source = _source(model)
    split = split or default_split(dataset, data_dir)
    layers = source.load()
    check_runtime(runtime, certifier, precision)
    which = (dataset, split, every, start, limit, seed, precision, runtime)
    task = Certification(certifier, source.identity(layers), *which)
    data = load(dataset, split, data_dir)
    task.indices(len(data))
    network, task = _as_program(source, task, layers, data.info.shape, runs)
    _check(task, network, data, device, batch_size)
    settings = (device, batch_size, engine, data_dir, store, source.facts(layers))
    return Job(source, task, _folder(source, task, runs), *settings, loaded=(network, data))


def _source(model: nn.Module | ModelSource) -> ModelSource:
    source = Given(model) if isinstance(model, nn.Module) else model
    if not hasattr(source, "load"):
        raise ValueError(
            "expected a torch.nn.Module, or where one comes from, such as holdfast.opening.Source('runs/NAME'), got "
            f"{type(model).__name__}; holdfast.as_classifier makes one of other things"
        )
    return source


def _check_named(dataset: object, runs: object, data_dir: object, store: object) -> None:
    if not isinstance(dataset, str):
        raise ValueError(f"expected the name of a data set, got {dataset!r:.80}")
    for name, value in (("runs", runs), ("data_dir", data_dir), ("store", store)):
        if not isinstance(value, str | Path | None):
            raise ValueError(f"expected {name} to be a path, got {value!r:.80}")


def _check(task: Certification, network: nn.Module, data: Images, device: str, batch_size: int | None) -> None:
    """Refuse what cannot be certified, on two images."""
    where, certifier = choose(device), task.certifier
    computing = in_precision(network.to(where), task.precision)
    certifier.require(computing)
    if certifier.sampling is not None:
        certifier.sampling.refuse_seed(task.seed)
    rows = check(computing, data.pixels(slice(0, 2)).to(where), batch_size_of(batch_size, where))
    certifier.bind(computing, rows)
    check_classes(computing, rows, data.info.classes, task.dataset)


def _as_program(
    source: ModelSource, task: Certification, layers: nn.Module, shape: tuple[int, ...], runs: Path | str
) -> tuple[nn.Module, Certification]:
    """The program of the layers, where they have one, and the task that names it.

    A certification of the layers that was begun before programs were what is certified goes on as it was.
    """
    network = layers
    if not (_folder(source, task, runs) / "run.json").exists():
        network = as_program(layers, shape)
        task = task.replace(model=source.identity(network))
    if task.runtime != "torch" and program_of(network) is None:
        raise ValueError(
            f"the runtime {task.runtime} runs programs, and this model has none; leave the runtime at torch"
        )
    return network, task


def _folder(source: ModelSource, task: Certification, runs: Path | str) -> Path:
    return source.folder(Path(runs), task.model) / f"certify-{task.fingerprint()}"


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
        runtime: what runs the program of the model: torch, compile or onnxruntime; see
            `holdfast.certification.runtime`. That function is the certified one.
        runs: folder for the runs of models that have none of their own.
        device, devices, shard, batch_size: the machine; they change no record.
        engine: where else it runs, such as `holdfast.RayEngine("auto")`; instead of devices and shard.
        data_dir: where named data sets are looked up first.
        store: URL of an object store, such as s3://bucket/runs, that keeps a copy of the folder; what other machines
            have sent there is not done again.

    Returns:
        the records so far, which are all of them unless a shard was asked for.

    Raises:
        ValueError: the model, the data or a setting cannot be certified, or the folder holds something else.
    """
    job = prepare(model, dataset, certifier, **settings)
    job.run()
    return CertifiedRun.open(job.folder)


def _engine(devices: int, shard: tuple[int, int] | None, engine: Engine | None) -> Engine:
    if (integer("devices", devices, 1) > 1) + (shard is not None) + bool(engine) > 1:
        raise ValueError(
            f"expected either several processes or a shard, or an engine; got {devices}, {shard} and {engine}"
        )
    if engine and not hasattr(engine, "certify"):
        raise ValueError(f"expected an engine, such as holdfast.RayEngine('auto'), got {engine!r:.80}")
    return engine or (Processes(devices) if devices > 1 else Here(shard))


def explain(task: Certification, model: nn.Module, data: Images, folder: Path) -> None:
    """Write explanation.json: what the certifier says about the classifier as a whole, unless it is there.

    Args:
        model: in eval mode.
        data: the data set of the task.
    """
    path = folder / "explanation.json"
    if path.exists():
        return
    like = next(iter(model.state_dict().values()), torch.zeros(()))
    some = data.pixels(torch.tensor(task.indices(len(data))[:EXPLAINED])).to(like.device)
    if found := task.certifier.explain(model, some):
        store.write_whole(path, (json.dumps(found, indent=2) + "\n").encode())
