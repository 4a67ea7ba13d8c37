"""Bounds on networks: chains and residual sums of layers that have a proof.

`lipschitz_bound(module, input_shape)` is the one call. It bounds the weights as they are; `materialise` makes the
float64 copy of stock layers that a certificate runs and bounds, so that both use the same numbers.
"""

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from ...bounds import l2
from ...bounds.bound import IDENTITY, Bound
from ...program.program import Runner
from .layers import Residual
from .proofs import Shape, output_shape, prove, refuse_change

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Leaf:
    """A layer of a network that is no container, and the shape of one example that enters it."""

    name: str
    layer: nn.Module
    shape: Shape


def lipschitz_bound(module: nn.Module, input_shape: Shape) -> float:
    """A proven upper bound on the l2 -> l2 Lipschitz constant of a network in eval mode, rounded up.

    Args:
        module: chains (`nn.Sequential`) and sums (`Residual`) of layers with a proof; or the program of a run.
        input_shape: of one example, (channel, height, width) or (feature,).

    Raises:
        ValueError: a layer has no proof, which the message names, or a part is in training mode.
    """
    if isinstance(module, Runner) and (program := module.program):
        return l2.lipschitz_bound(program)
    return network_bound(module, input_shape).norm


def network_bound(module: nn.Module, shape: Shape, name: str = "") -> Bound:
    """All that is proven about a network: its Lipschitz constant, and its rounding error in float64."""
    refuse_change(module, name)
    if type(module) is nn.Sequential:
        total = IDENTITY
        for child, part in module.named_children():
            total = network_bound(part, shape, f"{name}.{child}" if name else child).after(total)
            shape = output_shape(part, shape)
        return total
    if type(module) is Residual:
        return network_bound(module.body, shape, f"{name}.body" if name else "body").plus_identity()
    return prove(module, shape, name)


def leaves(module: nn.Module, shape: Shape, name: str = "") -> Iterator[Leaf]:
    """The layers of a network in the order in which they compute."""
    if type(module) in (nn.Sequential, Residual):
        for child, part in module.named_children():
            yield from leaves(part, shape, f"{name}.{child}" if name else child)
            shape = output_shape(part, shape)
    else:
        yield Leaf(name, module, shape)


def layer_bounds(module: nn.Module, input_shape: Shape) -> dict[str, float]:
    """The proven Lipschitz constant of each layer, by its name in the network."""
    return {leaf.name: network_bound(leaf.layer, leaf.shape, leaf.name).norm for leaf in leaves(module, input_shape)}


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


def weights_hash(module: nn.Module) -> str:
    """16 hex digits of the SHA-256 of all weights and buffers, with their names and types."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
