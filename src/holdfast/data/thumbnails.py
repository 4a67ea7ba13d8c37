"""Small pictures of examples, for a report."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from . import load

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
