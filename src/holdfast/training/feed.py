"""Batches of training images: augmented on the device, or decoded and augmented in worker processes.

What the workers do to an image (cut out, scale, shift, mirror, RandAugment) follows from (seed, epoch, index), so it is
the same however many there are, on however many devices, and in a training that was stopped and continued: all random
numbers of an image come from one generator.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..core.recipe import Recipe
from ..data import Encoded, Images
from ..data.folders import Size, scaled
from ..data.images import Mixture

PART = 64
"""Images that a worker hands over at a time: what is on its way stays small, however large a batch is."""

MOST_WORKERS = 16


class Feed:
    """The batches of one data set for one process.

    Args:
        recipe: says what happens to the images.
        data: what to train on, on the device of the process.
        workers: processes that decode and augment where that is not done on the device; 0 does it here.
    """

    def __init__(self, recipe: Recipe, data: Images | Mixture, workers: int) -> None:
        self.recipe, self.data = recipe, data
        real = data.real if isinstance(data, Mixture) else data
        self._loader = _Loader(recipe, real, workers) if _needs_pictures(recipe, real) else None

    def batches(self, epoch: int, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as float32 in [0, 1], (batch, channel, height, width), and labels (batch,), on the device.

        Args:
            epoch: of the training, from 0 on.
            order: the indices of each batch.
        """
        recipe = self.recipe
        for indices, (x, y) in zip(order, self._real(epoch, order), strict=True):
            if isinstance(self.data, Mixture):
                drawn, labels = self.data.drawn(len(indices))
                drawn = augment(drawn, recipe.crop // 2, recipe.flip, recipe.border)
                x, y = torch.cat([x, drawn.to(x.device)]), torch.cat([y, labels.to(y.device)])
            yield x, y

    def _real(self, epoch: int, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        recipe, data = self.recipe, self.data.real if isinstance(self.data, Mixture) else self.data
        if self._loader is None:
            for indices in order:
                pixels, y = data.batch(indices)
                yield augment(pixels, recipe.crop, recipe.flip, recipe.border), y
            return
        for indices, pixels in zip(order, self._loader.batches(epoch, order), strict=True):
            y = data.labels[indices.to(data.labels.device)]
            yield pixels.to(y.device, non_blocking=True).float().div_(255), y


def workers_for(asked: int | None, processes: int) -> int:
    """Worker processes beside each of the processes of a training on this node."""
    if asked is not None and asked < 0:
        raise ValueError(f"workers must be at least 0, got {asked}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // max(1, processes))) if asked is None else asked


def full_size(recipe: Recipe) -> bool:
    """Whether a recipe takes parts of images at their full size."""
    return bool(recipe.area or recipe.sides)


def _needs_pictures(recipe: Recipe, data: Images) -> bool:
    return isinstance(data, Encoded) or full_size(recipe) or recipe.randaugment > 0


@dataclass(frozen=True)
class _Pictures:
    """What a worker does; it is sent to each one once."""

    data: Images
    view: View
    seed: int

    def __getitems__(self, key: tuple[int, list[int]]) -> Tensor:
        """uint8, (image, channel, height, width)."""
        epoch, indices = key
        return torch.from_numpy(np.stack([self._one(epoch, index) for index in indices]))

    def _one(self, epoch: int, index: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, epoch, index])
        return self.view(self.data.picture(index), random)


class _Loader:
    """Worker processes that live as long as the training."""

    def __init__(self, recipe: Recipe, data: Images, workers: int) -> None:
        here = data.to("cpu")
        centre = here.source.size if isinstance(here, Encoded) else None
        height, width = data.info.shape[1:]
        pictures = _Pictures(here, View.of(recipe, (height, width), centre), recipe.seed)
        self._keys: list[tuple[int, list[int]]] = []
        self._loader = DataLoader(
            pictures,  # pyright: ignore[reportArgumentType]
            batch_sampler=_Current(self._keys),  # pyright: ignore[reportArgumentType]
            collate_fn=_as_it_is,  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
            pin_memory=data.labels.is_cuda,
            generator=torch.Generator(),  # or each epoch would take a number from the one that the noise is drawn from
        )

    def batches(self, epoch: int, order: list[Tensor]) -> Iterator[Tensor]:
        """uint8, (batch, channel, height, width), on the CPU."""
        parts = [part.tolist() for indices in order for part in indices.split(PART)]
        self._keys[:] = [(epoch, part) for part in parts]
        found = iter(self._loader)
        for indices in order:
            yield torch.cat([next(found) for _ in indices.split(PART)])


class _Current:
    """The keys of the epoch that is about to begin."""

    def __init__(self, keys: list[tuple[int, list[int]]]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return iter(list(self._keys))

    def __len__(self) -> int:
        return len(self._keys)


def _as_it_is(batch: Tensor) -> Tensor:
    return batch


def augment(x: Tensor, crop: int, flip: bool, border: str = "zero") -> Tensor:
    """Shift every image by up to `crop` pixels over a border, and mirror every second one, at random.

    Args:
        border: `zero` for black, `edge` for the pixels at the edge.
    """
    if crop:
        count, _, height, width = x.shape
        padded = nn.functional.pad(x, (crop,) * 4, mode="replicate" if border == "edge" else "constant")
        top, left = torch.randint(0, 2 * crop + 1, (2, count, 1), device=x.device)
        rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
        columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
        images = torch.arange(count, device=x.device).view(-1, 1, 1, 1)
        channels = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)
        x = padded[images, channels, rows, columns]
    if flip:
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    return x


BILINEAR = Image.Resampling.BILINEAR

ASPECTS = math.log(3 / 4), math.log(4 / 3)
"""Least and largest logarithm of width over height of the rectangle of a random resized crop."""

TRIES = 10
"""Rectangles that are drawn before the centre is taken, where none fits into the image."""


@dataclass(frozen=True)
class View:
    """What a recipe does to an image before a step of training sees it; the fields but two are those of the recipe."""

    size: tuple[int, int]
    """(height, width) of the result."""
    centre: Size | None = None
    """What is seen of an image where the recipe takes no random part of it; none: all of it."""
    crop: int = 0
    border: str = "zero"
    flip: bool = False
    area: tuple[float, ...] = ()
    sides: tuple[int, ...] = ()
    randaugment: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, size: tuple[int, int], centre: Size | None = None) -> Self:
        """That of a recipe."""
        names = ("crop", "border", "flip", "area", "sides", "randaugment")
        return cls(size, centre, **{name: getattr(recipe, name) for name in names})

    def __call__(self, image: Image.Image, random: np.random.Generator) -> np.ndarray:
        """The image as uint8, (channel, height, width)."""
        if self.area:
            image = resized_crop(image, self.size, self.area, random)
        elif self.sides:
            image = scaled(image, int(random.integers(self.sides[0], self.sides[1] + 1)))
            image = rand_augment(image, self.randaugment, random)
            image = _cut(image, self.size, random)
        elif self.centre:
            image = self.centre.centre(image)
        if self.crop:
            image = _cut(_padded(image, self.crop, self.border), self.size, random)
        if self.flip and random.random() < 0.5:
            image = ImageOps.mirror(image)
        if not self.sides:
            image = rand_augment(image, self.randaugment, random)
        array = np.asarray(image)
        return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def resized_crop(
    image: Image.Image, size: tuple[int, int], area: tuple[float, ...], random: np.random.Generator
) -> Image.Image:
    """A random rectangle of an image, scaled to a size.

    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, https://arxiv.org/abs/1409.4842, section 6: its share
    of the area is uniform, and the logarithm of its aspect ratio.
    """
    width, height = image.size
    for _ in range(TRIES):
        share, aspect = random.uniform(area[0], area[1]), math.exp(random.uniform(*ASPECTS))
        w, h = (round(math.sqrt(width * height * share * ratio)) for ratio in (aspect, 1 / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return image.resize((size[1], size[0]), BILINEAR, box=(left, top, left + w, top + h))
    return ImageOps.fit(image, (size[1], size[0]), BILINEAR)


def _cut(image: Image.Image, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A rectangle of that size, anywhere."""
    spare = image.size[0] - size[1], image.size[1] - size[0]
    if min(spare) < 0:
        raise ValueError(f"{size[1]}x{size[0]} pixels do not fit into an image of {image.size}; raise the sides")
    left, top = (int(random.integers(room + 1)) for room in spare)
    return image.crop((left, top, left + size[1], top + size[0]))


def _padded(image: Image.Image, by: int, border: str) -> Image.Image:
    if border == "zero":
        return ImageOps.expand(image, by)
    array = np.asarray(image)
    around = [(by, by), (by, by), (0, 0)][: array.ndim]
    return Image.fromarray(np.pad(array, around, mode="edge"))


def rand_augment(image: Image.Image, share: float, random: np.random.Generator) -> Image.Image:
    """With probability `share` two operations, each drawn from all, with strength 9 of 30.

    Cubuk, Zoph, Shlens & Le, "RandAugment", NeurIPS 2020, https://arxiv.org/abs/1909.13719; operations and strengths
    are those of torchvision's defaults, which the recipes of LiResNet take.
    """
    if share and random.random() < share:
        for name in random.choice(list(OPERATIONS), size=OPERATIONS_EACH):
            operation, signed = OPERATIONS[name]
            sign = -1 if signed and random.random() < 0.5 else 1
            image = operation(image, sign * STRENGTH)
    return image


OPERATIONS_EACH = 2
STRENGTH = 9 / 30
"""Of an operation, as a share of its greatest."""


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def _shear(image: Image.Image, strength: float, upright: bool) -> Image.Image:
    """Around the upper left corner, by an angle whose tangent is at most 0.3."""
    by = -0.3 * strength
    return _affine(image, (1, 0, 0, by, 1, 0) if upright else (1, by, 0, 0, 1, 0))


def _shift(image: Image.Image, strength: float, upright: bool) -> Image.Image:
    """By at most 150 of 331 parts of a side."""
    by = -int(150 / 331 * image.size[upright] * strength)
    return _affine(image, (1, 0, 0, 0, 1, by) if upright else (1, 0, by, 0, 1, 0))


def _enhance(image: Image.Image, strength: float, kind: Callable[[Image.Image], Any]) -> Image.Image:
    return kind(image).enhance(1 + 0.9 * strength)


OPERATIONS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], bool]] = {
    "identity": (lambda image, _: image, False),
    "shear x": (partial(_shear, upright=False), True),
    "shear y": (partial(_shear, upright=True), True),
    "shift x": (partial(_shift, upright=False), True),
    "shift y": (partial(_shift, upright=True), True),
    "rotate": (lambda image, strength: image.rotate(30 * strength), True),
    "brightness": (partial(_enhance, kind=ImageEnhance.Brightness), True),
    "color": (partial(_enhance, kind=ImageEnhance.Color), True),
    "contrast": (partial(_enhance, kind=ImageEnhance.Contrast), True),
    "sharpness": (partial(_enhance, kind=ImageEnhance.Sharpness), True),
    "posterize": (lambda image, strength: ImageOps.posterize(image, 8 - round(4 * strength)), False),
    "solarize": (lambda image, strength: ImageOps.solarize(image, round(255 * (1 - strength))), False),
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), False),
    "equalize": (lambda image, _: ImageOps.equalize(image), False),
}
"""Each with whether its strength has a random sign."""
