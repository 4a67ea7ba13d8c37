"""The normalization layer: part of the classifier, so that noise and radii are in pixels of [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x - mean) / std per channel, as the first layer of a classifier.

    Noise is added and radii are measured in pixels of [0, 1]; standardising outside of the model would silently change
    the unit of both.

    Args:
        mean: of each channel.
        std: of each channel, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        try:
            both = torch.tensor([list(mean), list(std)], dtype=torch.get_default_dtype(), device="cpu")  # (2, channel)
        except (TypeError, ValueError):
            both = torch.zeros(0)
        if both.dim() != 2 or not both.numel() or not both.isfinite().all() or not (both[1] > 0).all():
            raise ValueError(f"expected a mean and a positive std per channel, got {mean!r:.80} and {std!r:.80}")
        both = both.to(torch.get_default_device()).view(2, -1, 1, 1)
        self.register_buffer("mean", both[0].clone())
        self.register_buffer("std", both[1].clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def factor_and_shift(self) -> tuple[Tensor, Tensor]:
        """The same as factor * x + shift, (channel,) each."""
        return 1 / self.std.flatten(), -(self.mean / self.std).flatten()
