"""Training without noise: cross-entropy on the images as they are, the classifier that most people have.

It certifies next to nothing by sampling; a denoiser in front of it makes it robust (denoise.py). CIFAR-10: He, Zhang,
Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. The recipes for MNIST and digits are
ours: the protocol of training with noise.

    holdfast train standard-cifar10
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..certifiers.gaussian import Gaussian
from ..core.certifier import Classifier
from ..core.recipe import Method, Recipe
from ..optim import SGD
from ._protocol import digits, mnist


@dataclass(frozen=True)
class Standard(Method):
    """Cross-entropy on images without noise."""

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        return F.cross_entropy(model(x), y)

    def certifier(self) -> Gaussian:
        return Gaussian(sigma=0.25)


def _cifar10() -> Recipe:
    """He et al. (2016): ResNet-20, rate 0.1, divided by 10 at 32,000 and 48,000 of 64,000 batches of 128."""
    optimizer = SGD(lr=0.1, drops=(0.5, 0.75))
    return Recipe(
        Standard(), optimizer, dataset="cifar10", arch="resnet20", epochs=164, batch_size=128, crop=4, flip=True
    )


RECIPES = {
    "standard-digits": digits(Standard()),
    "standard-mnist": mnist(Standard()),
    "standard-cifar10": _cifar10(),
}
