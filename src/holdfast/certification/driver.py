"""A share of a data set: check what comes in, call the certifier, check what goes out, keep what was found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.certificate import Certificate, Record
from ..core.certifier import Certifier, Classifier, Seed
from ..data import Images
from ..machine import describe, kept_memory
from ..progress import Progress
from ..runs import store
from ..runs.records import RecordWriter, read_labels
from ..smoothing.evidence import SamplingEvidence
from .checks import check, watch
from .determinism import ROWS, determinism, moved, probe
from .identity import model_hash
from .runtime import arranged, batch_size_of, faster_format, in_precision, in_runtime
from .task import Certification, same_data, same_model

WINDOW, FLOATS = 1024, 2**22
"""Images, and pixels, that are turned into float at a time."""

EarlierVotes = Mapping[int, SamplingEvidence]
"""By example, of a run with the same settings but fewer samples."""


def certify_share(
    task: Certification,
    model: nn.Module,
    data: Images,
    folder: Path,
    *,
    identity: str | None = None,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    shard: tuple[int, int] = (0, 1),
    visible: bool = True,
    votes: EarlierVotes | None = None,
) -> None:
    """Certify what a folder does not hold yet; safe to kill and to call again.

    Args:
        folder: as made by `open_certification` for this task.
        identity: of the model, which is moved to `device` and to the precision of the task; by default `model_hash`.
        shard: (i, n) takes every n-th of the task's examples from the i-th on, and writes a file of its own.
        votes: of a run with the same settings but fewer samples, by example, to go on from.

    Raises ValueError where the model or the data are not those that the task and the folder name.
    """
    same_model(task, identity or model_hash(model))
    same_data(folder, data, indices := task.indices(len(data)))
    started, samples = time.perf_counter(), 0
    with RecordWriter(folder, *shard) as writer:
        todo = missing(folder, indices[shard[0] :: shard[1]], data.labels)
        first = data.pixels(torch.tensor(todo[:ROWS], dtype=torch.int64))
        ready = Ready.make(task, model, todo[:ROWS], first, device, batch_size)
        rows = window_size(data.info.shape, ready.batch_size)
        store.log(folder, event="certify", shard=shard, examples=len(todo), **ready.facts)
        with Progress("certifying", len(todo), visible=visible) as progress:
            for window in (todo[i : i + rows] for i in range(0, len(todo), rows)):
                for index, certificate in ready.certify(window, data.pixels(torch.tensor(window)), votes):
                    writer.append(Record(index, int(data.labels[index]), certificate))
                    samples += drawn(index, certificate, votes)
                    progress.advance(1)
        seconds = round(time.perf_counter() - started, 1)
        store.log(folder, event="certified", shard=shard, examples=len(todo), samples=samples, seconds=seconds)


def window_size(shape: Sequence[int], batch_size: int) -> int:
    """How many images are turned into float at a time: of large ones no more than a forward pass takes."""
    return min(WINDOW, max(batch_size, FLOATS // math.prod(shape)))


def drawn(index: int, certificate: Certificate, votes: EarlierVotes | None) -> int:
    """Samples of an example that were not there before."""
    known = votes[index].derived()["samples"] if votes else 0
    return int(certificate.evidence.get("samples", 1)) - known


@dataclass(frozen=True)
class Ready:
    """A classifier on its device, checked and in the form in which it is certified."""

    task: Certification
    model: nn.Module
    bound: Classifier
    """What is certified: see `Certifier.bind`."""
    device: torch.device
    memory: torch.memory_format
    """The format that the model is in."""
    batch_size: int
    facts: Mapping[str, Any]
    """The machine, and what was measured there: see `determinism`."""
    refuse_another: Callable[[], None] = lambda: None
    """Refuses a model that has come to answer otherwise: see `watch`."""

    @classmethod
    def make(
        cls,
        task: Certification,
        model: nn.Module,
        indices: Sequence[int],
        images: Tensor,
        device: torch.device | str,
        batch_size: int | None = None,
    ) -> Ready:
        """Bring a model to a device and into the precision of the task, and try it on some images.

        Args:
            indices: the examples that the images are of; with none, nothing is tried.
            images: (batch, channel, height, width) in [0, 1].

        Raises:
            ValueError: see `holdfast.certification.checks.check`.
        """
        device = torch.device(device)
        model, facts = in_precision(model.to(device), task.precision), describe(device)
        batch_size = batch_size_of(batch_size, device)
        facts["batch_size"] = batch_size
        if not indices:
            return cls(task, model, model, device, torch.contiguous_format, batch_size, facts)
        rows = check(model, images[:2].to(device), batch_size)
        memory = faster_format(model, rows)
        seeds, images = [task.seed_of(index) for index in indices], images.to(device, memory_format=memory)
        if task.runtime != "torch":
            started, torch_runs = time.perf_counter(), model
            model = in_runtime(model, task.runtime, images, batch_size)
            facts |= {"runtime": task.runtime, "compiling": round(time.perf_counter() - started, 1)}
            images = arranged(images, task.runtime)
            memory = torch.contiguous_format if task.runtime == "onnxruntime" else memory
            facts["runtime_changed"] = moved(torch_runs, model, images, task.certifier, seeds, batch_size)
        measured = determinism(model, images, task.certifier, seeds, batch_size)
        bound = task.certifier.bind(model, rows)
        refuse_another = watch(model, rows) if task.certifier.sampling else lambda: None
        return cls(task, model, bound, device, memory, batch_size, facts | measured, refuse_another)

    def certify(
        self, indices: Sequence[int], images: Tensor, votes: EarlierVotes | None = None
    ) -> Iterator[tuple[int, Certificate]]:
        """Every example with its certificate, each as soon as it is known; the images are as for `make`, the votes as
        for `certify_share`."""
        images = images.to(self.device, memory_format=self.memory)
        seeds = [self.task.seed_of(index) for index in indices]
        known = [votes[index] for index in indices] if votes else None
        for row, certificate in stream(self.bound, images, self.task.certifier, seeds, self.batch_size, known):
            yield indices[row], certificate
        self.refuse_another()

    def probe(self, indices: Sequence[int], images: Tensor) -> list[int]:
        """How this machine votes; see `holdfast.certification.determinism.probe`."""
        images = images.to(self.device, memory_format=self.memory)
        seeds = [self.task.seed_of(index) for index in indices]
        return probe(self.model, images, self.task.certifier, seeds, self.batch_size)


def missing(folder: Path, indices: Sequence[int], labels: Tensor) -> list[int]:
    """Those of which the folder holds no record.

    Args:
        labels: of the whole data set.

    Raises:
        ValueError: see `read_labels`; or a record has another label than its example.
    """
    done = read_labels(folder)
    for index, label in done.items():
        if label != labels[index]:
            raise ValueError(
                f"{folder}: the label of example {index} is {label}, expected {labels[index]}; was it edited?"
            )
    return [index for index in indices if index not in done]


@torch.inference_mode()
def stream(
    model: Classifier,
    images: Tensor,
    certifier: Certifier,
    seeds: Sequence[Seed],
    batch_size: int,
    known: Sequence[SamplingEvidence] | None = None,
) -> Iterator[tuple[int, Certificate]]:
    """Every row with its certificate, each as soon as it is known; with votes of a run with fewer samples, from there.

    Raises:
        RuntimeError: the certifier leaves out a row, or proves more than its cap.
    """
    left = set(range(len(images)))
    if known and certifier.sampling is not None:
        found = certifier.sampling.continue_batch(model, images, seeds, batch_size, known)
    else:
        found = certifier.certify_batch(model, images, seeds, batch_size)
    with kept_memory(images.device):
        for row, certificate in found:
            left.remove(row)
            if certificate.radius > certifier.cap():
                raise RuntimeError(f"{certifier} proved {certificate.radius}, more than its cap {certifier.cap()}")
            yield row, certificate
    if left:
        raise RuntimeError(f"{certifier} returned no certificate for the rows {sorted(left)}")
