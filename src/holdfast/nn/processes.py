"""Means over a batch of which every process of a training holds a share."""

from typing import cast

import torch
from torch import Tensor, distributed


def over_processes(mean: Tensor) -> Tensor:
    """The mean over the processes of a training: a mean over a share of the batch becomes one over all of it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return mean
    return cast(Tensor, _Total.apply(mean)) / distributed.get_world_size()


class _Total(torch.autograd.Function):
    """The sum over all processes, and so is its gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        out = x.clone()
        distributed.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        out = grads[0].clone()
        distributed.all_reduce(out)
        return out
