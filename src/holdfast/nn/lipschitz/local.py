"""How far a network can move when its input moves within a small ball: boxes and balls, layer by layer.

Huang, Zhang, Shi, Kolter & Anandkumar, "Training Certifiably Robust Neural Networks with Efficient Local Lipschitz
Bounds", NeurIPS 2021, https://arxiv.org/abs/2111.01395, section 3: a unit of a clipped ReLU that stays at one of its
ends for the whole ball passes nothing on, so its row leaves the operator norm. Two things are tighter here:
- A unit that leaves its end only near the edge of the ball has a slope below 1. With pre-activation z <= 0, rising by
  at most h, it moves by max(0, z + u) <= u (z + h) / h for 0 <= u <= h, a chord of a convex function; and the same at
  the upper end. Slopes of 0 and 1 are the "may vary" masks of the paper.
- What is followed is the distance max |f(x') - f(x)| over the ball itself, and the box may bound it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...bounds.bound import Bound
from ...bounds.convolution import Affine, Images, Norm
from ...bounds.masked import proven_norm
from ...bounds.verified import UNIT
from .clipped import ClippedReLU
from .layers import ReLUBlock, Residual
from .proofs import prove

WIDEN = 1 + 1e-11
"""Covers the rounding of the few float64 operations that make a bound from positive numbers."""


@dataclass(frozen=True)
class Region:
    """Where f(x') can be for all x' within gamma of x, for a batch of images."""

    value: Tensor
    """f(x), (batch, channel, height, width); features without place are 1x1 images."""
    lower: Tensor
    upper: Tensor
    """The box around all f(x')."""
    reach: Float[Tensor, " batch"]
    """At least max |f(x') - f(x)|, in l2."""
    constant: Float[Tensor, " batch"]
    """A Lipschitz constant of f between x and every x': the product of the layers'."""
    error: Tensor
    """How far `value` can be from the true f(x), by rounding."""

    @classmethod
    def ball(cls, x: Images, gamma: Float[Tensor, " batch"]) -> Region:
        """All images within gamma of x."""
        wide = gamma.view(-1, 1, 1, 1) * WIDEN
        return cls(x, x - wide, x + wide, gamma, torch.ones_like(gamma), torch.zeros_like(x))

    def boxed(self) -> Region:
        """The reach is no larger than the distance from the value to the furthest corner of the box."""
        furthest = torch.maximum(self.upper - self.value, self.value - self.lower) + self.error
        corner = furthest.flatten(1).norm(dim=1) * WIDEN
        return replace(self, reach=torch.minimum(self.reach * WIDEN, corner))

    def mapped(self, layer: nn.Module, constant: float) -> Region:
        """After a layer that rises with each of its inputs, which acts on the box, and has that Lipschitz constant."""
        value, lower, upper = (_plain(layer)(x) for x in (self.value, self.lower, self.upper))
        rounding = 64 * UNIT * torch.maximum(lower.abs(), upper.abs())
        error = layer(self.error) + rounding if isinstance(layer, POOLS) else self.error
        reached = Region(
            value, lower - rounding, upper + rounding, self.reach * constant, self.constant * constant, error
        )
        return reached.boxed()

    def reshaped(self, *shape: int) -> Region:
        """With other (channel, height, width)."""
        parts = ("value", "lower", "upper", "error")
        return replace(self, **{name: getattr(self, name).reshape(len(self.reach), *shape) for name in parts})


POOLS = (nn.MaxPool2d, nn.AvgPool2d)


def local_bound(
    module: nn.Module, x: Images, gamma: float | Float[Tensor, " batch"], norm: Norm = proven_norm
) -> Region:
    """Where a network can take the balls of l2 radius gamma around some images.

    Args:
        module: chains (`nn.Sequential`) and sums (`Residual`) of layers with a proof. For a proof: the float64 copy
            that `materialise` makes.
        x: images (batch, channel, height, width), of the precision of the network.
        gamma: positive radius, in pixel units; one for all, or one for each.
        norm: `proven_norm`, or in training an estimate that gradients flow through.

    Raises:
        ValueError: gamma is not positive, or a layer has no proof, which the message names.
    """
    radius = torch.as_tensor(gamma, dtype=x.dtype, device=x.device).expand(len(x))
    if not (radius > 0).all():
        raise ValueError(f"gamma must be positive, got {gamma}")
    region = _follow(module, Region.ball(x, radius), norm, "")
    reach, constant = (
        torch.where(found.isnan(), torch.inf, found * WIDEN) for found in (region.reach, region.constant)
    )
    return replace(region, reach=reach, constant=constant)


def _follow(module: nn.Module, region: Region, norm: Norm, name: str) -> Region:
    waiting: Affine | None = None
    for called, layer in _parts(module, name):
        affine = Affine.of(layer)
        if affine:
            together = waiting.then(affine) if waiting else affine
            if waiting and not together:
                region = _step(region, waiting, None, norm)
            waiting = together or affine
        elif waiting and isinstance(layer, nn.ReLU | ClippedReLU):
            region, waiting = _step(region, waiting, layer, norm), None
        else:
            region = _step(region, waiting, None, norm) if waiting else region
            region, waiting = _other(region, layer, norm, called), None
    return _step(region, waiting, None, norm) if waiting else region


def _parts(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a chain, chains within it unpacked."""
    if type(module) is not nn.Sequential:
        yield name, module
        return
    for child, part in module.named_children():
        yield from _parts(part, f"{name}.{child}" if name else child)


def _step(region: Region, affine: Affine, activation: nn.Module | None, norm: Norm) -> Region:
    """After an affine layer, and after the ReLU behind it."""
    mask = (~(region.upper <= region.lower)).to(region.value)  # NaN may vary
    value = affine(region.value)
    rise, fall = ((end - region.value).clamp(min=0) for end in (region.upper, 2 * region.value - region.lower))
    ball = affine.row_norms(mask) * region.reach.view(-1, 1, 1, 1)
    error = affine.errors(region.error, torch.maximum(region.lower.abs(), region.upper.abs()))
    up, down = (torch.minimum(end, ball) * WIDEN + error for end in affine.deviations(rise, fall))
    lower, upper = value - down, value + up
    slope = torch.ones_like(value) if activation is None else _slopes(value, lower, upper, error, activation)
    through = _plain(activation) if activation else nn.Identity()
    factor = norm(affine, slope, mask)
    return Region(
        through(value), through(lower), through(upper), factor * region.reach, factor * region.constant, error
    ).boxed()


def _plain(layer: nn.Module) -> nn.Module:
    """The layer, computing in new memory."""
    return nn.ReLU() if isinstance(layer, nn.ReLU) else layer


def _slopes(value: Tensor, lower: Tensor, upper: Tensor, error: Tensor, activation: nn.Module) -> Tensor:
    """At least |phi(z') - phi(z)| / |z' - z| for z' in the box and a true z within the error of the value.

    1 where z is between the ends of the ReLU; the chord from z where it is beyond one of them.
    """
    end = activation.threshold if isinstance(activation, ClippedReLU) else value.new_tensor(torch.inf)
    risen = torch.minimum(upper, end).clamp(min=0)
    fallen = (end - lower.clamp(min=0)).clamp(min=0)
    below, above = (-(value + error)).clamp(min=0), (value - error - end).clamp(min=0)
    tiny = torch.finfo(value.dtype).tiny  # 0 / 0 would give NaN as the gradient even where it is not chosen
    slope = torch.where(below > 0, risen / (risen + below).clamp(min=tiny), 1.0)
    slope = torch.where(above > 0, fallen / (fallen + above).clamp(min=tiny), slope)
    return (slope * WIDEN).clamp(max=1)


def _other(region: Region, layer: nn.Module, norm: Norm, name: str) -> Region:
    """After a layer that is neither affine nor a ReLU behind an affine one."""
    shape = tuple(region.value.shape[1:])
    if isinstance(layer, nn.Identity | nn.Dropout):
        return region
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
        return region.reshaped(-1, 1, 1)
    if type(layer) is Residual:
        inner = f"{name}.body" if name else "body"
        return _sum(region, _follow(layer.body, region, norm, inner))
    if type(layer) is ReLUBlock:
        branch, shortcut = (_follow(part, region, norm, name) for part in (layer.branch, layer.shortcut))
        return _sum(branch, shortcut).mapped(layer.activation, 1.0)
    bound = prove(layer, shape, name)
    if isinstance(layer, (*POOLS, nn.ReLU, ClippedReLU)):
        return region.mapped(layer, bound.norm)
    return _without_box(region, layer, bound)


def _without_box(region: Region, layer: nn.Module, bound: Bound) -> Region:
    """After a layer of which only a Lipschitz constant is known: no output moves further than all of them together."""
    length = torch.maximum(region.lower.abs(), region.upper.abs()).flatten(1).norm(dim=1)
    error = bound.norm * region.error.flatten(1).norm(dim=1) + bound.error * length + bound.error_offset
    value, reach = layer(region.value), bound.norm * region.reach * WIDEN
    error = error.view(-1, 1, 1, 1).expand_as(value)
    away = reach.view(-1, 1, 1, 1) + error
    return Region(value, value - away, value + away, reach, bound.norm * region.constant, error)


def _sum(x: Region, y: Region) -> Region:
    size = torch.maximum(x.lower.abs(), x.upper.abs()) + torch.maximum(y.lower.abs(), y.upper.abs())
    error = x.error + y.error + 2 * UNIT * size
    return Region(
        x.value + y.value,
        x.lower + y.lower - error,
        x.upper + y.upper + error,
        x.reach + y.reach,
        x.constant + y.constant,
        error,
    ).boxed()
