"""Projected gradient ascent in l2, to look for what a certificate says does not exist.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083, with the margin to the strongest rival as objective. In float64, each image with a
radius of its own.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def l2_attack(
    network: nn.Module,
    x: Float[Tensor, "batch channel height width"],
    y: Int[Tensor, " batch"],
    radii: Float[Tensor, " batch"],
    steps: int = 40,
) -> Float[Tensor, "batch channel height width"]:
    """Images within `radii` of x at which y leads its strongest rival by as little as found.

    They may leave [0, 1], as the ball of a certificate does.

    Args:
        network: in eval mode and float64, such as `materialise` returns.
        x: float64.
        radii: l2 distances that are not exceeded, in pixel units, float64.
    """
    radii, label = radii.double().view(-1, 1, 1, 1), y[:, None]
    inside = radii * (1 - 1e-9)  # so that rounding x + shift takes nothing outside
    shift = torch.zeros_like(x)
    for _ in range(steps):
        at = (x + shift).requires_grad_()
        logits = network(at)
        rival = logits.scatter(1, label, -math.inf).amax(1)
        (gradient,) = torch.autograd.grad((rival - logits.gather(1, label)[:, 0]).sum(), at)
        shift = shift + radii / 4 * gradient / _length(gradient).clamp_min(1e-300)
        shift = shift * (inside / _length(shift).clamp_min(1e-300)).clamp(max=1)
    return x + shift


def _length(images: Tensor) -> Tensor:
    return torch.linalg.vector_norm(images.flatten(1), dim=1).view(-1, 1, 1, 1)
