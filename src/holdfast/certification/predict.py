"""Certificates of single images, each as soon as it is known, with the time that it took."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.certificate import Certificate
from ..core.certifier import Certifier
from ..machine import choose
from .checks import check, check_certifier
from .driver import certify, noise_of
from .precision import PRECISIONS, default_batch_size, in_precision
from .run import ModelSource


@dataclass(frozen=True)
class Prediction:
    """What is proven about one image."""

    index: int
    """Position among the images."""
    certificate: Certificate
    seconds: float
    """Of the proof, all its samples included; where several images share a proof, its part of the time."""


def predict(
    source: ModelSource,
    images: Sequence[Tensor],
    certifier: Certifier,
    *,
    seed: int | None = None,
    precision: str = "32-true",
    device: str = "auto",
    batch_size: int | None = None,
) -> Iterator[Prediction]:
    """Certify single images, which may differ in shape where the model allows it.

    Args:
        source: where the model comes from.
        images: (channel, height, width) each, in [0, 1].
        seed: image i gets the noise of (seed, i); a fresh one is drawn where there is none.
        precision: numbers the model computes with; that function is the certified one.
        device, batch_size: the machine; they change no certificate.

    Raises:
        ValueError: see `holdfast.certification.checks.check`; before the first image is certified.
    """
    check_certifier(certifier)
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    where = choose(device)
    size = batch_size or default_batch_size(where)
    model = source.load()
    certifier.require(model)
    model = in_precision(model.to(where), precision)
    groups = _groups([tuple(image.shape) for image in images], certifier)
    for group in groups:
        check(model, images[group[0]][None].to(where), size)
    seed, _ = noise_of(len(images), seed, None)
    for group in groups:
        started = time.perf_counter()
        x = torch.stack([images[index] for index in group]).to(where)
        found = certify(model, x, certifier, seed=seed, indices=group, batch_size=size)
        seconds = (time.perf_counter() - started) / len(group)
        yield from (Prediction(index, proof, seconds) for index, proof in zip(group, found, strict=True))


def _groups(shapes: Sequence[tuple[int, ...]], certifier: Certifier) -> list[list[int]]:
    """Images that are certified together: one by one where each takes samples of its own; else all of one shape, for a
    bound on the model is proven once."""
    if certifier.sampling is certifier:
        return [[index] for index in range(len(shapes))]
    return [[index for index, shape in enumerate(shapes) if shape == one] for one in dict.fromkeys(shapes)]
