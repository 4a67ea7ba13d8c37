"""The local Lipschitz constant of live layers around images, estimated in every step of a training.

Huang, Zhang, Shi, Kolter & Anandkumar, "Training Certifiably Robust Neural Networks with Efficient Local Lipschitz
Bounds", NeurIPS 2021, https://arxiv.org/abs/2111.01395, section 3. It follows boxes and balls as
`holdfast.bounds.local` does for certificates, but with norms by power iteration, without rounding errors, and so that
gradients reach the weights: nothing is proven here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...bounds.convolution import Affine, Convolution, Images, Norm, Pair, ungrouped
from ...bounds.linear import norm_of
from ...bounds.operations import ORDERED
from .layers import ClippedReLU, MinMax, ReLUBlock, Residual

POOLS = (nn.AvgPool2d, nn.MaxPool2d)


@dataclass(frozen=True)
class Region:
    """Where f(x') can be for all x' within gamma of x, for a batch of images."""

    value: Tensor
    """f(x), (batch, channel, height, width); features without place are 1x1 images."""
    lower: Tensor
    upper: Tensor
    """The box around all f(x')."""
    reach: Float[Tensor, " batch"]
    """max |f(x') - f(x)|, in l2."""
    constant: Float[Tensor, " batch"]
    """The Lipschitz constant of f between x and every x': the product of the layers'."""

    def boxed(self) -> Region:
        """The reach is no larger than the distance from the value to the furthest corner of the box."""
        furthest = torch.maximum(self.upper - self.value, self.value - self.lower)
        return replace(self, reach=torch.minimum(self.reach, furthest.flatten(1).norm(dim=1)))

    def mapped(self, layer: nn.Module, constant: float) -> Region:
        """After a layer that rises with each of its inputs, which acts on the box, and has that Lipschitz constant."""
        value, lower, upper = (_plain(layer)(x) for x in (self.value, self.lower, self.upper))
        return Region(value, lower, upper, self.reach * constant, self.constant * constant).boxed()

    def reshaped(self, *shape: int) -> Region:
        """The same numbers as images of another shape."""
        value, lower, upper = (x.reshape(len(x), *shape) for x in (self.value, self.lower, self.upper))
        return replace(self, value=value, lower=lower, upper=upper)


def local_constants(module: nn.Module, x: Images, gamma: float, norm: Norm) -> Float[Tensor, " batch"]:
    """Estimates of the local Lipschitz constant of a network around images, differentiable in its weights.

    Args:
        module: chains (`nn.Sequential`) and sums (`Residual`, `ReLUBlock`) of layers with an estimate.
        x: images (batch, channel, height, width), of the precision of the network.
        gamma: radius of the balls, in pixel units.
        norm: the norm of a masked operator, estimated; see `holdfast.bounds.convolution.estimated_norm`.

    Raises:
        ValueError: a layer has no estimate, which the message names.
    """
    radius = x.new_full((len(x),), gamma)
    return _follow(module, Region(x, x - gamma, x + gamma, radius, torch.ones_like(radius)), norm, "").constant


def affine_of(layer: nn.Module) -> Affine | None:
    """A stock layer as a convolution: Conv2d, Linear, BatchNorm2d by its running statistics; None for all others.

    A layer of one's own takes part by a method `factor_and_shift() -> (channel,), (channel,)`. Convolutions
    with other padding than zeros have no part.
    """
    part = _convolution(layer)
    return part and Affine((part,), replace(part, bias=torch.zeros_like(part.bias)))


def _convolution(layer: nn.Module) -> Convolution | None:
    kind = parametrize.type_before_parametrizations(layer)
    if isinstance(layer, nn.Linear) and kind is nn.Linear:
        return Convolution(layer.weight[:, :, None, None], _or_zeros(layer.bias, layer.weight))
    if isinstance(layer, nn.Conv2d) and kind is nn.Conv2d:
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return None
        geometry = _pair(layer.stride), _pair(layer.padding), _pair(layer.dilation)
        return Convolution(ungrouped(layer.weight, layer.groups), _or_zeros(layer.bias, layer.weight), *geometry)
    if isinstance(layer, nn.BatchNorm2d) and kind is nn.BatchNorm2d:
        return Convolution.diagonal(*_batch_norm(layer))
    if hasattr(layer, "factor_and_shift"):
        return Convolution.diagonal(*layer.factor_and_shift())  # pyright: ignore[reportCallIssue]
    return None


def _batch_norm(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError("batch normalization without running statistics depends on the batch")
    factor = (layer.running_var + layer.eps).rsqrt()
    factor = factor if layer.weight is None else factor * layer.weight
    shift = -layer.running_mean * factor
    return factor, shift if layer.bias is None else shift + layer.bias


def _follow(module: nn.Module, region: Region, norm: Norm, name: str) -> Region:
    waiting: Affine | None = None
    for called, layer in _parts(module, name):
        affine = affine_of(layer)
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
    mask = (region.upper > region.lower).to(region.value)
    value = affine(region.value)
    rise, fall = ((end - region.value).clamp(min=0) for end in (region.upper, 2 * region.value - region.lower))
    ball = affine.row_norms(mask) * region.reach.view(-1, 1, 1, 1)
    up, down = (torch.minimum(end, ball) for end in affine.deviations(rise, fall))
    lower, upper = value - down, value + up
    slope = torch.ones_like(value) if activation is None else _slopes(value, lower, upper, activation)
    through = _plain(activation) if activation else nn.Identity()
    factor = norm(affine, slope, mask)
    reach, constant = factor * region.reach, factor * region.constant
    return Region(through(value), through(lower), through(upper), reach, constant).boxed()


def _plain(layer: nn.Module) -> nn.Module:
    """The layer, computing in new memory."""
    return nn.ReLU() if isinstance(layer, nn.ReLU) else layer


def _slopes(value: Tensor, lower: Tensor, upper: Tensor, activation: nn.Module) -> Tensor:
    """As `holdfast.bounds.local.slopes`, with a gradient to the threshold."""
    end = activation.threshold if isinstance(activation, ClippedReLU) else value.new_tensor(torch.inf)
    risen = torch.minimum(upper, end).clamp(min=0)
    fallen = (end - lower.clamp(min=0)).clamp(min=0)
    below, above = (-value).clamp(min=0), (value - end).clamp(min=0)
    tiny = torch.finfo(value.dtype).tiny  # 0 / 0 would give NaN as the gradient even where it is not chosen
    slope = torch.where(below > 0, risen / (risen + below).clamp(min=tiny), 1.0)
    return torch.where(above > 0, fallen / (fallen + above).clamp(min=tiny), slope)


def _other(region: Region, layer: nn.Module, norm: Norm, name: str) -> Region:
    """After a layer that is neither affine nor a ReLU behind an affine one."""
    if isinstance(layer, nn.Identity | nn.Dropout):
        return region
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
        return region.reshaped(-1, 1, 1)
    if type(layer) is Residual:
        return _sum(region, _follow(layer.body, region, norm, f"{name}.body" if name else "body"))
    if type(layer) is ReLUBlock:
        branch, shortcut = (_follow(part, region, norm, name) for part in (layer.branch, layer.shortcut))
        return _sum(branch, shortcut).mapped(layer.activation, 1.0)
    if isinstance(layer, (*POOLS, nn.ReLU, ClippedReLU)):
        return region.mapped(layer, _pool_constant(layer, tuple(region.value.shape)))
    if type(layer) is MinMax:
        away = region.reach.view(-1, 1, 1, 1)
        return replace(region, value=(value := layer(region.value)), lower=value - away, upper=value + away)
    raise ValueError(f"there is no estimate for {name or 'the layer'}, a {type(layer).__name__}, in training")


def _pool_constant(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """1 for what is no pool."""
    args: dict[str, Any] = {"dilation": 1, **{name: getattr(layer, name) for name in vars(layer) if name[0] != "_"}}
    if isinstance(layer, nn.MaxPool2d):
        return ORDERED["aten.max_pool2d.default"].gain(args)
    found = norm_of("aten.avg_pool2d.default", args, shape, ()) if isinstance(layer, nn.AvgPool2d) else None
    return found or 1.0


def _sum(x: Region, y: Region) -> Region:
    value, lower, upper = x.value + y.value, x.lower + y.lower, x.upper + y.upper
    return Region(value, lower, upper, x.reach + y.reach, x.constant + y.constant).boxed()


def _or_zeros(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight)) if bias is None else bias


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
