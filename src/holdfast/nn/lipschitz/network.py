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

from ...bounds.bound import Bound
from ...bounds.verified import UNIT
from ...core.certifier import unwrapped
from .compose import leaves, network_bound
from .layers import LinearResidualBlock, Residual
from .power import PowerIteration
from .proofs import Shape, prove
from .reparametrized import CholeskyOrthogonal


class LipschitzNet(nn.Module):
    """Images in [0, 1] -> logits head(body(x)).

    Args:
        body: a chain of layers with a proof; their weights may be reparametrised.
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
            elif _is_orthogonal(leaf.layer):
                self._constants[leaf.name] = 1.0
            elif not list(leaf.layer.parameters()):
                self._constants[leaf.name] = prove(leaf.layer, leaf.shape, leaf.name).norm
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
        """Estimates of `difference_constants` for training, differentiable."""
        weight = self.head.weight
        distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        return self.norm_estimate() * distances

    def difference_constants(self) -> Float[Tensor, "class class"]:
        """Entry (i, j) is a proven Lipschitz constant of logit_i - logit_j; float64, rounded up.

        Raises:
            ValueError: a layer has no proof, or is in training mode.
        """
        return network_bound(self.body, self.input_shape).norm * self._head_distances() * (1 + 4 * UNIT)

    def difference_errors(self) -> Float[Tensor, "class class"]:
        """By how much float64 can falsify a comparison of logit_i - logit_j between two images.

        Holds for images of up to twice the diagonal of the pixel cube: those in the cube, and all within a diagonal of
        one. Takes dot products at their worst, in any order of summation.
        """
        bound = network_bound(self.body, self.input_shape)
        length = 2 * math.sqrt(math.prod(self.input_shape))
        error = bound.error * length + bound.error_offset
        features = bound.norm * length + bound.offset + error
        logits = torch.linalg.vector_norm(self.head.weight.detach().double(), dim=1) * features
        if self.head.bias is not None:
            logits = logits + self.head.bias.detach().double().abs()
        rounding = (self.head.in_features + 4) * UNIT * logits
        return 2 * (self._head_distances() * error + rounding[:, None] + rounding[None]) * (1 + 1e-3)

    def prove(self, shape: Shape) -> Bound:
        """A bound on the logits as a whole; `difference_constants` are tighter."""
        if tuple(shape) != self.input_shape:
            raise ValueError(f"its constant is for images {self.input_shape}, not {tuple(shape)}")
        return network_bound(nn.Sequential(self.body, self.head), shape)

    def _head_distances(self) -> Tensor:
        """|w_i - w_j|, float64, rounded up."""
        weight = self.head.weight.detach().double()
        distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        return distances * (1 + 2 * (weight.shape[1] + 8) * UNIT)

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
