"""The normalization layer: part of the classifier, so that noise and radii are in pixels of [0, 1]."""

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x - mean) / std per channel, as the first layer of a classifier.

    Noise is added and radii are measured in pixels of [0, 1]; standardising outside of the model would silently change
    the unit of both.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"expected a mean and a positive std per channel, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def factor_and_shift(self) -> tuple[Tensor, Tensor]:
        """The same as factor * x + shift, (channel,) each."""
        return 1 / self.std.flatten(), -(self.mean / self.std).flatten()
