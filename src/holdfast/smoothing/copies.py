"""The m noisy copies of an image that training sees: drawn once, and sent through the network as one batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..core.certifier import Classifier
from ..core.config import Config
from ..core.recipe import Method


def draw(x: Float[Tensor, "batch ..."], sigma: float, copies: int) -> Float[Tensor, "copies batch ..."]:
    """Gaussian noise for `copies` copies of every image, from the global generator of torch.

    Raises:
        ValueError: the images are not in [0, 1], so that sigma would not be in pixel units.
    """
    low, high = x.aminmax()
    if not ((low >= 0) & (high <= 1)):  # NaN is in no range; one question, for a GPU is waited for at each
        raise ValueError(
            f"expected images in [0, 1], got [{low:.4g}, {high:.4g}]; divide by the largest value, "
            "and put the normalisation inside the model (holdfast.nn.zoo.Normalize)"
        )
    return sigma * torch.randn((copies, *x.shape), dtype=x.dtype, device=x.device)


def predict(
    model: Classifier, x: Float[Tensor, "batch ..."], noise: Float[Tensor, "copies batch ..."]
) -> Float[Tensor, "copies batch class"]:
    """Logits of all copies, in one forward pass."""
    return model((x + noise).flatten(0, 1)).unflatten(0, noise.shape[:2])


def cross_entropy(logits: Float[Tensor, "copies batch class"], y: Int[Tensor, " batch"]) -> Tensor:
    """Mean over images and copies."""
    return F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)))


def log_mean_softmax(logits: Float[Tensor, "copies batch class"]) -> Float[Tensor, "batch class"]:
    """Log of the smoothed prediction: the softmax is averaged over the copies, inside the log."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def check(method: Method, **least: float) -> None:
    """Refuse a sigma that is not positive and finite, and a field below its least value.

    Raises:
        ValueError: it names the field and its value.
    """
    Config.__post_init__(method)
    sigma = getattr(method, "sigma", 1.0)
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive, got {sigma}")
    for name, bound in least.items():
        if not bound <= getattr(method, name) < math.inf:
            raise ValueError(f"{name} must be at least {bound}, got {getattr(method, name)}")
