"""Optimisers with their schedules: the learning rate is a function of the progress t in [0, 1]."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .types import Optimizer


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; the rate drops in steps."""

    lr: float = 0.1
    """Learning rate at the start."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    drops: tuple[float, ...] = (1 / 3, 2 / 3)
    """Progress values at which the rate is multiplied by gamma."""
    gamma: float = 0.1
    """Factor of each drop."""

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def rate(self, t: float) -> float:
        return self.lr * self.gamma ** sum(t >= drop - 1e-9 for drop in self.drops)


@dataclass(frozen=True)
class DecayingAdam(Optimizer):
    """Adam at a constant rate for the first half of training, which then falls exponentially.

    The schedule of Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021, in their scripts.
    """

    lr: float = 1e-3
    """Learning rate in the first half."""
    last_lr: float = 1e-6
    """Learning rate at the end."""

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr)

    def rate(self, t: float) -> float:
        return self.lr * (self.last_lr / self.lr) ** max(0.0, 2 * t - 1)


@dataclass(frozen=True)
class LookaheadNAdam(Optimizer):
    """NAdam whose weights are pulled back to slow ones every few steps; linear warm-up, then a cosine.

    Zhang, Lucas, Hinton & Ba, "Lookahead Optimizer", NeurIPS 2019, https://arxiv.org/abs/1907.08610, algorithm 1; with
    NAdam in Hu et al., ICLR 2024, https://arxiv.org/abs/2310.02513.
    """

    lr: float = 1e-3
    """Learning rate after the warm-up."""
    weight_decay: float = 0.0
    warm_up: float = 0.025
    """Share of training over which the rate grows from 0."""
    last: float = 1e-5
    """Rate at the end, as a share of lr."""
    pull: float = 0.5
    """How far the slow weights move towards the fast ones, which then restart from there; alpha in the paper."""
    every: int = 6
    """Steps between two pulls; k in the paper."""

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = torch.optim.NAdam(parameters, lr=self.lr, weight_decay=self.weight_decay)
        optimizer.register_step_post_hook(self._look_ahead)
        return optimizer

    def rate(self, t: float) -> float:
        if t < self.warm_up:
            return self.lr * t / self.warm_up
        turn = math.pi * (t - self.warm_up) / (1 - self.warm_up)
        return self.lr * (self.last + (1 - self.last) * (1 + math.cos(turn)) / 2)

    @torch.no_grad()
    def _look_ahead(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        """The slow weights are in the state of the optimiser, so that a checkpoint holds them."""
        for parameter, state in optimizer.state.items():
            if "slow" not in state:
                state["slow"] = parameter.detach().clone()
            elif int(state["step"]) % self.every == 0:
                parameter.copy_(state["slow"].lerp_(parameter, self.pull))


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

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(parameters, lr=self.lr, betas=(0.9, 0.99), eps=1e-10)
        if self.weight_decay:
            optimizer.register_step_pre_hook(self._decay)
        return optimizer

    def rate(self, t: float) -> float:
        turn = math.pi * max(0.0, t - self.constant) / (1 - self.constant)
        return self.lr * (1 + math.cos(turn)) / 2

    @torch.no_grad()
    def _decay(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                shares = _gradient_shares(weight, getattr(weight, "exponent", 2.0))
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
