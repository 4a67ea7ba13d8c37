"""The one way to a certificate: check what comes in, call the certifier, check what goes out, keep what was found."""

import dataclasses
import math
import operator
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import store
from .checks import as_module, check, check_certifier, check_images
from .data import Dataset
from .machine import describe
from .progress import Progress
from .running import PRECISIONS, default_batch_size, faster_format, in_precision, prepared
from .spec import Spec
from .types import Certificate, Certifier, Classifier, Record

WINDOW = 1024
"""Images that are turned into float at a time."""

SEED_BITS = 53
"""Of a fresh seed: every reader of JSON keeps an integer of that size."""


@dataclass(frozen=True)
class Certification(Spec):
    """Everything that decides the records of a certified data set."""

    certifier: Certifier
    model: str
    """`model_hash` of the model."""
    dataset: str
    """Name of the data set."""
    split: str = "test"
    """Split of the data set."""
    every: int = 1
    """Certify every k-th example."""
    start: int = 0
    """Index of the first example."""
    limit: int | None = None
    """Certify at most this many examples."""
    seed: int = 0
    """The noise of an example follows from this seed and the example's index alone."""
    precision: str = "32-true"
    """Numbers the model computes with: 32-true, 64-true, bf16-true or 16-true. That function is the certified one."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.start < 0 or (self.limit is not None and self.limit < 1):
            found = f"every {self.every}, start {self.start}, limit {self.limit}"
            raise ValueError(f"expected every >= 1, start >= 0 and limit >= 1, got {found}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")

    def indices(self, total: int) -> list[int]:
        """The examples to certify, of a data set that holds `total`."""
        if self.start >= total:
            raise ValueError(f"start = {self.start} is beyond the {total} examples of {self.dataset}, {self.split}")
        return list(range(self.start, total, self.every))[: self.limit]

    def seed_of(self, index: int) -> int:
        """The seed of the noise of an example."""
        return noise_seed(self.seed, index)


def certify(
    model: nn.Module | Classifier,
    images: Tensor,
    certifier: Certifier,
    *,
    seed: int | None = None,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> list[Certificate]:
    """Certify a batch of images. The model and the images stay as they are.

    Args:
        model: maps images in [0, 1] to logits (batch, class); in eval mode, on the device of the images. A plain
            function can be certified by sampling.
        images: (batch, channel, height, width), floating point, in [0, 1].
        certifier: for example `holdfast.Gaussian(sigma=0.25)`.
        seed: image i gets the noise of (seed, indices[i]). Without one a fresh seed is drawn, so that calls for one
            image after another use independent noise. Certificates by sampling hold both under `evidence`.
        indices: names the images, for example by their place in a data set; default 0, 1, ...
        batch_size: images in one forward pass; default 64 on a CPU, 1024 elsewhere.

    Raises:
        ValueError: see `holdfast.checks.check`; or there is not one index for every image.
    """
    check_certifier(certifier)
    check_images(images)
    module, batch_size = as_module(model), batch_size or default_batch_size(images.device)
    rows = check(module, images, batch_size)
    seed, named = noise_of(len(images), seed, indices)
    module, images = prepared(module, images, rows)
    found = dict(_stream(module, images, certifier, [noise_seed(seed, index) for index in named], batch_size))
    return [_with_noise(found[row], seed, index) for row, index in enumerate(named)]


def noise_of(count: int, seed: int | None, indices: Sequence[int] | None) -> tuple[int, list[int]]:
    """The seed and the index of every image: what the user said, else a fresh seed and 0, 1, ..."""
    named = list(range(count)) if indices is None else [operator.index(index) for index in indices]
    if len(named) != count or any(index < 0 for index in named):
        raise ValueError(f"expected one index of 0 or more for each of {count} images, got {named}")
    if seed is not None and seed < 0:
        raise ValueError(f"expected a seed of 0 or more, got {seed}")
    return secrets.randbits(SEED_BITS) if seed is None else seed, named


def _with_noise(certificate: Certificate, seed: int, index: int) -> Certificate:
    """A certificate by sampling says which noise it is from."""
    if certificate.confidence == 1:
        return certificate
    return dataclasses.replace(certificate, evidence={**certificate.evidence, "seed": seed, "index": index})


def certify_dataset(
    task: Certification,
    model: nn.Module,
    data: Dataset,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    shard: tuple[int, int] = (0, 1),
    visible: bool = True,
) -> None:
    """Certify the examples of a data set that the folder does not hold yet; safe to kill and to call again.

    Args:
        task: what to certify and how; it names `folder` by its fingerprint.
        model: moved to `device` and to the precision of the task.
        folder: as made by `open_certification`.
        shard: (i, n) takes every n-th of the task's examples from the i-th on, and writes its own file.
        visible: show progress.
    """
    model = in_precision(model.to(device), task.precision)
    batch_size = batch_size or default_batch_size(torch.device(device))
    indices = task.indices(len(data))[shard[0] :: shard[1]]
    started, facts, samples = time.perf_counter(), describe(torch.device(device)), 0
    with store.RecordWriter(folder, *shard) as writer:
        done = {record.index for record in store.read_records(folder)}
        todo = [index for index in indices if index not in done]
        store.log(folder, event="certify", shard=shard, batch_size=batch_size, examples=len(todo), **facts)
        with Progress("certifying", len(todo), visible=visible) as progress:
            for record in _records(task, model, data, todo, device, batch_size):
                writer.append(record)
                samples += int(record.certificate.evidence.get("samples", 1))
                progress.advance(1)
        seconds = round(time.perf_counter() - started, 1)
        store.log(folder, event="certified", shard=shard, examples=len(todo), samples=samples, seconds=seconds)


def _records(
    task: Certification,
    model: nn.Module,
    data: Dataset,
    indices: Sequence[int],
    device: torch.device | str,
    batch_size: int,
) -> Iterator[Record]:
    if not indices:
        return
    rows = check(model, data.pixels(torch.tensor(indices[:2])).to(device), batch_size)
    memory = faster_format(model, rows)
    for window in (indices[i : i + WINDOW] for i in range(0, len(indices), WINDOW)):
        images = data.pixels(torch.tensor(window)).to(device, memory_format=memory)
        seeds = [task.seed_of(index) for index in window]
        for row, certificate in _stream(model, images, task.certifier, seeds, batch_size):
            yield Record(window[row], int(data.labels[window[row]]), certificate)


def open_certification(task: Certification, folder: Path, data: Dataset, name: str) -> None:
    """Create the folder of a certification, or make sure that it is the same one, of the same images.

    Raises:
        ValueError: see `store.open_run`; or the images or labels changed, or the folder does not tell what they were.
    """
    indices = task.indices(len(data))
    checksums = data.checksums(indices)
    if (folder / "run.json").exists():
        _same_data(folder, store.read_run(folder).get("checksums"), checksums)
    cap = task.certifier.cap()
    facts = {
        "name": name,
        "total": len(indices),
        "cap": cap if math.isfinite(cap) else None,
        "samples": task.certifier.samples(),
    }
    store.open_run(folder, {"certification": task.to_dict(), "checksums": checksums}, facts)


def _same_data(folder: Path, found: dict[str, str] | None, expected: dict[str, str]) -> None:
    if found is None:
        raise ValueError(
            f"{folder} does not tell which images its records are about: it was made before runs kept checksums of "
            "them. It can be reported as it is, and nothing is added to it; move it away to start a new one"
        )
    if changed := [what for what in expected if found.get(what) != expected[what]]:
        raise ValueError(
            f"the {' and the '.join(changed)} of the data set changed since {folder} was started; bring the old ones "
            "back, or move that folder away to start a new one"
        )


def of_other_models(task: Certification, folder: Path) -> list[Path]:
    """Folders beside this one with the same settings for a model of another identity: their records are not used."""
    same = task.to_dict() | {"model": None}
    beside = (path.parent for path in folder.parent.glob("certify-*/run.json") if path.parent != folder)
    return [path for path in beside if (store.read_run(path).get("certification") or {}) | {"model": None} == same]


@torch.inference_mode()
def _stream(
    model: nn.Module, images: Tensor, certifier: Certifier, seeds: Sequence[int], batch_size: int
) -> Iterator[tuple[int, Certificate]]:
    missing = set(range(len(images)))
    for row, certificate in certifier.certify_batch(model, images, seeds, batch_size):
        missing.remove(row)
        if certificate.radius > certifier.cap():
            raise RuntimeError(f"{certifier} proved {certificate.radius}, more than its cap {certifier.cap()}")
        yield row, certificate
    if missing:
        raise RuntimeError(f"{certifier} returned no certificate for the rows {sorted(missing)}")


def noise_seed(seed: int, index: int) -> int:
    """The seed of an example's noise. A CPU generator keeps 32 of its 64 bits: two examples may, rarely, share noise,
    which leaves the certificate of each as true as it was."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])
