"""Data sets by name, as uint8 tensors with their labels."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..core.recipe import DataInfo
from ..core.registry import DATASETS, IMPORTABLE, unknown
from . import embedded, folders
from .folders import Arrays as Arrays


@dataclass(frozen=True)
class Dataset:
    """One split of a data set, in its canonical order."""

    info: DataInfo
    split: str
    images: Tensor
    """uint8, (example, channel, height, width)."""
    labels: Tensor
    """int64, (example,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Tensor | slice) -> Tensor:
        """Images as float32 in [0, 1], (batch, channel, height, width)."""
        return self.images[indices].float() / 255

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """What one step of training sees: images as `pixels` gives them, and labels (batch,)."""
        return self.pixels(indices), self.labels[indices]

    def checksums(self, indices: Sequence[int]) -> dict[str, str]:
        """16 hex digits each of the SHA-256 of the images and of the labels of these examples."""
        images, labels = hashlib.sha256(str(self.info.shape).encode()), hashlib.sha256()
        for part in torch.tensor(indices).split(1024):
            images.update(self.images[part].cpu().contiguous().numpy().tobytes())
            labels.update(self.labels[part].cpu().long().numpy().tobytes())
        return {"images": images.hexdigest()[:16], "labels": labels.hexdigest()[:16]}

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device."""
        return Dataset(self.info, self.split, self.images.to(device), self.labels.to(device))

    def every(self, k: int) -> Tensor:
        """Every k-th image of each class, from its first on: bool, (example,)."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        for label in self.labels.unique():
            chosen[(self.labels == label).nonzero()[::k, 0]] = True
        return chosen

    def where(self, chosen: Tensor) -> Dataset:
        """The chosen images alone."""
        return Dataset(self.info, self.split, self.images[chosen], self.labels[chosen])


STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Mean and standard deviation of the training pixels that published models are normalised with.

For cifar10 Cohen et al. (2019), `datasets.py`: its deviations are means over images, smaller than those over pixels.
"""

Reader = Callable[[str, Path], folders.Arrays]
"""A data set with a name: from a split, and the folder in which data sets are looked up first, to its arrays."""

for _name, _reader in {**embedded.READERS, **folders.READERS}.items():
    DATASETS.add(_name, _reader)

FORMS = {
    "hub:org/name": "any data set of images and labels on the Hugging Face hub",
    "folder:path": "parquet files, or images in one folder per class below train/ and test/",
    "npz:file": "arrays image (uint8, NHWC) and label, to train on: generated images",
}
"""Other data sets are named by where they are. Behind a hub or folder, @64 scales its images to 64 pixels."""


def names() -> list[str]:
    """The data sets that have a name of their own, those of plug-ins included."""
    return sorted(DATASETS)


def load(name: str, split: str, data_dir: Path | None = None) -> Dataset:
    """Load a split of a data set.

    Args:
        name: one of `names()`, `package.module:read` (a `Reader`), `hub:org/name`, or `folder:path` (an image folder,
            or parquet files). Images that differ in size need one: `folder:path@64` scales the shorter side to 64
            pixels and crops the centre. Or `npz:file` with the arrays image (uint8, NHWC) and label, the form in which
            generated images are published.
        split: `train`, `test`, or what else the data set has. `held-out-12` is every 12th training image of each
            class: those that a recipe with held_out = 12 is not trained on.
        data_dir: where named data sets are looked up first; default `$HOLDFAST_DATA`, then `./data`.

    Raises:
        ValueError: unknown name or split, or images of differing sizes.
        FileNotFoundError: the data is neither on this disk nor to be had from the hub.
    """
    if held_out := re.fullmatch(r"held-out-([1-9]\d*)", split):
        whole = load(name, "train", data_dir)
        return replace(whole.where(whole.every(int(held_out[1]))), split=split)
    where = data_dir or Path(os.environ.get("HOLDFAST_DATA", "data"))
    if name.startswith(("hub:", "folder:", "npz:")):
        arrays = folders.read(name, split, where)
    elif IMPORTABLE.fullmatch(name) or name in DATASETS:
        arrays = _checked(DATASETS[name](split, where), name)
    else:
        raise unknown("data set", name, [*names(), *FORMS])
    images = torch.from_numpy(arrays.images).permute(0, 3, 1, 2).contiguous()
    mean, std = STATISTICS.get(name) or _statistics(images)
    channels, height, width = images.shape[1:]
    info = DataInfo(name, (channels, height, width), arrays.classes, mean, std)
    return Dataset(info, split, images, torch.from_numpy(arrays.labels))


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


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    pixels = images.permute(1, 0, 2, 3).flatten(1).double() / 255
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).clamp(min=1e-6).tolist())
