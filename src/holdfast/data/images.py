"""One split of a data set: in memory, where it is small, or encoded on a disk and decoded when it is looked at.

A mixture has generated images beside the real ones in every batch. Images of a diffusion model in certified training:
Hu et al., "A Recipe for Improved Certifiable Robustness", ICLR 2024, https://arxiv.org/abs/2310.02513, section 4.2;
three generated images for a real one in their code.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from ..core.recipe import DataInfo
from .folders import Pictures

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PART = 256
"""Images that are decoded at a time to be counted or summed up."""


def in_unit(images: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1], the same bits on every device: by a number, a GPU would multiply with 1 / 255."""
    return images.float().div_(torch.tensor(255.0, device=images.device))


class Images(ABC):
    """One split of a data set, in its canonical order."""

    info: DataInfo
    split: str
    labels: Tensor
    """int64, (example,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def raw(self, indices: Tensor | slice) -> Tensor:
        """Images as uint8, (batch, channel, height, width)."""

    @abstractmethod
    def picture(self, index: int) -> Picture:
        """One image, at the size that it has where it comes from."""

    @abstractmethod
    def where(self, chosen: Tensor, split: str = "") -> Self:
        """The chosen images alone: bool, (example,); as a split of that name, if one is given."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same data, whose images and labels come on another device."""

    def pixels(self, indices: Tensor | slice) -> Tensor:
        """Images as float32 in [0, 1], (batch, channel, height, width)."""
        return in_unit(self.raw(indices))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images as `pixels` gives them, and labels (batch,)."""
        return self.pixels(indices), self.labels[indices.to(self.labels.device)]

    def take(self, indices: Tensor, split: str) -> Dataset:
        """Some images, in memory, as a split of their own."""
        return Dataset(self.info, split, self.raw(indices), self.labels[indices])

    def checksums(self, indices: Sequence[int]) -> dict[str, str]:
        """16 hex digits each of the SHA-256 of the images and of the labels of these examples."""
        images, labels = hashlib.sha256(str(self.info.shape).encode()), hashlib.sha256()
        for part in torch.tensor(indices).split(PART):
            images.update(self.raw(part).cpu().contiguous().numpy().tobytes())
            labels.update(self.labels[part].cpu().long().numpy().tobytes())
        return {"images": images.hexdigest()[:16], "labels": labels.hexdigest()[:16]}

    def every(self, k: int) -> Tensor:
        """Every k-th image of each class, from its first on: bool, (example,)."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        for label in self.labels.unique():
            chosen[(self.labels == label).nonzero()[::k, 0]] = True
        return chosen


@dataclass(frozen=True)
class Dataset(Images):
    """Images in memory, or on a device."""

    info: DataInfo
    split: str
    images: Tensor
    """uint8, (example, channel, height, width)."""
    labels: Tensor
    """int64, (example,)."""

    def raw(self, indices: Tensor | slice) -> Tensor:
        return self.images[indices]

    def picture(self, index: int) -> Picture:
        from PIL import Image

        array = self.images[index].permute(1, 2, 0).cpu().numpy()
        return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))

    def where(self, chosen: Tensor, split: str = "") -> Self:
        return replace(self, split=split or self.split, images=self.images[chosen], labels=self.labels[chosen])

    def to(self, device: torch.device | str) -> Self:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Encoded(Images):
    """Images on a disk, memory-mapped; what is decoded is the centre, as `Pictures` has it."""

    info: DataInfo
    split: str
    labels: Tensor
    """int64, (example,)."""
    source: Pictures
    rows: Tensor
    """Where the examples are in the source."""
    device: torch.device | str = "cpu"
    """Where decoded images go."""

    def raw(self, indices: Tensor | slice) -> Tensor:
        rows = self.rows[indices.cpu() if isinstance(indices, Tensor) else indices]
        stacked = torch.from_numpy(self.source.stack(rows.tolist()))
        return stacked.to(self.device).permute(0, 3, 1, 2).contiguous()

    def picture(self, index: int) -> Picture:
        return self.source.whole(int(self.rows[index]))

    def where(self, chosen: Tensor, split: str = "") -> Self:
        return replace(self, split=split or self.split, rows=self.rows[chosen], labels=self.labels[chosen])

    def to(self, device: torch.device | str) -> Self:
        return replace(self, device=device, labels=self.labels.to(device))


@dataclass(frozen=True)
class Mixture:
    """An epoch is one of the real images; generated ones are drawn anew for every batch."""

    real: Images
    extra: Images
    ratio: float
    """Generated images for every real one."""

    def __post_init__(self) -> None:
        real, extra = self.real.info, self.extra.info
        if real.shape != extra.shape or extra.classes > real.classes:
            raise ValueError(
                f"{extra.name} does not fit beside {real.name}: expected images {real.shape} of at most {real.classes} "
                f"classes, got {extra.shape} of {extra.classes}"
            )

    @property
    def info(self) -> DataInfo:
        """That of the real images."""
        return self.real.info

    def __len__(self) -> int:
        return len(self.real)

    def pixels(self, indices: Tensor | slice) -> Tensor:
        """Real images alone."""
        return self.real.pixels(indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The real images of these indices, then generated ones at random, and the labels of all."""
        parts = self.real.batch(indices), self.drawn(len(indices))
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

    def drawn(self, count: int) -> tuple[Tensor, Tensor]:
        """Generated images at random, and their labels, to go with so many real ones."""
        chosen = torch.randint(len(self.extra), (round(self.ratio * count),), device=self.extra.labels.device)
        return self.extra.batch(chosen)

    def to(self, device: torch.device | str) -> Mixture:
        """The same data on another device."""
        return Mixture(self.real.to(device), self.extra.to(device), self.ratio)
