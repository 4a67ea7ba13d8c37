"""The one way to a certificate: check what comes in, call the certifier, check what goes out, keep what was found."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..core.certificate import Certificate, Record
from ..core.certifier import Certifier, Seed
from ..core.config import Config
from ..data import Dataset
from ..machine import describe
from ..progress import Progress
from ..runs import store

WINDOW = 1024
"""Images that are turned into float at a time."""

PRECISIONS = {"32-true": torch.float32, "64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}


@dataclass(frozen=True)
class Certification(Config):
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

    def seed_of(self, index: int) -> Seed:
        """The seed of the noise of an example."""
        return Seed(self.seed, index)


def certify(
    model: nn.Module, images: Tensor, certifier: Certifier, *, seed: int = 0, batch_size: int | None = None
) -> list[Certificate]:
    """Certify a batch of images.

    Args:
        model: maps images in [0, 1] to logits (batch, class); in eval mode, on the device of the images.
        images: (batch, channel, height, width), floating point, in [0, 1].
        certifier: for example `holdfast.Gaussian(sigma=0.25)`.
        seed: image i gets the noise of (seed, i).
        batch_size: images in one forward pass; default 64 on a CPU, 1024 elsewhere.

    Raises:
        ValueError: the model is in training mode, or does not fit the images, or these are not in [0, 1].
    """
    check(model, images)
    seeds = [Seed(seed, index) for index in range(len(images))]
    batch_size = batch_size or default_batch_size(images.device)
    found = dict(_stream(_channels_last(model), images, certifier, seeds, batch_size))
    return [found[row] for row in range(len(images))]


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
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
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
    for window in (indices[i : i + WINDOW] for i in range(0, len(indices), WINDOW)):
        images = data.pixels(torch.tensor(window)).to(device)
        check(model, images)
        seeds = [task.seed_of(index) for index in window]
        for row, certificate in _stream(model, images, task.certifier, seeds, batch_size):
            yield Record(window[row], int(data.labels[window[row]]), certificate)


def open_certification(task: Certification, folder: Path, total: int, name: str) -> None:
    """Create the folder of a certification, or make sure that it is the same one; see `store.open_run`."""
    cap = task.certifier.cap()
    facts = {
        "name": name,
        "total": len(task.indices(total)),
        "cap": cap if math.isfinite(cap) else None,
        "samples": task.certifier.samples(),
    }
    store.open_run(folder, {"certification": task.to_dict()}, facts)


@torch.inference_mode()
def _stream(
    model: nn.Module, images: Tensor, certifier: Certifier, seeds: Sequence[Seed], batch_size: int
) -> Iterator[tuple[int, Certificate]]:
    missing = set(range(len(images)))
    for row, certificate in certifier.certify_batch(model, images, seeds, batch_size):
        missing.remove(row)
        if certificate.radius > certifier.cap():
            raise RuntimeError(f"{certifier} proved {certificate.radius}, more than its cap {certifier.cap()}")
        yield row, certificate
    if missing:
        raise RuntimeError(f"{certifier} returned no certificate for the rows {sorted(missing)}")


def check(model: nn.Module, images: Tensor) -> None:
    """Refuse what no certificate can be true for; see `certify`."""
    for name, module in model.named_modules():
        if module.training:
            where = f"its part {name!r} is" if name else "it is"
            raise ValueError(
                f"the model must not change while it is certified, but {where} in training mode; call .eval()"
            )
    if images.ndim != 4 or not images.is_floating_point():
        found = f"{tuple(images.shape)} of {images.dtype}"
        raise ValueError(f"expected floating-point images (batch, channel, height, width) in [0, 1], got {found}")
    if not (images.min() >= 0 and images.max() <= 1):  # NaN is in no range
        raise ValueError(
            f"expected images in [0, 1], got [{images.min():.4g}, {images.max():.4g}]; divide by the largest value, "
            "and put the normalisation inside the model (holdfast.nn.zoo.Normalize)"
        )
    _probe(model, images[:1])


def _probe(model: nn.Module, image: Tensor) -> None:
    try:
        with torch.inference_mode():
            logits = model(image)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the model does not take images of shape {tuple(image.shape[1:])}: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected logits (batch, class) for one image and two classes or more, got {found}")


class Reduced(nn.Module):
    """A model that computes in another precision; images and logits stay as they are for everybody else."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(self.dtype)).to(x.dtype)


def _channels_last(model: nn.Module) -> nn.Module:
    """A copy whose convolutions run in their faster memory format; the user's model keeps its own.

    A model that cannot be copied runs as it is.
    """
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError):
        return model
    return twin.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """The model, computing in one of PRECISIONS."""
    dtype = PRECISIONS[precision]
    return model.to(dtype) if dtype == torch.float32 else Reduced(model, dtype)


def default_batch_size(device: torch.device) -> int:
    """Images in one forward pass, where the user does not say."""
    return 64 if device.type == "cpu" else 1024


def noise_seed(seed: int, index: int) -> int:
    """The seed of an example's noise. A CPU generator keeps 32 of its 64 bits: two examples may, rarely, share noise,
    which leaves the certificate of each as true as it was."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])


def seconds_per_image(model: nn.Module, image: Tensor, batch_size: int) -> float:
    """Measured time of one image in a full forward pass."""
    batch = image.expand(batch_size, *image.shape).contiguous()
    with torch.inference_mode():
        model(batch)
        started = time.perf_counter()
        model(batch).sum().item()
    return (time.perf_counter() - started) / batch_size
