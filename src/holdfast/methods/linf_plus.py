"""Training of l-inf-distance nets with a perceptron on top: cross-entropy of the worst logits within epsilon.

Zhang, Cai, Lu, He & Wang, "Towards Certifying L-infinity Robustness using Neural Networks with L-inf-dist Neurons",
ICML 2021, https://arxiv.org/abs/2102.05363, section 6.1, hyper-parameters from their code. The features are 1-Lipschitz
(at p = inf), so the interval bounds begin at the perceptron, with a box of radius epsilon around the features.

    holdfast train linf-plus-mnist-0.3
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..certifiers.linf_box import LInfBox
from ..core.certifier import Classifier
from ..core.recipe import Method, Recipe
from ..nn.linf import ExponentSchedule, TanhHead, estimate_means, linf_net, set_exponent
from .linf_dist import LpAdam


@dataclass(frozen=True)
class LInfPlus(Method):
    """Cross-entropy of interval bounds on the logits, mixed with that of the logits."""

    epsilon: float = 0.3
    """Radius to be robust within, in pixel units of [0, 1] images."""
    overshoot: float = 1.1
    """Radius of training at its end, as a multiple of epsilon."""
    ramp: float = 0.125
    """Share of training over which the radius grows from 0."""
    kappa: float = 0.5
    """Share of the cross-entropy of bounds in the loss."""
    schedule: ExponentSchedule = field(default_factory=ExponentSchedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < math.inf or self.overshoot < 0:
            raise ValueError(f"expected epsilon > 0 and overshoot >= 0, got {self.epsilon} and {self.overshoot}")
        if not (0 < self.ramp <= 1 and 0 <= self.kappa <= 1):
            raise ValueError(f"expected ramp in (0, 1] and kappa in [0, 1], got {self.ramp} and {self.kappa}")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        network = linf_net(model)
        if not isinstance(network.head, TanhHead):
            raise ValueError(
                "this method trains a perceptron on distances, such as linf-dist-plus-5120x4; use linf-dist"
            )
        features: list[Tensor] = []
        with network.head.register_forward_pre_hook(lambda _, inputs: features.extend(inputs)):
            logits = network.tempered(model(x))
        reach = self.overshoot * self.epsilon * min(1.0, t / self.ramp) / network.std
        margins = network.head.lower_margins(features[0] - reach, features[0] + reach, y)
        return self.kappa * cross_entropy(-margins, y) + (1 - self.kappa) * cross_entropy(logits, y)

    def before_step(self, model: nn.Module, t: float) -> None:
        set_exponent(model, self.schedule.exponent(t))

    def certifier(self) -> LInfBox:
        return LInfBox()

    def finish(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        estimate_means(model, batches)


def _recipe(method: LInfPlus, dataset: str, arch: str, epochs: int) -> Recipe:
    optimizer = LpAdam(lr=0.02, constant=method.schedule.p_constant, weight_decay=0.005)
    return Recipe(method, optimizer, dataset, arch, epochs=epochs, batch_size=512, crop=1)


def _tiny_imagenet() -> Recipe:
    """Random parts of 56 x 56 pixels, the centre for certification; rate 0.04, trained at 0.005."""
    method = LInfPlus(
        1 / 255, 0.005 * 255, ramp=200 / 500, kappa=1.0, schedule=ExponentSchedule.of_epochs(100, 350, 50)
    )
    recipe = _recipe(method, "tiny-imagenet@56/64", "linf-dist-plus-5120x5", 500)
    optimizer = LpAdam(lr=0.04, constant=100 / 500, weight_decay=0.005)
    return recipe.replace(optimizer=optimizer, crop=0, sides=(64, 64), flip=True)


SHORT, LONG = ExponentSchedule.of_epochs(50, 300, 50), ExponentSchedule.of_epochs(100, 650, 50)
MNIST = LInfPlus(0.3, 0.35 / 0.3, schedule=SHORT)
FASHION = LInfPlus(0.1, 1.1, schedule=SHORT)
CIFAR10 = LInfPlus(8 / 255, 1.1, kappa=1.0, schedule=LONG)

RECIPES = {
    "linf-plus-mnist-0.3": _recipe(MNIST, "mnist", "linf-dist-plus-5120x4", 400),
    "linf-plus-mnist-0.3-20-epochs": _recipe(
        MNIST.replace(schedule=ExponentSchedule()), "mnist", "linf-dist-plus-512x2", 20
    ),
    "linf-plus-fashion-mnist-0.1": _recipe(FASHION, "fashion-mnist", "linf-dist-plus-5120x4-512", 400),
    "linf-plus-cifar10-8": _recipe(CIFAR10, "cifar10", "linf-dist-plus-5120x5", 800).replace(crop=4, flip=True),
    "linf-plus-conv-cifar10-8": _recipe(CIFAR10, "cifar10", "linf-dist-conv", 800).replace(crop=4, flip=True),
    "linf-plus-tiny-imagenet-1": _tiny_imagenet(),
}
