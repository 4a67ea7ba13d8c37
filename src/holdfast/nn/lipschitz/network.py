"""A classifier with a Lipschitz constant: estimated while it learns, proven when it is certified.

Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021, https://arxiv.org/abs/2102.08452, section 3:
with rows w_i of a linear head on features of constant L, logit_i - logit_j has the constant L |w_i - w_j|.

`lipschitz_bound(module, input_shape)` proves: it captures a network as a program and bounds that, so that hooks, layers
that are used twice and code of one's own count as they run. The walk over layers only serves estimates.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from ...bounds import l2
from ...core.arguments import sizes
from ...core.certifier import unwrapped
from ...program import capture_on_copy
from ...program.program import Runner
from .layers import CholeskyOrthogonal, LinearResidualBlock, MinMax, Residual, Shift

Module = TypeVar("Module", bound=nn.Module)

Shape = tuple[int, ...]
"""Of one example, without the batch."""

NONEXPANSIVE = (nn.Identity, nn.Flatten, nn.ReLU, nn.PixelUnshuffle, nn.Dropout, MinMax, Shift)
"""Layers, by exact type, that an estimate takes to bring no two inputs further apart; certificates prove it."""


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


class PowerIteration(nn.Module):
    """A cheap, differentiable estimate of a norm, for training only: it approaches the norm from below.

    Golub & van Loan, "Matrix Computations", section 8.2; in Lipschitz training since Tsuzuku, Sato & Sugiyama, NeurIPS
    2018, https://arxiv.org/abs/1802.04034. It keeps the vector that a linear layer stretched most, from one step of
    training to the next.

    The vector is not saved. It starts at random whenever training mode is switched on, which the training loop does at
    the start of every epoch: a run that was stopped continues like one that was not.

    Args:
        shape: of one example that enters the layer.
        steps: multiplications by A^T A in each call.
    """

    vector: Tensor

    def __init__(self, shape: tuple[int, ...], steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("vector", torch.randn(1, *shape), persistent=False)

    def train(self, mode: bool = True) -> PowerIteration:
        if mode:
            self.vector.normal_()
        return super().train(mode)

    def forward(self, linear: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> Tensor:
        """Scalar estimate of the norm of x -> linear(x, weight), with the gradient of the norm to the weight."""
        fixed, x = weight.detach(), self.vector
        with torch.autocast(weight.device.type, enabled=False):  # a norm in bfloat16 would be off by half a percent
            for _ in range(self.steps):
                with torch.enable_grad():
                    x = x.detach().requires_grad_()
                    y = linear(x, fixed)
                    (x,) = torch.autograd.grad(y, x, y.detach())
                x = normalize(x.flatten(), dim=0).view_as(self.vector)
            self.vector.copy_(x)
            return torch.linalg.vector_norm(linear(x, weight))


class LipschitzNet(nn.Module):
    """Images in [0, 1] -> logits head(body(x)).

    Args:
        body: a chain (`nn.Sequential`) of layers and sums (`Residual`); weights may be reparametrised.
        head: the last linear layer.
        input_shape: (channel, height, width) of the images; others are refused, because the constants depend on it.
        steps: of power iteration in each step of training.
    """

    norm: str = "l2"

    def __init__(self, body: nn.Sequential, head: nn.Linear, input_shape: Shape, steps: int = 5) -> None:
        super().__init__()
        self.body, self.head, self.input_shape = body.eval(), head, tuple(input_shape)
        self.power = nn.ModuleDict()
        self._constants: dict[str, float] = {}
        for leaf in leaves(body, self.input_shape):
            if _is_estimated(leaf.layer):
                self.power[_key(leaf.name)] = PowerIteration(leaf.shape, steps)
            elif _is_orthogonal(leaf.layer) or type(leaf.layer) in NONEXPANSIVE:
                self._constants[leaf.name] = 1.0
            elif not list(leaf.layer.parameters()):
                self._constants[leaf.name] = lipschitz_bound(leaf.layer, leaf.shape)
            else:
                raise ValueError(f"there is no estimate of the norm of {leaf.name}, a {type(leaf.layer).__name__}")
        self.train()

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        if x.shape[1:] != self.input_shape:
            raise ValueError(
                f"the network and its Lipschitz constant are for images {self.input_shape}, got {tuple(x.shape[1:])}"
            )
        return self.head(self.body(x))

    def norm_estimate(self) -> Float[Tensor, ""]:
        """The body's Lipschitz constant by power iteration: differentiable, for training; it comes from below."""
        return torch.as_tensor(self._estimate(self.body, ""))

    def difference_estimates(self) -> Float[Tensor, "class class"]:
        """Entry (i, j) estimates the Lipschitz constant of logit_i - logit_j: for training, differentiable."""
        weight = self.head.weight
        distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        return self.norm_estimate() * distances

    def _estimate(self, module: nn.Module, name: str) -> Tensor | float:
        if type(module) is nn.Sequential:
            parts = module.named_children()
            return math.prod(self._estimate(part, f"{name}.{child}" if name else child) for child, part in parts)
        if type(module) is Residual:
            return 1 + self._estimate(module.body, f"{name}.body" if name else "body")
        if name in self._constants:
            return self._constants[name]
        layer = module.conv if isinstance(module, LinearResidualBlock) else module
        linear = layer._conv_forward if isinstance(layer, nn.Conv2d) else nn.functional.linear
        return self.power[_key(name)](lambda x, weight: linear(x, weight, None), layer.weight)


def lipschitz_net(model: object) -> LipschitzNet:
    """The network inside the wrappers that training puts around it; a ValueError if there is none."""
    expected = "a network with a Lipschitz constant, such as liresnet-small, or a LipschitzNet of your own"
    return unwrapped(model, LipschitzNet, expected)


def _is_estimated(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear | LinearResidualBlock) and not _is_orthogonal(layer)


def _is_orthogonal(layer: nn.Module) -> bool:
    """Its norm is about 1 whatever it learns; a certificate measures it."""
    return parametrize.is_parametrized(layer, "weight") and isinstance(
        layer.parametrizations["weight"][-1],  # pyright: ignore
        CholeskyOrthogonal,
    )


def _key(name: str) -> str:
    """A name of a layer as a key of nn.ModuleDict, which allows no dots."""
    return name.replace(".", "/")
