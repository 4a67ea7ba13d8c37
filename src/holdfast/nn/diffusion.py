"""A diffusion model as a denoiser, in one step.

Carlini, Tramer, Dvijotham, Rice, Sun & Kolter, "(Certified!!) Adversarial Robustness for Free!", ICLR 2023,
https://arxiv.org/abs/2206.10550, algorithm 1: noise of standard deviation sigma on an image in [0, 1] is noise of
2 sigma on one in [-1, 1], which a diffusion model meets at the step t at which (1 - a_t) / a_t = (2 sigma)^2.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What a model predicts, as diffusers calls it: the noise, the velocity of Salimans & Ho (2022), or the image."""


class DiffusionDenoiser(nn.Module):
    """Noisy images, (batch, channel, height, width) with values about [0, 1] -> images in [0, 1].

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
