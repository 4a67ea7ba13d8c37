"""Certificates of images at hand, in the forms that people have them: of a batch, or of one at a time."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.arguments import integer
from ..core.certificate import Certificate
from ..core.certifier import Certifier, Classifier, Seed
from ..data.images import in_unit
from ..machine import choose
from .checks import as_module, check, check_certifier, check_images, watch
from .driver import stream
from .identity import as_program
from .runtime import PRECISIONS, arranged, batch_size_of, check_runtime, in_precision, in_runtime, prepared

if TYPE_CHECKING:
    from .run import ModelSource

CHANNELS = (1, 3)

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
    runtime: str = "torch",
) -> list[Certificate]:
    """Certify a batch of images. The model and the images stay as they are.

    Args:
        model: maps images in [0, 1] to logits (batch, class); in eval mode, on the device of the images. Sampling
            certifies it as it is called; a proof, the program that it is captured as now. A plain function: sampling.
        images: (batch, channel, height, width), floating point, in [0, 1]; or what `as_images` makes such a batch of:
            bytes, arrays of numpy, PIL images.
        certifier: for example `holdfast.Gaussian(sigma=0.25)`.
        seed: image i gets the noise of (seed, indices[i]). Without one a fresh seed is drawn, so that calls for one
            image after another use independent noise. Certificates by sampling hold both under `evidence`.
        indices: names the images, for example by their place in a data set; default 0, 1, ...
        batch_size: images in one forward pass; default 64 on a CPU, 1024 elsewhere.
        runtime: compile or onnxruntime runs the program of the model instead; see `holdfast.certification.runtime`.

    Raises:
        ValueError: see `holdfast.certification.checks.check`; or there is not one index for every image.
    """
    check_certifier(certifier)
    check_runtime(runtime, certifier)
    images = as_images(images)
    check_images(images)
    module, batch_size = as_module(model), batch_size_of(batch_size, images.device)
    seed, named = noise_of(len(images), seed, indices)
    classifier, images, refuse_another = _bound(module, images, certifier, batch_size, runtime)
    found = dict(stream(classifier, images, certifier, [Seed(seed, index) for index in named], batch_size))
    refuse_another()
    if certifier.sampling is None:
        return [found[row] for row in range(len(named))]
    more = {"seed": seed} if runtime == "torch" else {"seed": seed, "runtime": runtime}
    return [_noting(found[row], {**more, "index": index}) for row, index in enumerate(named)]


def _bound(
    module: nn.Module, images: Tensor, certifier: Certifier, batch_size: int, runtime: str
) -> tuple[Classifier, Tensor, Callable[[], None]]:
    """What is certified for a model, checked; the images in the memory format that it takes; and what refuses it once
    it has come to answer otherwise."""
    if runtime != "torch":
        module = as_program(module, tuple(images.shape[1:]))
    certifier.require(module)
    rows = check(module, images, batch_size)
    if runtime == "torch":
        bound, (copied, images) = certifier.bind(module, rows), prepared(module, images, rows)
        bound = copied if bound is module else bound
    else:
        copied, images = prepared(module.to(images.device), images, rows)
        runs = in_runtime(copied, runtime, images, batch_size)
        bound, images = certifier.bind(runs, rows), arranged(images, runtime)
    if certifier.sampling is None:
        return bound, images, lambda: None
    return bound, images, watch(bound if isinstance(bound, nn.Module) else module, rows)


def noise_of(count: int, seed: int | None, indices: Sequence[int] | None) -> tuple[int, list[int]]:
    """The seed and the index of every image: what the user said, else a fresh seed and 0, 1, ..."""
    if indices is not None and not isinstance(indices, Iterable):
        raise ValueError(f"expected one index for each of {count} images, got {indices!r:.80}")
    named = list(range(count)) if indices is None else [integer("an index", index) for index in indices]
    if len(named) != count:
        raise ValueError(f"expected one index for each of {count} images, got {len(named)}: {named!s:.80}")
    if doubled := [index for index, times in Counter(named).items() if times > 1]:
        raise ValueError(f"two images are called {doubled[0]}: they would share their noise, and be wrong together")
    seed = secrets.randbits(SEED_BITS) if seed is None else integer("seed", seed)
    Seed(seed, max(named, default=0)).check()
    return seed, named


def _noting(certificate: Certificate, context: Mapping[str, Any]) -> Certificate:
    """A certificate by sampling says which noise it is from, and what ran the model where that was not torch."""
    return dataclasses.replace(certificate, evidence={**certificate.evidence, **context})


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
    size = batch_size_of(batch_size, where)
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


def as_images(images: Any) -> Tensor:
    """A batch of images in [0, 1], (batch, channel, height, width), floating point.

    A floating-point tensor stays as it is. Bytes are divided by 255. Arrays may have their channels last, and become
    float32, or stay float16; PIL images, all of one size, are grey or become color. One PIL image is a batch of one.

    Raises:
        ValueError: they are no images; or integers of another type, whose largest value is not known.
    """
    if isinstance(images, Tensor):
        return _of_tensor(images)
    if _is_picture(images):
        images = [images]
    if isinstance(images, Sequence) and len(images) and all(map(_is_picture, images)):
        return _of_tensor(torch.from_numpy(np.stack(_of_pictures(images))))
    if isinstance(images, np.ndarray):
        return _of_array(images)
    raise ValueError(f"expected a torch.Tensor, an array or PIL images, got {type(images).__name__}; see torch.stack")


def _of_tensor(images: Tensor) -> Tensor:
    if images.is_floating_point():
        return images
    if images.dtype != torch.uint8:
        raise ValueError(f"expected images in [0, 1], or bytes, got {images.dtype}; divide by the largest value")
    return in_unit(images)


def _of_array(images: np.ndarray) -> Tensor:
    if not (images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)):
        raise ValueError(f"expected images in [0, 1], or bytes, got {images.dtype}; divide by the largest value")
    if images.ndim == 4 and images.shape[1] not in CHANNELS and images.shape[3] in CHANNELS:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype == np.float64:
        images = images.astype(np.float32)
    return _of_tensor(torch.from_numpy(np.ascontiguousarray(images)).clone())


def _is_picture(thing: Any) -> bool:
    return type(thing).__module__.startswith("PIL.") and hasattr(thing, "convert")


def _of_pictures(pictures: Sequence[Any]) -> list[np.ndarray]:
    """(channel, height, width) of bytes each."""
    if deep := {picture.mode for picture in pictures if picture.mode not in ("1", "L", "RGB", "P", "LA", "RGBA")}:
        raise ValueError(f"expected PIL images of 8 bits, grey or color, got the mode {deep.pop()}")
    if any(picture.mode.endswith("A") and picture.getchannel("A").getextrema()[0] < 255 for picture in pictures):
        raise ValueError("an image has transparent parts; put it on a background first")
    grey = all(picture.mode in ("1", "L", "LA") for picture in pictures)
    arrays = [np.array(picture.convert("L" if grey else "RGB")) for picture in pictures]
    if sizes := {array.shape[:2] for array in arrays[1:]} - {arrays[0].shape[:2]}:
        raise ValueError(f"expected images of one size, got {arrays[0].shape[:2]} and {sizes.pop()}")
    return [array[None] if grey else array.transpose(2, 0, 1) for array in arrays]
