"""Running statistics of a network that several processes train, each on its share of every batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that batch normalisation keeps: means and variances."""
    layers = (part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None)
    return [buffer for part in layers for buffer in (part.running_mean, part.running_var) if buffer is not None]


@torch.no_grad()
def share_statistics(fabric: Fabric, kept: list[Tensor]) -> None:
    """Replace them by their means over all processes: else those of one share would be kept, and the others lost.

    Called after every step, so that a checkpoint holds what every process has.
    """
    if fabric.world_size == 1 or not kept:
        return
    flat = fabric.all_reduce(torch.cat([buffer.flatten() for buffer in kept]))
    assert isinstance(flat, Tensor)
    for buffer, values in zip(kept, flat.split([buffer.numel() for buffer in kept]), strict=True):
        buffer.copy_(values.view_as(buffer))
