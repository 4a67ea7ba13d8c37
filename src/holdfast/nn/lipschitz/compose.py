"""The constant of a network, its layers one by one for what training estimates, and its plain copy.

`lipschitz_bound(module, input_shape)` proves: it captures the network as a program and bounds that, so that hooks,
layers that are used twice and code of one's own count as they run. The walk over layers only serves estimates.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from ...bounds import l2
from ...core.arguments import sizes
from ...program import capture_on_copy
from ...program.program import Runner
from .layers import Residual

Module = TypeVar("Module", bound=nn.Module)

Shape = tuple[int, ...]
"""Of one example, without the batch."""


@dataclass(frozen=True)
class Leaf:
    """A layer of a network that is no container, and the shape of one example that enters it."""

    name: str
    layer: nn.Module
    shape: Shape


def lipschitz_bound(module: nn.Module, input_shape: Shape) -> float:
    """A proven upper bound on the l2 -> l2 Lipschitz constant of a network in eval mode, rounded up.

    It is about the function of real numbers that the network's operations and its weights, as they are now, stand for.

    Args:
        module: any network whose operations have a rule (`holdfast.bounds.operations`), or the program of a run.
        input_shape: of one example, (channel, height, width) or (feature,).

    Raises:
        ValueError: the network is in training mode, cannot be captured as a program, or has an operation without a
            rule, which the message names with the line of code that it comes from.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"expected a torch.nn.Module to bound, got {type(module).__name__}")
    input_shape = sizes("input_shape", input_shape)
    own = module.program if isinstance(module, Runner) else None
    if own is not None and own.input_shape != input_shape:
        raise ValueError(f"the program is for inputs (batch, *{own.input_shape}), got the shape {input_shape}")
    return l2.lipschitz_bound(own or capture_on_copy(module, input_shape))


def leaves(module: nn.Module, shape: Shape, name: str = "") -> Iterator[Leaf]:
    """The layers of chains (`nn.Sequential`) and sums (`Residual`), in the order in which they compute."""
    if type(module) in (nn.Sequential, Residual):
        for child, part in module.named_children():
            yield from leaves(part, shape, f"{name}.{child}" if name else child)
            shape = output_shape(part, shape)
    else:
        yield Leaf(name, module, shape)


def output_shape(layer: nn.Module, shape: Shape) -> Shape:
    """Shape of what the layer makes of one example."""
    like = next(itertools.chain(layer.parameters(), layer.buffers()), torch.zeros(()))
    with torch.no_grad():
        return tuple(layer(torch.zeros(1, *shape, dtype=like.dtype, device=like.device)).shape[1:])


def materialise(module: Module) -> Module:
    """A float64 copy of a network in eval mode whose weights are plain tensors: nothing is left to recompute.

    Raises:
        ValueError: a part of the network is in training mode.
    """
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        raise ValueError(f"a network in training mode has no certificate ({training[0] or 'all of it'}); call .eval()")
    if isinstance(module, Runner) and (program := module.program):
        return program.to(next(module.buffers(), torch.zeros(())).device).module(torch.float64)  # pyright: ignore[reportReturnType]
    with torch.inference_mode(False), torch.no_grad():
        plain = copy.deepcopy(module).double()
        for part in list(plain.modules()):
            if parametrize.is_parametrized(part):
                _make_plain(part)
        return plain.requires_grad_(False)


def _make_plain(layer: nn.Module) -> None:
    """`remove_parametrizations` would take the weights from the original too: a copy shares its class."""
    weights = {name: getattr(layer, name) for name in layer.parametrizations}  # pyright: ignore[reportGeneralTypeIssues]
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    for name, value in weights.items():
        layer.register_parameter(name, nn.Parameter(value))
