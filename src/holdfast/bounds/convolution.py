"""An affine part of a network as one convolution, with what a perturbation can do to each of its outputs.

A linear layer is a convolution of 1x1 images; a normalisation before or after a convolution is folded into its kernel.
The kernel decides how far a change is spread; the image itself goes through the layers one by one, because padding and
a shift do not commute. Below: which operations are convolutions, sums of two as one, and the norm of
diag(slope) W diag(mask), another operator for every image: proven for certificates, estimated to train.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.grad import conv2d_input

from .linear import LINEAR, Args, batch_norm_factor, matrix, pair
from .norms import _padding_in_pixels, conv2d_norm, remembered
from .verified import ETA, UNIT, up

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
        if not all(map(_large, (first.weight, second.weight, weight))):
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


SMALLEST = 2.0**-500
"""Weights that are smaller, and not 0, have squares that vanish in float64."""


def _large(weight: Tensor) -> bool:
    return bool(((weight == 0) | (weight.abs() >= SMALLEST)).all())


def _pointwise(kernel: Convolution) -> bool:
    geometry = (kernel.stride, kernel.padding, tuple(kernel.weight.shape[2:]))
    return geometry == ((1, 1), (0, 0), (1, 1)) and kernel.weight.shape[0] == kernel.weight.shape[1]


Norm = Callable[[Affine, Images, Images], Float[Tensor, " batch"]]
"""(affine, slope, mask) -> the norm of diag(slope) W diag(mask) for every example: proven, or estimated in training."""


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
    return both if len(sizes) == 1 and all(_large(kernel.weight) for kernel in (one, other, both)) else None


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


LARGEST_SIDE = 4096
"""Inputs up to which a Gram matrix is assembled; beyond them the masks are not used: the norm of W is as valid."""

STEPS = 40
"""Of the power iteration that proposes a limit; only the time depends on it."""

PRECISION = 4e-3
"""By how much the square of a proven norm may be too large, as a share: more costs factorisations."""


def proven_norm(affine: Affine, slope: Images, mask: Images) -> Tensor:
    """An upper bound on the norm for every example, (batch,), float64; inf where a number is not finite.

    The Gram matrix is assembled window by window. Power iteration only proposes a limit; a Cholesky factorisation of
    limit * I - G proves it up to a rounding error that is added, as in `holdfast.bounds.verified`.

    Args:
        affine: in float64.
        slope: (batch, *output), from 0 to 1.
        mask: (batch, *input), 0 or 1.
    """
    if mask[0].numel() > LARGEST_SIDE:
        kernel, size = affine.kernel, (mask.shape[-2], mask.shape[-1])
        norm = remembered(_kernel_norm, kernel.weight, size, kernel.stride, kernel.padding, kernel.dilation)
        return norm * slope.flatten(1).amax(1)
    estimates = estimated_norm(affine, slope, mask, STEPS)
    bounds = [_proven(affine, *one) for one in zip(slope, mask, estimates.tolist(), strict=True)]
    return torch.tensor(bounds, dtype=slope.dtype, device=slope.device)


def estimated_norm(affine: Affine, slope: Images, mask: Images, steps: int) -> Tensor:
    """Power iteration for every example, (batch,): approaches the norm from below; differentiable in W and slope."""
    kernel = affine.kernel
    with torch.no_grad():
        x = mask * torch.randn(mask.shape[1:], generator=_fixed(), dtype=mask.dtype, device="cpu").to(mask.device)
        for _ in range(steps):
            x = mask * kernel.transposed(slope.square() * kernel.linear(x), mask.shape)
            x = x / x.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
    return (slope * kernel.linear(x)).flatten(1).norm(dim=1)


def _kernel_norm(weight: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> float:
    return conv2d_norm(weight, size, stride, padding, "zeros", 1, dilation)


def _proven(affine: Affine, slope: Tensor, mask: Tensor, estimate: float) -> float:
    """For one example."""
    gram, terms = _gram(affine, slope, mask)
    if not (math.isfinite(estimate) and torch.isfinite(gram).all()):
        return math.inf
    if not len(gram):
        return 0.0
    slack = 8 * UNIT * len(gram) * (terms + len(gram) + 8)
    limit = _limit(gram, max(estimate**2, torch.finfo(gram.dtype).tiny))
    return up(math.sqrt(limit * (1 + slack)) * (1 + 8 * UNIT)) + ETA


def _limit(gram: Tensor, least: float) -> float:
    """A number above the largest eigenvalue, by a Cholesky factorisation, and within PRECISION of the smallest such."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)

    def proven(limit: float) -> bool:
        return int(torch.linalg.cholesky_ex(limit * identity - gram).info) == 0

    step = PRECISION
    while not proven(limit := least * (1 + step)):
        least, step = limit, 2 * step
    while limit > least * (1 + PRECISION):
        middle = (least + limit) / 2
        least, limit = (least, middle) if proven(middle) else (middle, limit)
    return limit


def _gram(affine: Affine, slope: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """W^T diag(slope)^2 W between the inputs that move and are felt, and how many products make an entry."""
    kernel = affine.kernel
    inputs = mask.numel()
    places = torch.arange(1, inputs + 1, dtype=mask.dtype, device=mask.device).view(1, *mask.shape)
    window = F.unfold(places, kernel.weight.shape[2:], kernel.dilation, kernel.padding, kernel.stride)[0].T.long()
    rows = slope.flatten(1).T[:, :, None] * kernel.weight.flatten(1)
    blocks = rows.mT @ rows
    where = window[:, :, None] * (inputs + 1) + window[:, None]
    gram = blocks.new_zeros((inputs + 1) ** 2).index_add_(0, where.flatten(), blocks.flatten())
    gram = gram.view(inputs + 1, inputs + 1)[1:, 1:]
    kept = (mask.flatten() > 0) & ~(gram.diagonal() == 0)
    return gram[kept][:, kept], rows.shape[1] * min(len(window), kernel.terms)


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)
