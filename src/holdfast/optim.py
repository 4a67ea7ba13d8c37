"""Optimisers with their schedules: the learning rate is a function of the progress t in [0, 1]."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from .core.recipe import Optimizer


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

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def rate(self, t: float) -> float:
        return self.lr * self.gamma ** sum(t >= drop - 1e-9 for drop in self.drops)


@dataclass(frozen=True)
class WarmSGD(Optimizer):
    """Stochastic gradient descent with Nesterov momentum; linear warm-up, then a cosine: one cycle of the rate.

    Smith & Topin, "Super-Convergence", 2017, https://arxiv.org/abs/1708.07120: few epochs at a large rate.
    """

    lr: float = 0.1
    """Learning rate after the warm-up."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.2
    """Share of training over which the rate grows from 0."""
    last: float = 1e-3
    """Rate at the end, as a share of lr."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        kept = self.momentum
        return torch.optim.SGD(
            model.parameters(), lr=self.lr, momentum=kept, weight_decay=self.weight_decay, nesterov=kept > 0
        )

    def rate(self, t: float) -> float:
        return self.lr * warm_cosine(t, self.warm_up, self.last)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; the rate drops in steps."""

    lr: float = 1e-3
    """Learning rate at the start."""
    weight_decay: float = 1e-4
    drops: tuple[float, ...] = (1 / 3, 2 / 3)
    """Progress values at which the rate is multiplied by gamma."""
    gamma: float = 0.1
    """Factor of each drop."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.lr, weight_decay=self.weight_decay)

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
    hold: float = 0.5
    """Share of training before the rate begins to fall."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.lr)

    def rate(self, t: float) -> float:
        return self.lr * (self.last_lr / self.lr) ** max(0.0, (t - self.hold) / (1 - self.hold))


@dataclass(frozen=True)
class WarmAdamW(Optimizer):
    """AdamW; linear warm-up, then a cosine.

    Hu et al., NeurIPS 2023, https://arxiv.org/abs/2301.12549, in their code.
    """

    lr: float = 1e-3
    """Learning rate after the warm-up."""
    weight_decay: float = 1e-4
    warm_up: float = 0.025
    """Share of training over which the rate grows from 0."""
    last: float = 1e-5
    """Rate at the end, as a share of lr."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def rate(self, t: float) -> float:
        return self.lr * warm_cosine(t, self.warm_up, self.last)


def warm_cosine(t: float, warm_up: float, last: float) -> float:
    """Grows linearly from 0 to 1 until `warm_up`, then falls to `last` as a cosine; t is the progress in [0, 1]."""
    if t < warm_up:
        return t / warm_up
    turn = math.pi * (t - warm_up) / (1 - warm_up)
    return last + (1 - last) * (1 + math.cos(turn)) / 2


@dataclass(frozen=True)
class LookaheadNAdam(Optimizer):
    """NAdam whose weights are pulled back to slow ones every few steps; linear warm-up, then a cosine.

    Zhang, Lucas, Hinton & Ba, "Lookahead Optimizer", NeurIPS 2019, https://arxiv.org/abs/1907.08610, algorithm 1; with
    NAdam in Hu et al., ICLR 2024, https://arxiv.org/abs/2310.02513. Ours: slow weights begin after the first step;
    their code makes them at the first pull. So every checkpoint holds them.
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

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.NAdam(model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        optimizer.register_step_post_hook(self._look_ahead)
        return optimizer

    def rate(self, t: float) -> float:
        return self.lr * warm_cosine(t, self.warm_up, self.last)

    def after_epoch(self, optimizer: torch.optim.Optimizer) -> None:
        """One more pull, as in the code of Hu et al. (2024), so that what is certified are slow weights."""
        for parameter, state in optimizer.state.items():
            self._pull(parameter, state["slow"])

    def _look_ahead(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        """The slow weights are in the state of the optimiser, so that a checkpoint holds them."""
        for parameter, state in optimizer.state.items():
            if "slow" not in state:
                state["slow"] = parameter.detach().clone()
            elif int(state["step"]) % self.every == 0:
                self._pull(parameter, state["slow"])

    @torch.no_grad()
    def _pull(self, parameter: torch.Tensor, slow: torch.Tensor) -> None:
        parameter.copy_(slow.lerp_(parameter, self.pull))
