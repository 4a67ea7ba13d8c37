"""The one way to a certificate: check what comes in, call the certifier, check what goes out, keep what was found."""

import dataclasses
import operator
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.certificate import Certificate, Record
from ..core.certifier import Certifier, Seed
from ..core.classifier import Classifier
from ..data import Images
from ..machine import describe
from ..progress import Progress
from ..runs import store
from ..runs.records import RecordWriter, read_records
from ..smoothing.evidence import SamplingEvidence
from .checks import as_module, check, check_certifier, check_images
from .determinism import ROWS, determinism
from .identity import model_hash
from .images import as_images
from .precision import default_batch_size, faster_format, in_precision, prepared
from .task import Certification, same_data, same_model

WINDOW = 1024
"""Images that are turned into float at a time."""

SEED_BITS = 53
"""Of a fresh seed: every reader of JSON keeps an integer of that size."""


def certify(
    model: nn.Module | Classifier,
    images: Any,
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
        images: (batch, channel, height, width), floating point, in [0, 1]; or what `as_images` makes such a batch of:
            bytes, arrays of numpy, PIL images.
        certifier: for example `holdfast.Gaussian(sigma=0.25)`.
        seed: image i gets the noise of (seed, indices[i]). Without one a fresh seed is drawn, so that calls for one
            image after another use independent noise. Certificates by sampling hold both under `evidence`.
        indices: names the images, for example by their place in a data set; default 0, 1, ...
        batch_size: images in one forward pass; default 64 on a CPU, 1024 elsewhere.

    Raises:
        ValueError: see `holdfast.certification.checks.check`; or there is not one index for every image.
    """
    check_certifier(certifier)
    images = as_images(images)
    check_images(images)
    module, batch_size = as_module(model), batch_size or default_batch_size(images.device)
    certifier.require(module)
    rows = check(module, images, batch_size)
    seed, named = noise_of(len(images), seed, indices)
    bound = certifier.bind(module, rows)
    copied, images = prepared(module, images, rows)
    classifier, seeds = copied if bound is module else bound, [Seed(seed, index) for index in named]
    found = dict(_stream(classifier, images, certifier, seeds, batch_size))
    if certifier.sampling is None:
        return [found[row] for row in range(len(named))]
    return [_with_noise(found[row], seed, index) for row, index in enumerate(named)]


def noise_of(count: int, seed: int | None, indices: Sequence[int] | None) -> tuple[int, list[int]]:
    """The seed and the index of every image: what the user said, else a fresh seed and 0, 1, ..."""
    named = list(range(count)) if indices is None else [operator.index(index) for index in indices]
    if len(named) != count or any(index < 0 for index in named):
        raise ValueError(f"expected one index of 0 or more for each of {count} images, got {named}")
    seed = secrets.randbits(SEED_BITS) if seed is None else seed
    Seed(seed, max(named, default=0)).check()
    return seed, named


def _with_noise(certificate: Certificate, seed: int, index: int) -> Certificate:
    """A certificate by sampling says which noise it is from."""
    return dataclasses.replace(certificate, evidence={**certificate.evidence, "seed": seed, "index": index})


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
    votes: Mapping[int, SamplingEvidence] | None = None,
) -> None:
    """Certify the examples of a data set that the folder does not hold yet; safe to kill and to call again.

    Args:
        folder: as made by `open_certification` for this task.
        identity: of the model, which is moved to `device` and to the precision of the task; by default `model_hash`.
        shard: (i, n) takes every n-th of the task's examples from the i-th on, and writes its own file.
        visible: show progress.
        votes: of a run with the same settings but fewer samples, by example, to go on from.

    Raises ValueError where the model or the data are not those that the task and the folder name.
    """
    same_model(task, identity or model_hash(model))
    same_data(folder, data, indices := task.indices(len(data)))
    model = in_precision(model.to(device), task.precision)
    batch_size, started, samples = batch_size or default_batch_size(torch.device(device)), time.perf_counter(), 0
    with RecordWriter(folder, *shard) as writer:
        todo = _missing(folder, indices[shard[0] :: shard[1]])
        bound, memory, facts = _ready(task, model, data, todo, device, batch_size)
        store.log(folder, event="certify", shard=shard, batch_size=batch_size, examples=len(todo), **facts)
        with Progress("certifying", len(todo), visible=visible) as progress:
            for record in _records(task, bound, data, todo, device, memory, batch_size, votes):
                writer.append(record)
                samples += _drawn(record, votes)
                progress.advance(1)
        seconds = round(time.perf_counter() - started, 1)
        store.log(folder, event="certified", shard=shard, examples=len(todo), samples=samples, seconds=seconds)


def _drawn(record: Record, votes: Mapping[int, SamplingEvidence] | None) -> int:
    """Samples that were not there before."""
    known = votes[record.index].derived()["samples"] if votes else 0
    return int(record.certificate.evidence.get("samples", 1)) - known


def _ready(
    task: Certification,
    model: nn.Module,
    data: Images,
    indices: Sequence[int],
    device: torch.device | str,
    batch_size: int,
) -> tuple[Classifier, torch.memory_format, dict[str, Any]]:
    """What is certified, see `Certifier.bind`; the memory format that the model is now in; the machine, and what was
    measured there: see `determinism`."""
    facts = describe(torch.device(device))
    if not indices:
        return model, torch.contiguous_format, facts
    rows = check(model, data.pixels(torch.tensor(indices[:2])).to(device), batch_size)
    memory = faster_format(model, rows)
    images = data.pixels(torch.tensor(indices[:ROWS])).to(device, memory_format=memory)
    seeds = [task.seed_of(index) for index in indices[:ROWS]]
    measured = determinism(model, images, task.certifier, seeds, batch_size)
    return task.certifier.bind(model, rows), memory, facts | measured


def _missing(folder: Path, indices: Sequence[int]) -> list[int]:
    """Those of which the folder holds no record."""
    done = {record.index for record in read_records(folder)}
    return [index for index in indices if index not in done]


def _records(
    task: Certification,
    bound: Classifier,
    data: Images,
    indices: Sequence[int],
    device: torch.device | str,
    memory: torch.memory_format,
    batch_size: int,
    votes: Mapping[int, SamplingEvidence] | None,
) -> Iterator[Record]:
    for window in (indices[i : i + WINDOW] for i in range(0, len(indices), WINDOW)):
        images = data.pixels(torch.tensor(window)).to(device, memory_format=memory)
        seeds = [task.seed_of(index) for index in window]
        known = [votes[index] for index in window] if votes else None
        for row, certificate in _stream(bound, images, task.certifier, seeds, batch_size, known):
            yield Record(window[row], int(data.labels[window[row]]), certificate)


@torch.inference_mode()
def _stream(
    model: Classifier,
    images: Tensor,
    certifier: Certifier,
    seeds: Sequence[Seed],
    batch_size: int,
    known: Sequence[SamplingEvidence] | None = None,
) -> Iterator[tuple[int, Certificate]]:
    missing = set(range(len(images)))
    if known and certifier.sampling is not None:
        found = certifier.sampling.continue_batch(model, images, seeds, batch_size, known)
    else:
        found = certifier.certify_batch(model, images, seeds, batch_size)
    for row, certificate in found:
        missing.remove(row)
        if certificate.radius > certifier.cap():
            raise RuntimeError(f"{certifier} proved {certificate.radius}, more than its cap {certifier.cap()}")
        yield row, certificate
    if missing:
        raise RuntimeError(f"{certifier} returned no certificate for the rows {sorted(missing)}")
