"""Stability training: the prediction under noise shall be that of the clean image.

Li, Chen, Wang & Carin, "Certified Adversarial Robustness with Additive Noise", NeurIPS 2019,
https://arxiv.org/abs/1809.03113, section 4.2, in the form that Jeong et al. released as the baseline of SmoothMix: both
terms are cross-entropies, the first of the clean image, and the second's target, the clean prediction, is not detached.

    holdfast train stability-mnist-0.50
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..certifiers.gaussian import Gaussian
from ..core.certifier import Classifier
from ..core.recipe import Method
from ..smoothing.copies import check, draw
from ._protocol import cifar10, digits, mnist


@dataclass(frozen=True)
class Stability(Method):
    """Cross-entropy on the clean image, and between its prediction and that of a noisy copy."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    weight: float = 2.0
    """Weight of the second term; lambda in the paper."""

    def __post_init__(self) -> None:
        check(self, weight=0)

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        clean = model(x)
        noisy = model(x + draw(x, self.sigma, 1)[0])  # on its own, as published: batch norm sees one kind of image
        return F.cross_entropy(clean, y) + self.weight * F.cross_entropy(noisy, clean.softmax(1))

    def certifier(self) -> Gaussian:
        return Gaussian(sigma=self.sigma)


RECIPES = {
    "stability-digits-0.25": digits(Stability(0.25)),
    **{f"stability-mnist-{sigma:.2f}": mnist(Stability(sigma)) for sigma in (0.25, 0.5, 1.0)},
    **{
        f"stability-cifar10-{sigma:.2f}": cifar10(Stability(sigma, weight))
        for sigma, weight in ((0.25, 2.0), (0.5, 2.0), (1.0, 1.0))
    },
}
