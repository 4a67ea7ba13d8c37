"""Which affine operations are convolutions, and sums of two as one."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .convolution import Convolution
from .linear import LINEAR, Args, batch_norm_factor, matrix, pair
from .norms import _padding_in_pixels


def kernel_of(op: str, a: Args, shape: tuple[int, ...]) -> Convolution | None:
    """The linear part as a convolution of images (row, channel, height, width) or of features, which are 1x1 images."""
    if shape[0] != 1 or len(shape) not in (2, 4):
        return None
    if op in ("aten.conv2d.default", "aten.conv2d.padding"):
        weight, dilation = ungrouped(a["weight"], a["groups"]), pair(a["dilation"])
        padding = _padding_in_pixels(a["padding"], weight.shape[2:], dilation)
        return Convolution(weight, weight.new_zeros(len(weight)), pair(a["stride"]), padding, dilation)
    if len(shape) == 2 and (weight := matrix(op, a)) is not None and a.get("alpha", 1) == 1:
        return Convolution(weight[:, :, None, None], weight.new_zeros(len(weight)))
    factor = _channel_factor(op, a, shape)
    return None if factor is None else Convolution.diagonal(factor, torch.zeros_like(factor))


def _channel_factor(op: str, a: Args, shape: tuple[int, ...]) -> Tensor | None:
    """(channel,): what each channel is multiplied by, for operations that do no more, but for a shift."""
    if op == "aten.batch_norm.default":
        return batch_norm_factor(a)
    if op not in ("aten.mul.Tensor", "aten.div.Tensor", "aten.add.Tensor", "aten.sub.Tensor", "aten.neg.default"):
        return None
    made = LINEAR[op](a, torch.ones(shape, dtype=torch.float64), lambda w: w)
    if tuple(made.shape) != shape:
        return None
    spread = made.reshape(shape[1], -1)
    return spread[:, 0] if bool((spread == spread[:, :1]).all()) else None


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """The weights of a convolution in groups as those of one without: zero between the groups."""
    return (
        weight
        if groups == 1
        else torch.cat(
            [
                F.pad(part, (0, 0, 0, 0, i * part.shape[1], (groups - 1 - i) * part.shape[1]))
                for i, part in enumerate(weight.chunk(groups))
            ]
        )
    )


def summed(one: Convolution, other: Convolution, factor: float, shape: tuple[int, ...]) -> Convolution | None:
    """one + factor * other as a single convolution of inputs of that shape, or None."""
    size = tuple(shape[2:]) or (1, 1)
    if one.stride != other.stride or one.weight.shape[:2] != other.weight.shape[:2]:
        return None
    reach = [_reach(kernel) for kernel in (one, other)]
    before = tuple(max(r[axis][0] for r in reach) for axis in (0, 1))
    after = tuple(max(r[axis][1] for r in reach) for axis in (0, 1))
    padding = (max(before[0], 0), max(before[1], 0))
    weight = _placed(one, padding, after) + factor * _placed(other, padding, after)
    both = replace(one, weight=weight, bias=torch.zeros_like(one.bias), padding=padding, dilation=(1, 1))
    sizes = {_outputs(kernel, size) for kernel in (one, other, both)}
    return both if len(sizes) == 1 else None


def _reach(kernel: Convolution) -> list[tuple[int, int]]:
    """Per axis, how many pixels before and after its own position an output sees."""
    sides, padding, dilation = kernel.weight.shape[2:], kernel.padding, kernel.dilation
    return [(padding[i], dilation[i] * (sides[i] - 1) - padding[i]) for i in (0, 1)]


def _placed(kernel: Convolution, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    """The kernel without dilation on a window that reaches that far."""
    sides = [before[i] + max(after[i], 0) + 1 for i in (0, 1)]
    weight = kernel.weight.new_zeros(*kernel.weight.shape[:2], *sides)
    starts = [before[i] - kernel.padding[i] for i in (0, 1)]
    rows, columns = (slice(starts[i], None, kernel.dilation[i]) for i in (0, 1))
    height, width = kernel.weight.shape[2:]
    weight[:, :, rows, columns][:, :, :height, :width] = kernel.weight
    return weight


def _outputs(kernel: Convolution, size: tuple[int, ...]) -> tuple[int, ...]:
    sides = kernel.weight.shape[2:]
    reach = [size[i] + 2 * kernel.padding[i] - kernel.dilation[i] * (sides[i] - 1) - 1 for i in (0, 1)]
    return tuple(reach[i] // kernel.stride[i] + 1 for i in (0, 1))
