"""A proven bound for one layer, by its type. A layer without a proof is refused by name, never taken to be 1-Lipschitz.

A layer of your own takes part by a method `prove(input_shape) -> Bound`.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...bounds.bound import Bound
from ...bounds.norms import conv2d_norm, matrix_norm, remembered
from ...bounds.verified import up
from .layers import LinearResidualBlock, MinMax, Shift

Shape = tuple[int, ...]
"""Of one example, without the batch."""


def prove(layer: nn.Module, shape: Shape, name: str = "") -> Bound:
    """A bound on a single layer in eval mode, for inputs of that shape.

    Raises:
        ValueError: there is no proof for the layer or for its settings.
    """
    kind = parametrize.type_before_parametrizations(layer)
    called = _called(layer, name)
    try:
        if kind in RULES:
            return RULES[kind](layer, shape)
        if hasattr(layer, "prove"):
            return layer.prove(shape)  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise ValueError(f"the layer {called}: {error}") from error
    known = ", ".join(sorted(rule.__name__ for rule in RULES))
    raise ValueError(f"there is no proof for the layer {called}; there is one for {known}, or give it a method `prove`")


def refuse_change(module: nn.Module, name: str) -> None:
    """A module that may compute something else next time has no bound.

    Raises:
        ValueError: it is in training mode, or has hooks.
    """
    if module.training and not isinstance(module, nn.Sequential):
        raise ValueError(f"{_called(module, name)} is in training mode; call .eval() on the network first")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{_called(module, name)} has forward hooks, which may change what it computes; remove them")


def _called(layer: nn.Module, name: str) -> str:
    kind = parametrize.type_before_parametrizations(layer).__name__
    return f"{kind} {name!r}" if name else kind


def _nonexpansive(layer: nn.Module, shape: Shape) -> Bound:
    return Bound.of_layer(1.0)


def _linear(layer: nn.Linear, shape: Shape) -> Bound:
    magnitude = layer.weight.detach().double().abs()
    offset = 0.0 if layer.bias is None else _length(layer.bias, math.prod(shape[:-1]))
    gain = _schur(magnitude.sum(1), magnitude.sum(0))
    norm = remembered(matrix_norm, layer.weight)
    return Bound.of_layer(norm, offset, gain, terms=layer.in_features + 2)


def _conv2d(layer: nn.Conv2d, shape: Shape) -> Bound:
    size = shape[-2], shape[-1]
    geometry = (size, layer.stride, layer.padding, layer.padding_mode, layer.groups, layer.dilation)
    norm = remembered(conv2d_norm, layer.weight, *geometry)
    magnitude = layer.weight.detach().double().abs()
    into_pixels = magnitude.unflatten(0, (layer.groups, -1)).sum((1, 3, 4))
    gain = _schur(magnitude.sum((1, 2, 3)), into_pixels)
    outputs = math.prod(size) if layer.bias is None else math.prod(output_shape(layer, shape)[-2:])
    offset = 0.0 if layer.bias is None else _length(layer.bias, outputs)
    return Bound.of_layer(norm, offset, gain, terms=layer.weight[0].numel() + 2)


def _linear_residual(layer: LinearResidualBlock, shape: Shape) -> Bound:
    shift = Bound.of_layer(1.0, _length(layer.mean, shape[-1] * shape[-2]), terms=1)
    return shift.after(prove(layer.conv, shape))


def _shift(layer: Shift, shape: Shape) -> Bound:
    return Bound.of_layer(1.0, abs(layer.by) * math.sqrt(math.prod(shape)), terms=1)


def _leaky_relu(layer: nn.LeakyReLU, shape: Shape) -> Bound:
    return Bound.of_layer(max(1.0, abs(layer.negative_slope)), terms=1)


def _avg_pool(layer: nn.AvgPool2d, shape: Shape) -> Bound:
    if layer.ceil_mode or layer.divisor_override or (layer.padding and not layer.count_include_pad):
        raise ValueError("average pooling has a proof without ceil_mode, divisor_override and count_include_pad=False")
    sides = _pair(layer.kernel_size)
    mean = torch.full((1, 1, *sides), 1 / math.prod(sides), dtype=torch.float64)
    norm = conv2d_norm(mean, (shape[-2], shape[-1]), layer.stride, layer.padding)
    return Bound.of_layer(up(norm), terms=math.prod(sides) + 2)


def _max_pool(layer: nn.MaxPool2d, shape: Shape) -> Bound:
    """A pixel can win in every window that covers it."""
    if _pair(layer.dilation) != (1, 1) or layer.return_indices:
        raise ValueError("max pooling has a proof for dilation 1 and return_indices=False")
    windows = [-(-k // s) for k, s in zip(_pair(layer.kernel_size), _pair(layer.stride), strict=True)]
    return Bound.of_layer(up(math.sqrt(math.prod(windows))))


def _batch_norm(layer: nn.BatchNorm2d, shape: Shape) -> Bound:
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError("batch normalisation without running statistics depends on the batch")
    factor = (layer.running_var.double() + layer.eps).rsqrt()
    factor = factor if layer.weight is None else factor * layer.weight.detach().double()
    shift = -layer.running_mean.double() * factor
    shift = shift if layer.bias is None else shift + layer.bias.detach().double()
    norm = float(factor.abs().max()) * (1 + 1e-14)
    return Bound.of_layer(norm, _length(shift, shape[-2] * shape[-1]), terms=8)


RULES: dict[type, Callable[[Any, Shape], Bound]] = {
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.ReLU, nn.PixelUnshuffle, nn.Dropout, MinMax), _nonexpansive),
    nn.LeakyReLU: _leaky_relu,
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.AvgPool2d: _avg_pool,
    nn.MaxPool2d: _max_pool,
    nn.BatchNorm2d: _batch_norm,
    LinearResidualBlock: _linear_residual,
    Shift: _shift,
}
"""By exact type: a subclass may compute something else."""


def output_shape(layer: nn.Module, shape: Shape) -> Shape:
    """Shape of what the layer makes of one example."""
    like = next(itertools.chain(layer.parameters(), layer.buffers()), torch.zeros(()))
    with torch.no_grad():
        return tuple(layer(torch.zeros(1, *shape, dtype=like.dtype, device=like.device)).shape[1:])


def _schur(rows: Tensor, columns: Tensor) -> float:
    """At least the l2 norm of a matrix of absolute values with these sums of rows and columns."""
    return math.sqrt(float(rows.max()) * float(columns.max())) * (1 + 1e-6)


def _length(bias: Tensor, copies: int) -> float:
    """l2 norm of a bias that is added at so many places."""
    return float(torch.linalg.vector_norm(bias.detach().double())) * math.sqrt(copies) * (1 + 1e-6)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
