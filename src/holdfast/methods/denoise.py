"""Denoised smoothing: a denoiser is trained to go before a classifier that knows no noise and stays as it is.

Salman, Sun, Yang, Kapoor & Kolter, "Denoised Smoothing: A Provable Defense for Pretrained Classifiers", NeurIPS 2020,
https://arxiv.org/abs/2003.01908, section 3: the mean squared error, or the cross-entropy between what the classifier
says of the denoised image and the class that it gives to the clean one. Optimizer, batches and epochs are the defaults
of their released code. The recipes for MNIST and digits are ours.

    holdfast train denoise-mnist-0.25
    holdfast train denoise-stability-mnist-0.25 --classifier runs/NAME
    holdfast certify --model NAME --denoiser runs/DENOISER --dataset mnist
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..certifiers.gaussian import Gaussian
from ..core.certifier import Classifier
from ..core.recipe import Method, Recipe
from ..formats.opened import open_model
from ..optim import Adam
from ..smoothing.copies import check, draw


@dataclass(frozen=True)
class Denoise(Method):
    """The clean image, or the class that a frozen classifier gives to it, out of an image with Gaussian noise."""

    classifies: ClassVar[bool] = False

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    objective: Literal["mse", "stability"] = "mse"
    """mse: the clean image. stability: the class of the clean image, which needs a classifier with gradients."""
    classifier: str = ""
    """The frozen classifier, for the objective stability: what --model of `holdfast certify` takes."""
    allow_pickle: bool = False
    """Read it from a .pt2 file, or from another that runs whatever its author put there."""

    def __post_init__(self) -> None:
        check(self)
        if self.objective not in ("mse", "stability"):
            raise ValueError(f"objective must be mse or stability, got {self.objective!r}")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        denoised = model(x + draw(x, self.sigma, 1)[0])
        if self.objective == "mse":
            if self.classifier:
                raise ValueError("the objective mse asks no classifier; it goes with --objective stability")
            return F.mse_loss(denoised, x)
        frozen = self._frozen.to(x.device)
        with torch.no_grad():
            target = frozen(x).argmax(1)
        logits = frozen(denoised)
        if denoised.requires_grad and not logits.requires_grad:
            raise ValueError(f"{self.classifier} has no gradients; train its denoiser with --objective mse")
        return F.cross_entropy(logits, target)

    @cached_property
    def _frozen(self) -> nn.Module:
        if not self.classifier:
            raise ValueError("the objective stability needs the classifier that it is for: --classifier NAME")
        return open_model(self.classifier, allow_pickle=self.allow_pickle).requires_grad_(False)

    def certifier(self) -> Gaussian:
        return Gaussian(sigma=self.sigma)


def _mnist(method: Denoise) -> Recipe:
    return Recipe(method, Adam(), dataset="mnist", arch="dncnn", epochs=90, batch_size=256)


def _cifar10(method: Denoise) -> Recipe:
    """Salman et al. (2020), their released defaults: rate 0.001, divided by 10 every 30 of 90 epochs."""
    return Recipe(method, Adam(), dataset="cifar10", arch="dncnn", epochs=90, batch_size=256, crop=4, flip=True)


RECIPES = {
    "denoise-digits-0.25": Recipe(
        Denoise(0.25), Adam(), dataset="digits", arch="dncnn-small", epochs=30, batch_size=64
    ),
    **{f"denoise-mnist-{sigma:.2f}": _mnist(Denoise(sigma)) for sigma in (0.25, 0.5, 1.0)},
    **{f"denoise-stability-mnist-{sigma:.2f}": _mnist(Denoise(sigma, "stability")) for sigma in (0.25, 0.5, 1.0)},
    **{f"denoise-cifar10-{sigma:.2f}": _cifar10(Denoise(sigma)) for sigma in (0.12, 0.25, 0.5, 1.0)},
    **{
        f"denoise-stability-cifar10-{sigma:.2f}": _cifar10(Denoise(sigma, "stability"))
        for sigma in (0.12, 0.25, 0.5, 1.0)
    },
}
