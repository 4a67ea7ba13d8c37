"""SPLITZ: a left half that moves little around every image, and a right half that bears noise on its features.

Zhong & Tandon, "SPLITZ: Certifiable Robustness via Split Lipschitz Randomized Smoothing", IEEE TIFS 20, 2025,
https://arxiv.org/abs/2407.02811, section 3: weight * loss of the right half + (1 - weight) * max(theta, L), with L the
local Lipschitz constant of the left half on a ball of radius gamma and a weight that falls from 1 to 0.7. Ours, for
none is published: the radii and rates of the recipes, and the cut, which is to be "near the input", behind the first
convolution. So are all of the recipes `splitz-pool1-...`: a cheaper cut with a quarter of the features, and a weight
that falls to 0.4; and of `splitz-front-...`: four filters in front of a whole LeNet, so that the right half filters
its noisy features before it pools them, which certifies far more; with SmoothMix there the weight falls to 0.3. On
ImageNet the proven constant of the left half is not local: see `holdfast.bounds.convolution`.

    holdfast train splitz-mnist-0.50
"""

import math
from dataclasses import dataclass, field

from torch import Generator, Tensor, nn

from ..bounds.convolution import estimated_norm
from ..certifiers.split import Split
from ..core.certifier import Certifier, Classifier, unwrapped
from ..core.recipe import Method, Recipe
from ..nn.lipschitz.local import local_constants
from ..nn.split import SplitClassifier
from ..optim import SGD
from ._protocol import cifar10, digits, imagenet, mnist, short_mnist
from .gaussian import GaussianNoise
from .smoothmix import SmoothMix


@dataclass(frozen=True)
class Splitz(Method):
    """A training method on noisy features, and a small local Lipschitz constant in front of them.

    Needs a `SplitClassifier` whose features lie in [0, 1], such as one whose left half ends in a `ClippedReLU`.
    """

    inner: Method = field(default_factory=lambda: GaussianNoise(0.5))
    """How the right half is trained, with the features in place of images: sigma is in units of the features."""
    ball: float = 1.0
    """Radius of the ball on which the left half shall move little, in pixel units; gamma in the paper."""
    theta: float = 0.5
    """The Lipschitz constant below which a smaller one is worth nothing."""
    weight: float = 0.7
    """Weight of the right half's loss at the end; lambda in the paper. It falls from 1 linearly; 1 leaves `inner`."""
    part: int = 64
    """Images of a batch whose Lipschitz constant is estimated, to save time: the first, and batches are drawn at
    random."""
    power_steps: int = 3
    """Steps of the power iteration that estimates a norm; certificates take a proven bound instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ball < math.inf:
            raise ValueError(f"ball must be positive, got {self.ball}")
        if not 0 <= self.theta < math.inf:
            raise ValueError(f"theta must be at least 0, got {self.theta}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must be from 0 to 1, got {self.weight}")
        if self.part < 1 or self.power_steps < 1:
            raise ValueError(f"part and power_steps must be at least 1, got {self.part} and {self.power_steps}")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        split_classifier(model)  # or it is refused
        weight = 1 - t * (1 - self.weight)
        features = model(x, "left")  # pyright: ignore[reportCallIssue]
        low, high = features.detach().aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"expected features in [0, 1], got [{low:.4g}, {high:.4g}]; end the left half with a ClippedReLU"
            )
        loss = self.inner.loss(RightHalf(model), features, y, t)
        if weight == 1:
            return loss
        return weight * loss + (1 - weight) * self.constants(model, x[: self.part]).clamp(min=self.theta).mean()

    def constants(self, model: Classifier, x: Tensor) -> Tensor:
        """The estimated local Lipschitz constant of the left half at every image, (batch,); differentiable."""

        def norm(*masked: object) -> Tensor:
            return estimated_norm(*masked, steps=self.power_steps)  # pyright: ignore[reportArgumentType]

        return local_constants(split_classifier(model).left, x, self.ball, norm)

    def noisy(self, model: Classifier, x: Tensor, generator: Generator) -> Tensor | None:
        """The noise goes to the features."""
        return self.inner.noisy(RightHalf(model), model(x, "left"), generator)  # pyright: ignore[reportCallIssue]

    def certifier(self) -> Certifier:
        inner = self.inner.certifier().sampling
        if inner is None:
            raise ValueError(f"splitz needs a method that trains for noise, got {type(self.inner).__name__}")
        return Split(inner)


class RightHalf(nn.Module):
    """The right half of a model in whatever wrapper training puts around it, as a classifier of features."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        """An attack runs in eval mode, and must not go through the wrapper: see `holdfast.attacks`."""
        inner = self.model if self.training else split_classifier(self.model)
        return inner(features, "right")  # pyright: ignore[reportCallIssue]


def split_classifier(model: object) -> SplitClassifier:
    """The network inside the wrappers that training puts around it; a ValueError if there is none."""
    expected = "a classifier in two halves, such as lenet@conv1, or a SplitClassifier of your own"
    return unwrapped(model, SplitClassifier, expected)


def _split(recipe: Recipe, arch: str = "", **settings: float) -> Recipe:
    """The recipe of the right half's method, with the network in two halves, or its own cut behind the first
    convolution."""
    return recipe.replace(method=Splitz(recipe.method, **settings), arch=arch or f"{recipe.arch}@conv1")  # pyright: ignore


def _mnist(recipe: Recipe, arch: str, weight: float) -> Recipe:
    """Ours: a rate of 0.05 that drops late, chosen on held-out training images."""
    return _split(recipe, arch, ball=2.0, weight=weight).replace(optimizer=SGD(lr=0.05, drops=(0.6, 0.9)))


CUTS = {
    "splitz": ("lenet@conv1", 0.7, 0.7),
    "splitz-pool1": ("lenet@pool1", 0.4, 0.4),
    "splitz-front": ("front-lenet@front", 0.7, 0.3),
}
"""The networks of the recipes for MNIST, and their weight at the end: with Gaussian noise, and with SmoothMix."""


RECIPES = {
    "splitz-digits-0.25": _split(digits(GaussianNoise(0.25)), ball=0.5),
    **{
        f"{name}-mnist-{sigma:.2f}": _mnist(mnist(GaussianNoise(sigma)), arch, weight)
        for name, (arch, weight, _) in CUTS.items()
        for sigma in (0.25, 0.5, 1.0)
    },
    **{
        f"{name}-smoothmix-mnist-{sigma:.2f}": _mnist(mnist(SmoothMix(sigma, steps=steps), copies=4), arch, weight)
        for name, (arch, _, weight) in CUTS.items()
        for sigma, steps in ((0.25, 2), (0.5, 4), (1.0, 8))
    },
    "splitz-front-smoothmix-mnist-0.50-short": _split(
        short_mnist(SmoothMix(0.5, steps=4), copies=4), "front-lenet@front", ball=2.0, weight=0.3
    ),
    **{f"splitz-cifar10-{sigma:.2f}": _split(cifar10(GaussianNoise(sigma)), ball=0.5) for sigma in (0.25, 0.5, 1.0)},
    "splitz-imagenet-0.50": _split(imagenet(GaussianNoise(0.5)), ball=0.5),
}
