"""How a training image is looked at in a worker process: cut out, scaled, shifted, mirrored, changed by RandAugment.

All random numbers of an image come from one generator, so that they follow from what that was seeded with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ..core.recipe import Recipe
from ..data.folders import Size, scaled

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
