"""Single images: from files, as a classifier takes them, and small ones of examples, for a report."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from . import load

GREY, COLOR = 1, 3


def read_picture(path: Path, shape: tuple[int, ...] = ()) -> Tensor:
    """An image file as float32 in [0, 1], (channel, height, width).

    Colors become grey, or grey color, as the number of channels asks for. An image of the right proportions is scaled
    (bilinear); any other is refused, for what is cut off or squeezed would be decided here.

    Args:
        shape: (channel, height, width) of the result; by default that of the file, grey or color.

    Raises:
        ValueError: the file cannot be read as an image, has transparent parts, or does not fit.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if shape and (len(shape) != 3 or shape[0] not in (GREY, COLOR) or min(shape) < 1):
        raise ValueError(f"expected a shape of 1 or 3 channels, height and width, got {' '.join(map(str, shape))}")
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    pixels = _pixels(image, path, shape[0] if shape else None)
    return _scaled(pixels, path, shape[1:])


def _pixels(image, path: Path, channels: int | None) -> Tensor:
    """(channel, height, width) in [0, 1]."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more
        raw = np.asarray(image)
        if image.mode == "F" or raw.min() < 0 or raw.max() > 65535:
            raise ValueError(f"{path} has pixels of mode {image.mode}; expected 8 or 16 bits, without a sign")
        grey = torch.from_numpy(raw.astype(np.float32) / 65535)
        return grey.expand(channels or GREY, *grey.shape).clone()
    transparent = image.mode.endswith(("A", "a")) or "transparency" in image.info
    if transparent and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise ValueError(f"{path} has transparent parts; put it on a background first")
    plain = channels == GREY or (channels is None and image.mode in ("1", "L", "LA"))
    array = np.array(image.convert("L" if plain else "RGB"), dtype=np.float32) / 255
    return torch.from_numpy(array[None] if plain else array.transpose(2, 0, 1).copy())


def _scaled(pixels: Tensor, path: Path, size: tuple[int, ...]) -> Tensor:
    height, width = pixels.shape[1:]
    if not size or size == (height, width):
        return pixels
    if height * size[1] != width * size[0]:
        raise ValueError(
            f"{path} is {height} pixels high and {width} wide, and the model takes {size[0]} by {size[1]}; cut it to "
            "these proportions first"
        )
    scaled = torch.nn.functional.interpolate(pixels[None], size, mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].clamp(0, 1)


SIDE = 64
"""Pixels of the longer side; smaller images stay as they are."""


def thumbnails(dataset: str, split: str, indices: Sequence[int], data_dir: Path) -> Mapping[int, bytes]:
    """PNG (grey) or WebP (color) images by index; empty where the data cannot be read.

    Args:
        data_dir: where named data sets are looked up first.
    """
    try:
        data = load(dataset, split, data_dir)
        chosen = [index for index in indices if index < len(data)]
        images = [data.raw(slice(index, index + 1))[0] for index in chosen]
    except Exception:  # of any library that reads data: a report does without pictures
        return {}
    return {index: _encoded(image.permute(1, 2, 0).numpy()) for index, image in zip(chosen, images, strict=True)}


def _encoded(pixels: UInt8[np.ndarray, "height width channel"]) -> bytes:
    from PIL import Image

    grey = pixels.shape[2] == 1
    image = Image.fromarray(pixels[:, :, 0] if grey else pixels)
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, **({"format": "PNG", "optimize": True} if grey else {"format": "WEBP", "quality": 85}))
    return content.getvalue()
