"""An affine part of a network as one convolution, with what a perturbation can do to each of its outputs.

A linear layer is a convolution of 1x1 images; a normalisation before or after a convolution is folded into its kernel.
The kernel decides how far a change is spread; the image itself goes through the layers one by one, because padding and
a shift do not commute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.grad import conv2d_input

Pair = tuple[int, int]
Images = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class Convolution:
    """y = weight * x + bias, with zero padding."""

    weight: Tensor
    """(out, in, height, width)."""
    bias: Tensor
    """(out,)."""
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @classmethod
    def diagonal(cls, factor: Tensor, shift: Tensor) -> Convolution:
        """factor * x + shift, (channel,) each."""
        return cls(factor.diag()[:, :, None, None], shift)

    def __call__(self, x: Images) -> Images:
        return self.linear(x) + self.bias.view(-1, 1, 1)

    def linear(self, x: Images, weight: Tensor | None = None) -> Images:
        """Without the bias; perhaps with other weights."""
        weight = self.weight if weight is None else weight
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)

    def transposed(self, y: Images, shape: Sequence[int]) -> Images:
        """The transpose of the linear part, onto images of that shape (batch, channel, height, width)."""
        geometry: tuple[Any, ...] = (self.stride, self.padding, self.dilation)
        return conv2d_input(shape, self.weight, y, *geometry)

    @property
    def terms(self) -> int:
        """Products that are summed in one output."""
        return self.weight[0].numel()


@dataclass(frozen=True)
class Affine:
    """Convolutions one after the other, of which at most one is larger than a factor per channel."""

    parts: tuple[Convolution, ...]
    kernel: Convolution
    """The linear part of them all."""

    def then(self, other: Affine) -> Affine | None:
        """Both as one, or None if neither is a factor per channel."""
        first, second = self.kernel, other.kernel
        if _pointwise(second):
            weight, geometry = torch.einsum("oi,iahw->oahw", second.weight[..., 0, 0], first.weight), first
        elif _pointwise(first):
            weight, geometry = torch.einsum("oihw,ia->oahw", second.weight, first.weight[..., 0, 0]), second
        else:
            return None
        kernel = replace(geometry, weight=weight, bias=torch.zeros_like(second.bias))
        return Affine((*self.parts, *other.parts), kernel)

    def __call__(self, x: Images) -> Images:
        for part in self.parts:
            x = part(x)
        return x

    def deviations(self, up: Images, down: Images) -> tuple[Images, Images]:
        """How far outputs can rise and fall if inputs rise by `up` and fall by `down` at most (interval arithmetic)."""
        positive, negative = self.kernel.weight.clamp(min=0), -self.kernel.weight.clamp(max=0)
        linear = self.kernel.linear
        return linear(up, positive) + linear(down, negative), linear(down, positive) + linear(up, negative)

    def row_norms(self, mask: Images) -> Images:
        """How far each output can move per unit of l2 length, if only inputs where mask is 1 can move."""
        return self.kernel.linear(mask, self.kernel.weight.square()).clamp(min=0).sqrt()


def _pointwise(kernel: Convolution) -> bool:
    geometry = (kernel.stride, kernel.padding, tuple(kernel.weight.shape[2:]))
    return geometry == ((1, 1), (0, 0), (1, 1)) and kernel.weight.shape[0] == kernel.weight.shape[1]


Norm = Callable[[Affine, Images, Images], Float[Tensor, " batch"]]
"""(affine, slope, mask) -> the norm of diag(slope) W diag(mask) for every example: proven, or estimated in training."""
