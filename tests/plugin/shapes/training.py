"""A training method: cross-entropy under uniform noise.

Yang et al., "Randomized Smoothing of All Shapes and Sizes", ICML 2020, https://arxiv.org/abs/2002.08118, section 5.

    holdfast train uniform-digits
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from holdfast import Gaussian, Method, Recipe
from holdfast.core.certifier import Classifier
from holdfast.optim import SGD

from .uniform import Uniform


@dataclass(frozen=True)
class UniformNoise(Method):
    """One noisy copy of every image."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        return F.cross_entropy(model(Uniform().sample(x, self.sigma)), y)

    def certifier(self) -> Gaussian:
        return Gaussian(sigma=self.sigma, noise=Uniform())


recipe = Recipe(UniformNoise(), SGD(lr=0.05), dataset="digits", arch="cnn", epochs=20, batch_size=64)
RECIPES = {"uniform-digits": recipe}
