"""Data sets by name: images of uint8 with their labels."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..core.recipe import DataInfo
from ..core.registry import DATASETS, IMPORTABLE, in_a_line, unknown
from . import folders
from .folders import Arrays as Arrays
from .images import Dataset, Encoded, Images

Kind = TypeVar("Kind", Dataset, Encoded)

KEPT = 2**30
"""Bytes of decoded images up to which a data set is kept in memory; a larger one stays encoded on its disk."""

SAMPLE = 1000
"""Images, from all over a data set that stays encoded, whose mean and standard deviation stand for those of all."""

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3520,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2276, 0.2276, 0.2276)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "imagenet@64": ((0.4815, 0.4578, 0.4082), (0.2128, 0.2128, 0.2128)),
}
"""Mean and standard deviation of the training pixels that published models are normalised with.

For cifar10 and imagenet Cohen et al. (2019), `datasets.py`; the deviations of cifar10 are means over images, smaller
than those over pixels. For fashion-mnist and tiny-imagenet, Zhang et al. (2021), and for ImageNet at 64 x 64, Zhang et
al. (2022), in their code.
"""

Reader = Callable[[str, Path], folders.Arrays]
"""A data set with a name: from a split, and the folder in which data sets are looked up first, to its arrays."""

for _name, _reader in {**folders.EMBEDDED, **folders.READERS}.items():
    DATASETS.add(_name, _reader)

FORMS = {
    "hub:org/name": "any data set of images and labels on the Hugging Face hub",
    "folder:path": "parquet files, or images in one folder per class below train/ and test/",
    "npz:file": "arrays image (uint8, NHWC) and label, to train on: generated images",
}
"""Other data sets are named by where they are. Behind a hub or folder, @64 scales its images to 64 pixels, and @224/256
takes the centre 224 of images whose shorter side is scaled to 256."""


def names() -> list[str]:
    """The data sets that have a name of their own, those of plug-ins included."""
    return sorted(DATASETS)


def load(name: str, split: str, data_dir: Path | str | None = None, encoded: bool = False) -> Images:
    """Load a split of a data set.

    A data set of more than KEPT bytes stays encoded on its disk, and images are decoded when they are looked at.

    Args:
        name: one of `names()`, `package.module:read` (a `Reader`), `hub:org/name`, or `folder:path` (an image folder,
            or parquet files). Images that differ in size need one: `folder:path@64` scales the shorter side to 64
            pixels and crops the centre; `folder:path@224/256` scales it to 256 and crops the centre 224. Or `npz:file`
            with the arrays image (uint8, NHWC) and label, the form in which generated images are published.
        split: `train`, `test`, or what else the data set has. `held-out-12` is every 12th training image of each
            class: those that a recipe with held_out = 12 is not trained on.
        data_dir: where named data sets are looked up first; default `$HOLDFAST_DATA`, then `./data`.
        encoded: leave images encoded, however few: their full size is wanted.

    Raises:
        ValueError: unknown name or split, or images of differing sizes.
        FileNotFoundError: the data is neither on this disk nor to be had from the hub.
    """
    if held_out := re.fullmatch(r"held-out-([1-9]\d*)", split):
        whole = load(name, "train", data_dir, encoded)
        return whole.where(whole.every(int(held_out[1])), split)
    where = _folder(data_dir)
    if _encoded_somewhere(name):
        found = folders.pictures(name, split, where)
        if encoded or len(found.labels) * math.prod(found.shape) > KEPT:
            return _encoded(name, split, found)
        arrays = folders.Arrays(found.stack(range(len(found.labels))), found.labels, found.classes)
    elif name.startswith("npz:"):
        arrays = folders.read(name, split, where)
    elif IMPORTABLE.fullmatch(name) or name in DATASETS:
        arrays = _checked(_read(name, split, where), name)
    else:
        raise unknown("data set", name, [*names(), *FORMS])
    images = torch.from_numpy(arrays.images).permute(0, 3, 1, 2).contiguous()
    channels, height, width = images.shape[1:]
    info = DataInfo(name, (channels, height, width), arrays.classes, (0.0,) * channels, (1.0,) * channels)
    whole = Dataset(info, split, images, torch.from_numpy(arrays.labels))
    return _normalized(whole, torch.arange(len(whole)))


def _read(name: str, split: str, where: Path) -> Arrays:
    """What the reader of that name returns; one of the user's own may raise anything."""
    reader = DATASETS[name]
    try:
        return reader(split, where)
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"the data set {name} raised {in_a_line(error)}") from error


def _encoded_somewhere(name: str) -> bool:
    """Whether the images are encoded, in a folder or on the hub; a name may stand for another reader by now."""
    plain = name.partition("@")[0]
    return name.startswith(("hub:", "folder:")) or (
        plain in folders.READERS and DATASETS.known(plain) is folders.READERS[plain]
    )


def default_split(name: str, data_dir: Path | str | None = None) -> str:
    """What the split of a data set is called that models are certified on: `test`, `validation`, ..."""
    return folders.default_split(name, _folder(data_dir))


def _folder(data_dir: Path | str | None) -> Path:
    return Path(data_dir or os.environ.get("HOLDFAST_DATA", "data"))


def _encoded(name: str, split: str, found: folders.Pictures) -> Encoded:
    rows = torch.arange(len(found.labels))
    info = DataInfo(name, found.shape, found.classes, (0.0,) * found.channels, (1.0,) * found.channels)
    whole = Encoded(info, split, torch.from_numpy(found.labels), found, rows)
    return _normalized(whole, torch.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).long())


def _normalized(images: Kind, sample: Tensor) -> Kind:
    """The data set with its published mean and standard deviation, or those of some of its images."""
    name = images.info.name
    mean, std = STATISTICS.get(name) or STATISTICS.get(name.partition("@")[0]) or _statistics(images, sample)
    return replace(images, info=replace(images.info, mean=mean, std=std))


def _checked(arrays: folders.Arrays, name: str) -> folders.Arrays:
    """What a reader returned, which may be that of another package."""
    try:
        images, labels, classes = arrays
        found = f"images {images.dtype} {images.shape}, labels {labels.dtype} {labels.shape}, {classes} classes"
        fits = images.dtype == "uint8" and images.ndim == 4 and labels.dtype == "int64" and labels.ndim == 1
        fits = fits and len(images) == len(labels) > 0 and 0 <= labels.min() <= labels.max() < classes
    except (TypeError, ValueError, AttributeError):
        fits, found = False, f"{type(arrays).__name__}"
    if not fits:
        raise ValueError(
            f"the data set {name} returned {found}; expected `holdfast.data.Arrays`: images uint8 (example, height, "
            "width, channel), labels int64 (example,) below the number of classes"
        )
    return arrays


def _statistics(images: Images, indices: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of some images, per channel: of how often each of 256 values occurs."""
    channels = images.info.shape[0]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for part in indices.split(64):
        for channel, pixels in enumerate(images.raw(part).transpose(0, 1).flatten(1)):
            counts[channel] += torch.bincount(pixels, minlength=256)
    values, total = torch.arange(256, dtype=torch.float64) / 255, counts.sum(1, keepdim=True)
    mean = (counts * values).sum(1, keepdim=True) / total
    variance = (counts * (values - mean).square()).sum(1, keepdim=True) / (total - 1)
    return tuple(mean[:, 0].tolist()), tuple(variance.sqrt().clamp(min=1e-6)[:, 0].tolist())
