"""Optimisers with their schedules: the learning rate is a function of the progress t in [0, 1]."""

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
