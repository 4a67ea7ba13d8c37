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
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.nn.utils import parametrize

from .verified import UNIT

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
    def of(cls, layer: nn.Module) -> Convolution | None:
        """A stock layer as a convolution: Conv2d, Linear, BatchNorm2d by its running statistics; None for all others.

        A layer of your own takes part by a method `factor_and_shift() -> (channel,), (channel,)`. Convolutions in
        groups, or with other padding than zeros, have no part.
        """
        kind = parametrize.type_before_parametrizations(layer)
        if isinstance(layer, nn.Linear) and kind is nn.Linear:
            return cls(layer.weight[:, :, None, None], _or_zeros(layer.bias, layer.weight))
        if isinstance(layer, nn.Conv2d) and kind is nn.Conv2d:
            if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                return None
            geometry = _pair(layer.stride), _pair(layer.padding), _pair(layer.dilation)
            return cls(layer.weight, _or_zeros(layer.bias, layer.weight), *geometry)
        if isinstance(layer, nn.BatchNorm2d) and kind is nn.BatchNorm2d:
            return cls.diagonal(*_batch_norm(layer))
        if hasattr(layer, "factor_and_shift"):
            return cls.diagonal(*layer.factor_and_shift())  # pyright: ignore[reportCallIssue]
        return None

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

    @classmethod
    def of(cls, layer: nn.Module) -> Affine | None:
        """See `Convolution.of`."""
        part = Convolution.of(layer)
        return part and cls((part,), replace(part, bias=torch.zeros_like(part.bias)))

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

    def errors(self, error: Images, size: Images) -> Images:
        """How far computed outputs are from the true ones, for inputs of absolute value up to `size`, off by error."""
        for part in self.parts:
            unit = (part.terms + 4) * UNIT
            bias = part.bias.abs().view(-1, 1, 1)
            moved = part.linear(torch.cat([error, size]), part.weight.abs())
            error, size = moved.chunk(2)
            size = (size + bias) * (1 + unit)
            error = error * (1 + unit) + unit * size
        return error


def _pointwise(kernel: Convolution) -> bool:
    geometry = (kernel.stride, kernel.padding, tuple(kernel.weight.shape[2:]))
    return geometry == ((1, 1), (0, 0), (1, 1)) and kernel.weight.shape[0] == kernel.weight.shape[1]


def _batch_norm(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError("batch normalisation without running statistics depends on the batch")
    factor = (layer.running_var + layer.eps).rsqrt()
    factor = factor if layer.weight is None else factor * layer.weight
    shift = -layer.running_mean * factor
    return factor, shift if layer.bias is None else shift + layer.bias


def _or_zeros(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight)) if bias is None else bias


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


Norm = Callable[[Affine, Images, Images], Float[Tensor, " batch"]]
"""(affine, slope, mask) -> the norm of diag(slope) W diag(mask) for every example: proven, or estimated in training."""
