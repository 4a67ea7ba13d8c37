"""Images in the forms that people have them, as the batch that everything here takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHANNELS = (1, 3)


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
    return images.float() / 255


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
