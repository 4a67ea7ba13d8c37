"""Real images with generated ones beside them in every batch.

Images of a diffusion model in certified training: Hu et al., "A Recipe for Improved Certifiable Robustness", ICLR 2024,
https://arxiv.org/abs/2310.02513, section 4.2; three generated images for a real one in their code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.recipe import DataInfo
from .images import Images


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
