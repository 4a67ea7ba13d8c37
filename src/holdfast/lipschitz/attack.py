"""Projected gradient ascent in l2, to look for what a certificate says does not exist.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083, with the margin to the strongest rival as objective. In float64, each image with a
radius of its own.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .compose import materialise


def l2_attack(
    model: nn.Module,
    x: Float[Tensor, "batch channel height width"],
    radii: Float[Tensor, " batch"],
    steps: int = 40,
) -> tuple[Float[Tensor, "batch channel height width"], Int[Tensor, " batch"]]:
    """Images within `radii` of x whose margins are as small as found, and the float64 model's predictions for them.

    They may leave [0, 1], as the ball of a certificate does.

    Args:
        model: in eval mode; attacked and judged as the float64 copy that `margin` certifies.
        radii: l2 distances that are not exceeded, in pixel units, float64.
    """
    plain, x = materialise(model), x.double()
    top = plain(x).argmax(1, keepdim=True)
    radii = radii.double().view(-1, 1, 1, 1)
    inside = radii * (1 - 1e-9)  # so that rounding x + shift takes nothing outside
    shift = torch.zeros_like(x)
    for _ in range(steps):
        at = (x + shift).requires_grad_()
        logits = plain(at)
        rival = logits.scatter(1, top, -math.inf).amax(1)
        (gradient,) = torch.autograd.grad((rival - logits.gather(1, top)[:, 0]).sum(), at)
        shift = shift + radii / 4 * gradient / _length(gradient).clamp_min(1e-300)
        shift = shift * (inside / _length(shift).clamp_min(1e-300)).clamp(max=1)
    return x + shift, plain(x + shift).argmax(1)


def _length(images: Tensor) -> Tensor:
    return torch.linalg.vector_norm(images.flatten(1), dim=1).view(-1, 1, 1, 1)
