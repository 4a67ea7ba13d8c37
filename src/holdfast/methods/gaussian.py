"""Training with Gaussian noise: the baseline of randomized smoothing.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
https://arxiv.org/abs/1902.02918, section 3.3: cross-entropy on one noisy copy of each image, with the noise of
certification. MNIST (LeNet): Jeong et al., "SmoothMix", NeurIPS 2021, their Gaussian baseline; the rate drops after 30
and 60 epochs as their text says, where their code takes 31 and 61.

    holdfast train gaussian-mnist-0.50
"""

from dataclasses import dataclass

from torch import Tensor

from ..certifiers.gaussian import Gaussian
from ..core.certifier import Classifier
from ..core.recipe import Method, Recipe
from ..optim import SGD
from ..smoothing.copies import check, cross_entropy, draw, predict
from ._protocol import digits, imagenet


@dataclass(frozen=True)
class GaussianNoise(Method):
    """Cross-entropy on images with Gaussian noise."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    copies: int = 1
    """Noisy copies of an image in each step; m in the papers."""

    def __post_init__(self) -> None:
        check(self, copies=1)

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        return cross_entropy(predict(model, x, draw(x, self.sigma, self.copies)), y)

    def certifier(self) -> Gaussian:
        return Gaussian(sigma=self.sigma)


def _mnist(sigma: float) -> Recipe:
    """Jeong et al. (2021): LeNet, rate 0.01, divided by 10 every 30 of 90 epochs, batches of 256."""
    return Recipe(GaussianNoise(sigma), SGD(lr=0.01), dataset="mnist", arch="lenet", epochs=90, batch_size=256)


def _cifar10(sigma: float) -> Recipe:
    """Cohen et al. (2019): ResNet-110, rate 0.1, divided by 10 every 30 of 90 epochs, batches of 400."""
    return Recipe(
        GaussianNoise(sigma),
        SGD(lr=0.1),
        dataset="cifar10",
        arch="resnet110",
        epochs=90,
        batch_size=400,
        crop=4,
        flip=True,
    )


def _imagenet(sigma: float) -> Recipe:
    """Cohen et al. (2019): ResNet-50, rate 0.1, divided by 10 every 30 of 90 epochs, batches of 400."""
    return imagenet(GaussianNoise(sigma)).replace(optimizer=SGD(lr=0.1), batch_size=400)


RECIPES = {
    "gaussian-digits-0.25": digits(GaussianNoise(0.25)),
    "gaussian-mnist-5k-0.25": Recipe(
        GaussianNoise(0.25), SGD(lr=0.05), dataset="mnist-5k", arch="cnn", epochs=30, batch_size=64
    ),
    **{f"gaussian-mnist-{sigma:.2f}": _mnist(sigma) for sigma in (0.25, 0.5, 1.0)},
    **{f"gaussian-cifar10-{sigma:.2f}": _cifar10(sigma) for sigma in (0.12, 0.25, 0.5, 1.0)},
    **{f"gaussian-imagenet-{sigma:.2f}": _imagenet(sigma) for sigma in (0.25, 0.5, 1.0)},
}
