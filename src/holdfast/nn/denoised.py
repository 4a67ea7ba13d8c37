"""A denoiser in front of a classifier that was trained without noise: together they are what is smoothed.

Salman, Sun, Yang, Kapoor & Kolter, "Denoised Smoothing: A Provable Defense for Pretrained Classifiers", NeurIPS 2020,
https://arxiv.org/abs/2003.01908. The denoisers: a chain of convolutions, and a diffusion model.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn


class Denoised(nn.Module):
    """classifier(denoiser(x)): images in [0, 1], perhaps with noise -> logits.

    Args:
        denoiser: maps noisy images (batch, channel, height, width) to images of the same shape.
        classifier: maps images to logits; it stays as it is.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        if not isinstance(denoiser, nn.Module) or not isinstance(classifier, nn.Module):
            found = f"{type(denoiser).__name__} and {type(classifier).__name__}"
            raise ValueError(f"expected a denoiser and a classifier that are torch.nn.Module, got {found}")
        self.denoiser, self.classifier = denoiser, classifier
        self.training = denoiser.training or classifier.training

    def forward(self, x: Tensor) -> Tensor:
        images = self.denoiser(x)
        if images.shape != x.shape:
            raise ValueError(f"the denoiser made {tuple(images.shape)} of images of shape {tuple(x.shape)}")
        return self.classifier(images)


class DnCNN(nn.Module):
    """x minus the noise that a chain of convolutions sees in it. At the start it sees none: it begins as the identity.

    Zhang, Zuo, Chen, Meng & Zhang, "Beyond a Gaussian Denoiser", IEEE TIP 2017, https://arxiv.org/abs/1608.03981, as
    Salman et al. (2020) released it: 17 layers of 64 channels, orthogonal initial weights, a last layer of zeros.

    Args:
        channels: of the images.
        width: channels of the hidden layers.
        depth: convolutions.
    """

    def __init__(self, channels: int, width: int = 64, depth: int = 17) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"expected a depth of 2 or more, got {depth}")
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            norm = nn.BatchNorm2d(width, eps=1e-4, momentum=0.95)
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), norm, nn.ReLU()]
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=False))
        self.noise = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(layers[-1].weight)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return x - self.noise(x)


Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What a model predicts, as diffusers calls it: the noise, the velocity of Salimans & Ho (2022), or the image."""


class DiffusionDenoiser(nn.Module):
    """A diffusion model in one step: noisy images with values about [0, 1] -> images in [0, 1], both (batch, channel,
    height, width).

    Carlini, Tramer, Dvijotham, Rice, Sun & Kolter, "(Certified!!) Adversarial Robustness for Free!", ICLR 2023,
    https://arxiv.org/abs/2206.10550, algorithm 1: noise of standard deviation sigma on an image in [0, 1] is noise of
    2 sigma on one in [-1, 1], which a diffusion model meets at the step t at which (1 - a_t) / a_t = (2 sigma)^2.

    Args:
        unet: called with images about [-1, 1] and one time step for each; it may also predict a variance, in further
            channels, which one step does not need.
        alphas_cumprod: a_t of every step, (step,), falling from 1.
        sigma: of the noise, in pixel units of [0, 1] images.
        prediction: what the unet predicts.

    Raises:
        ValueError: the schedule has no step with that much noise.
    """

    def __init__(
        self, unet: nn.Module, alphas_cumprod: Tensor, sigma: float, prediction: Prediction = "epsilon"
    ) -> None:
        super().__init__()
        if prediction not in get_args(Prediction):
            raise ValueError(f"expected a model that predicts one of {get_args(Prediction)}, got {prediction!r}")
        self.unet, self.prediction = unet, prediction
        self.step, self.kept = _step(alphas_cumprod, sigma)
        self.training = unet.training

    def forward(self, x: Tensor) -> Tensor:
        signal, noise = math.sqrt(self.kept), math.sqrt(1 - self.kept)
        noisy = signal * (2 * x - 1)
        steps = torch.full((len(x),), self.step, device=x.device, dtype=torch.int64)
        found = _tensor(self.unet(noisy, steps))[:, : x.shape[1]]
        match self.prediction:
            case "epsilon":
                image = (noisy - noise * found) / signal
            case "v_prediction":
                image = signal * noisy - noise * found
            case _:
                image = found
        return (image.clamp(-1, 1) + 1) / 2


def _step(alphas_cumprod: Tensor, sigma: float) -> tuple[int, float]:
    """The step whose noise is nearest to sigma, and its a_t."""
    kept = alphas_cumprod.double().cpu()
    levels = ((1 - kept) / kept).sqrt() / 2
    if not float(levels.min()) * 0.5 <= sigma <= float(levels.max()):
        raise ValueError(
            f"the diffusion model knows noise of sigma {float(levels.min()):.3g} to {float(levels.max()):.3g}, not "
            f"{sigma:g}"
        )
    step = int((levels / sigma).log().abs().argmin())
    return step, float(kept[step])


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.sample if hasattr(output, "sample") else output[0]
