"""SmoothAdv with consistency regularisation: the noisy copies of an adversarial image shall all be predicted alike.

Jeong & Shin, "Consistency Regularization for Certified Robustness of Smoothed Classifiers", NeurIPS 2020,
https://arxiv.org/abs/2006.04062, section 4. All settings from the folder names of the released logs.

    holdfast train smoothadv-consistency-mnist-1.00
"""

from dataclasses import dataclass

from torch import Tensor

from ..certifiers.gaussian import Gaussian
from ..core.certifier import Classifier
from ..core.recipe import Method
from ..smoothing.copies import check, cross_entropy
from ._protocol import cifar10, digits, mnist
from .consistency import inconsistency
from .smoothadv import SmoothAdv


@dataclass(frozen=True)
class SmoothAdvConsistency(Method):
    """The loss of Consistency, on the adversarial images of SmoothAdv."""

    smoothadv: SmoothAdv
    """The adversarial images, and the noise."""
    weight: float = 1.0
    """Weight of the divergence of the copies from their mean; lambda in the paper."""
    entropy: float = 0.5
    """Weight of the entropy of the mean prediction; eta in the paper."""

    def __post_init__(self) -> None:
        check(self, weight=0, entropy=0)

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        logits = self.smoothadv.logits(model, x, y, t)
        return cross_entropy(logits, y) + inconsistency(logits, self.weight, self.entropy)

    def certifier(self) -> Gaussian:
        return self.smoothadv.certifier()


def _cifar10(sigma: float, copies: int, epsilon: float) -> SmoothAdv:
    return SmoothAdv(sigma, copies, epsilon, warmup=10 / 150)


RECIPES = {
    "smoothadv-consistency-digits-0.25": digits(SmoothAdvConsistency(SmoothAdv(0.25, copies=2, epsilon=0.5, steps=4))),
    **{
        f"smoothadv-consistency-mnist-{sigma:.2f}": mnist(SmoothAdvConsistency(SmoothAdv(sigma)), copies=4)
        for sigma in (0.25, 0.5, 1.0)
    },
    **{
        f"smoothadv-consistency-cifar10-{sigma:.2f}": cifar10(
            SmoothAdvConsistency(_cifar10(sigma, copies, epsilon), weight), copies
        )
        for sigma, copies, epsilon, weight in ((0.25, 4, 255 / 256, 2.0), (0.5, 2, 2.0, 1.0), (1.0, 2, 2.0, 1.0))
    },
}
