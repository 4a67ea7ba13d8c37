"""Operations that are not affine, by what every domain needs to know: how far they spread, and in which direction.

`ORDERED` ones rise with each of their inputs and pick among them (maxima, pools, ends of a ReLU): a box goes
through the operation itself, and a deviation as if each output were the furthest of what it picks from.
`ACTIVATIONS` act on each number alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Args = Mapping[str, Any]


@dataclass(frozen=True)
class Ordered:
    """An operation that rises with each of its inputs, and moves no output by more than an input moves."""

    gain: Callable[[Args], float]
    """Its Lipschitz constant in l2, of all its inputs together."""
    furthest: Callable[[Args, Callable[..., Tensor], list[Tensor]], Tensor]
    """(arguments, the operation, deviations of its inputs) -> deviations of its outputs."""


def _itself(args: Args, operation: Callable[..., Tensor], deviations: list[Tensor]) -> Tensor:
    return operation(*deviations)


def _max_pool_gain(args: Args) -> float:
    """The root of the number of windows that can pick one pixel."""
    kernel, padding = _pair(args["kernel_size"]), _pair(args["dilation"])
    strides = _pair(args["stride"] or args["kernel_size"])
    windows = [-(-k // (s // math.gcd(s, d))) for k, s, d in zip(kernel, strides, padding, strict=True)]
    return math.sqrt(math.prod(windows)) * (1 + 1e-15)


def _pairwise_max(args: Args, operation: Callable[..., Tensor], deviations: list[Tensor]) -> Tensor:
    """Of MinMax: both of a pair move as far as the one that moves further."""
    (found,) = deviations
    first, second = found.chunk(2, args["dim"])
    larger = torch.maximum(first, second)
    return torch.cat([larger, larger], args["dim"])


ORDERED: dict[str, Ordered] = {
    "clip": Ordered(lambda a: 1.0, lambda a, f, d: d[0]),
    "minmax": Ordered(lambda a: 1.0, _pairwise_max),
    "maximum": Ordered(lambda a: 1.0, lambda a, f, d: torch.maximum(*d)),
    "minimum": Ordered(lambda a: 1.0, lambda a, f, d: torch.maximum(*d)),
    "aten.max_pool2d.default": Ordered(_max_pool_gain, _itself),
    "aten.amax.default": Ordered(lambda a: 1.0, _itself),
    "aten.amin.default": Ordered(lambda a: 1.0, lambda a, f, d: d[0].amax(a["dim"], a["keepdim"])),
    "aten.cat.default": Ordered(lambda a: 1.0, _itself),
    "aten.stack.default": Ordered(lambda a: 1.0, _itself),
}
"""The gain of several inputs is that of the l2 length of all of them."""


@dataclass(frozen=True)
class Activation:
    """A function of one number."""

    slope: Callable[[Args], float]
    """Its Lipschitz constant."""
    turns: Callable[[Args], tuple[float, ...]] = lambda args: ()
    """Where it stops rising or falling: its extremes on an interval are at these points or at the ends."""


def _elu_slope(a: Args) -> float:
    if a["input_scale"] < 0:
        raise ValueError("with a negative input_scale it grows ever faster")
    return max(abs(a["scale"]), abs(a["scale"] * a["alpha"] * a["input_scale"])) * (1 + 1e-15)


ACTIVATIONS: dict[str, Activation] = {
    "aten.leaky_relu.default": Activation(lambda a: max(1.0, abs(a["negative_slope"])), lambda a: (0.0,)),
    "aten.abs.default": Activation(lambda a: 1.0, lambda a: (0.0,)),
    "aten.tanh.default": Activation(lambda a: 1.0),
    "aten.sigmoid.default": Activation(lambda a: 0.25),
    "aten.elu.default": Activation(_elu_slope, lambda a: (0.0,)),
    "aten.silu.default": Activation(lambda a: 1.09983933, lambda a: (-1.2784645427610738,)),
    "aten.gelu.default": Activation(
        lambda a: 1.128905 if a["approximate"] == "none" else 1.128994,
        lambda a: (-0.7517915246935645,) if a["approximate"] == "none" else (-0.7524614220710162,),
    ),
    "aten.hardswish.default": Activation(lambda a: 1.5, lambda a: (-3.0, -1.5, 3.0)),
    "aten.hardsigmoid.default": Activation(lambda a: 1 / 6 * (1 + 1e-15)),
}

CLIPS: dict[str, Callable[[Args], tuple[Any, Any]]] = {
    "aten.relu.default": lambda a: (0.0, None),
    "aten.relu6.default": lambda a: (0.0, 6.0),
    "aten.hardtanh.default": lambda a: (a["min_val"], a["max_val"]),
    "aten.clamp.default": lambda a: (a["min"], a["max"]),
    "aten.clamp.Tensor": lambda a: (a["min"], a["max"]),
    "aten.clamp_min.default": lambda a: (a["min"], None),
    "aten.clamp_max.default": lambda a: (None, a["max"]),
    "aten.maximum.default": lambda a: (_constant(a), None),
    "aten.minimum.default": lambda a: (None, _constant(a)),
}
"""Operations that cut numbers off at two ends: (lower, upper), None for no end; constants only."""


def _constant(a: Args) -> Any:
    return a["self"] if isinstance(a["self"], Tensor) else a["other"]


def _pair(value: Any) -> tuple[int, int]:
    value = (value,) if isinstance(value, int) else tuple(value)
    return (value[0], value[-1])
