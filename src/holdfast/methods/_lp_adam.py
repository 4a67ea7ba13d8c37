"""The optimizer of l-inf-distance nets: Adam, with a decay in the norm that each layer computes with."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..core.recipe import Optimizer
from ..nn.linf.layers import distance_layers


@dataclass(frozen=True)
class LpAdam(Optimizer):
    """Adam with the settings of l-inf-distance nets: a constant rate, then a cosine to 0; decay in the layer's norm.

    Zhang et al., ICML 2021, https://arxiv.org/abs/2102.05363, section 5 and their code; ICLR 2022,
    https://arxiv.org/abs/2110.06850: rate 0.03, no decay.
    """

    lr: float = 0.03
    """Learning rate at the start."""
    constant: float = 0.0
    """Share of training before the cosine begins."""
    weight_decay: float = 0.0
    """Each step takes lr * weight_decay times the gradient of |w_o|_p^2 / 2 from the weights w_o of a neuron, where p
    is the exponent that its layer computes with (2 for other weights: ordinary decay)."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr, betas=(0.9, 0.99), eps=1e-10)
        if self.weight_decay:
            optimizer.register_step_pre_hook(partial(self._decay, model))
        return optimizer

    def rate(self, t: float) -> float:
        turn = math.pi * max(0.0, t - self.constant) / (1 - self.constant)
        return self.lr * (1 + math.cos(turn)) / 2

    @torch.no_grad()
    def _decay(self, model: nn.Module, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        exponents = {layer.weight: layer.p for layer in distance_layers(model)}
        for group in optimizer.param_groups:
            for weight in group["params"]:
                shares = _gradient_shares(weight, exponents.get(weight, 2.0))
                weight.mul_(1 - group["lr"] * self.weight_decay * shares)


def _gradient_shares(weight: torch.Tensor, p: float) -> torch.Tensor:
    """(|w_i| / |w|_p)^(p - 2) for each row w: the gradient of |w|_p^2 / 2 over w. At p = inf, 1 at the largest."""
    if p == 2:
        return torch.ones_like(weight)
    size = weight.abs()
    if p == math.inf:
        return torch.zeros_like(weight).scatter(1, size.argmax(1, keepdim=True), 1.0)
    ratio = size / size.amax(1, keepdim=True).clamp(min=1e-10)
    return (ratio / ratio.pow(p).sum(1, keepdim=True).pow(1 / p)).pow(p - 2)
