"""The reference kernels of the distance operation: any device, any floating-point type, any p, a few outputs at a time.

A kernel module has three functions, `forward`, `backward` (p finite) and `farthest` (p = inf). All take inputs x
(batch, inputs) and weights w (outputs, inputs); none holds a (batch, outputs, inputs) tensor.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

ELEMENTS = 1 << 22
"""Numbers in one temporary tensor."""


def supports(x: Tensor, p: float) -> bool:
    return True


def forward(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[b, o] = (sum_j |x[b, j] - w[o, j]|^p)^(1/p), scaled by the largest term so that nothing overflows."""
    y = x.new_empty(len(x), len(w))
    for some in slices(x, w):
        distance = (x[:, None] - w[some]).abs_()
        largest = distance.amax(dim=-1)
        if p < math.inf:
            ratio = distance.div_(_nonzero(largest)[..., None])
            largest = largest * ratio.pow_(p).sum(dim=-1).pow(1 / p)
        y[:, some] = largest
    return y


def backward(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of sum(grad * y) for x and w: dy/dx[j] = sign(t) |t|^(p-1) with t = (x[j] - w[j]) / y, |t| <= 1."""
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
    for some in slices(x, w):
        t = (x[:, None] - w[some]) / _nonzero(y[:, some])[..., None]
        slope = t.abs().pow_(p - 1).mul_(t.sign()).mul_(grad[:, some, None])
        grad_x += slope.sum(dim=1)
        grad_w[some] = -slope.sum(dim=0)
    return grad_x, grad_w


def farthest(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """(batch, outputs): the first j at which |x[b, j] - w[o, j]| is largest."""
    found = torch.empty(len(x), len(w), dtype=torch.int64, device=x.device)
    for some in slices(x, w):
        found[:, some] = (x[:, None] - w[some]).abs_().argmax(dim=-1)
    return found


def slices(x: Tensor, w: Tensor) -> Iterator[slice]:
    """Outputs whose differences from all inputs are held at a time."""
    step = max(1, ELEMENTS // max(1, x.numel()))
    return (slice(start, start + step) for start in range(0, len(w), step))


def _nonzero(value: Tensor) -> Tensor:
    """Where all coordinates agree the distance is 0, and so is every term divided by it."""
    return torch.where(value > 0, value, 1)
