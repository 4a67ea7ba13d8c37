"""GloRo: an extra class, "not certified", competes with the others while the network learns.

Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021, https://arxiv.org/abs/2102.08452, sections 3 and
4; hyper-parameters from their scripts. The certificate does not use the estimate that the loss uses: see `margin`.

    holdfast train gloro-mnist-0.3
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from ..certifiers.margin import Margin
from ..core.classifier import Classifier
from ..core.method import Method
from ..core.recipe import Recipe
from ..nn.lipschitz import lipschitz_net
from ..optim import DecayingAdam


@dataclass(frozen=True)
class Gloro(Method):
    """Cross-entropy, or TRADES, with the logit that the strongest rival can reach within epsilon."""

    epsilon: float = 0.3
    """Radius to be robust within, in pixel units of [0, 1] images."""
    overshoot: float = 1.5
    """Radius of training at its end, as a multiple of epsilon."""
    start: float = 1.0
    """Radius of training at its start, as a share of that at the end, which it reaches at half-time. 1 = constant."""
    trades: tuple[float, float] | None = None
    """Weight at the start and at the end of the divergence from the plain to the robust classifier, which is then added
    to plain cross-entropy; none: cross-entropy of the robust classifier."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")
        if not 0 < self.start <= 1 or self.overshoot < 0:
            raise ValueError(f"expected 0 < start <= 1 and overshoot >= 0, got {self.start} and {self.overshoot}")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        constants = lipschitz_net(model).difference_estimates()
        logits = model(x)
        bottom = bottom_logit(logits, constants, self.training_epsilon(t))
        if self.trades is None:
            return cross_entropy(torch.cat([logits, bottom[:, None]], dim=1), y)
        first, last = self.trades
        divergence = softplus(bottom - logits.logsumexp(1)).mean()  # KL(plain || robust) = -log(1 - p_bottom)
        return cross_entropy(logits, y) + (first + t * (last - first)) * divergence

    def certifier(self) -> Margin:
        return Margin()

    def training_epsilon(self, t: float) -> float:
        """Radius of training at progress t: its exponential grows linearly over the first half."""
        low, high = math.exp(self.start), math.e
        return self.overshoot * self.epsilon * math.log(low + (high - low) * min(2 * t, 1.0))


def bottom_logit(logits: Tensor, constants: Tensor, epsilon: float) -> Tensor:
    """(batch,): the largest logit_i + epsilon K_ji over rivals i of the class j; certified iff it is below logit_j."""
    top = logits.argmax(1, keepdim=True)
    reach = logits + epsilon * constants[top[:, 0]]
    return reach.scatter(1, top, -math.inf).amax(1)


def _mnist(method: Gloro, arch: str, epochs: int, last_lr: float) -> Recipe:
    optimizer = DecayingAdam(lr=1e-3, last_lr=last_lr)
    return Recipe(method, optimizer, dataset="mnist", arch=arch, epochs=epochs, batch_size=256)


def _cifar10(trades: tuple[float, float] | None) -> Recipe:
    """As published, but for colours and zoom: the images are shifted and mirrored only."""
    method = Gloro(36 / 255, overshoot=1.1, start=0.01, trades=trades)
    optimizer = DecayingAdam(lr=1e-3, last_lr=1e-6)
    return Recipe(method, optimizer, "cifar10", "gloro-6c2f", epochs=800, batch_size=256, crop=4, flip=True)


NEAR, FAR = Gloro(0.3), Gloro(1.58, overshoot=1.75 / 1.58)

RECIPES = {
    "gloro-digits-0.3": Recipe(NEAR, DecayingAdam(), dataset="digits", arch="gloro-2c2f", epochs=60, batch_size=64),
    "gloro-mnist-0.3": _mnist(NEAR, "gloro-2c2f", 500, 1e-6),
    "gloro-mnist-0.3-short": _mnist(NEAR, "gloro-2c2f", 60, 1e-6),
    "gloro-mnist-0.3-mlp": _mnist(NEAR, "gloro-mlp-8x128", 500, 1e-6).replace(batch_size=32),
    "gloro-mnist-1.58": _mnist(FAR, "gloro-4c3f", 300, 5e-6),
    "gloro-mnist-1.58-short": _mnist(FAR, "gloro-4c3f", 50, 5e-6),
    "gloro-trades-mnist-0.3": _mnist(NEAR.replace(trades=(0.0, 2.0)), "gloro-2c2f", 500, 1e-6),
    "gloro-trades-mnist-1.58": _mnist(FAR.replace(trades=(0.0, 3.0)), "gloro-4c3f", 300, 5e-6),
    "gloro-fashion-mnist-0.25-mlp": _mnist(Gloro(0.25, overshoot=1.04), "gloro-mlp-256-11x128", 500, 1e-6).replace(
        dataset="fashion-mnist", batch_size=64
    ),
    "gloro-cifar10-36": _cifar10(None),
    "gloro-cifar10-36-mlp": _cifar10(None).replace(arch="gloro-mlp-512-256-6x128"),
    "gloro-trades-cifar10-36": _cifar10((1.2, 1.2)),
}
