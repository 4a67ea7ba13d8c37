"""A classifier with a Lipschitz constant: estimated while it learns, proven when it is certified.

Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021, https://arxiv.org/abs/2102.08452, section 3:
with rows w_i of a linear head on features of constant L, logit_i - logit_j has the constant L |w_i - w_j|.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...core.certifier import unwrapped
from .compose import Shape, leaves, lipschitz_bound
from .layers import LinearResidualBlock, MinMax, Residual, Shift
from .power import PowerIteration
from .reparametrized import CholeskyOrthogonal

NONEXPANSIVE = (nn.Identity, nn.Flatten, nn.ReLU, nn.PixelUnshuffle, nn.Dropout, MinMax, Shift)
"""Layers, by exact type, that an estimate takes to bring no two inputs further apart; certificates prove it."""


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
