"""MACER: maximise the certified radius itself, without an attack.

Zhai et al., "MACER: Attack-free and Scalable Robust Training via Maximizing Certified Radius", ICLR 2020,
https://arxiv.org/abs/2001.02378, algorithm 1. MNIST: the baseline of SmoothMix; CIFAR-10: the re-run of Jeong et al.
(CAT-RS, 2023), whose commands say lambda = 6 at sigma 0.50 and whose folders say 4.

    holdfast train macer-mnist-0.50
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..certifiers.gaussian import Gaussian
from ..core.certifier import Classifier
from ..core.recipe import Method
from ..smoothing.copies import check, draw, predict
from ._protocol import cifar10, digits, late_drops, mnist


@dataclass(frozen=True)
class MACER(Method):
    """Cross-entropy of the smoothed prediction, and a hinge on the radius that it certifies."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    copies: int = 16
    """Noisy copies of an image in each step; k in the paper."""
    weight: float = 16.0
    """Weight of the radius; lambda in the paper."""
    beta: float = 16.0
    """Inverse temperature of the softmax in the radius; beta in the paper."""
    margin: float = 8.0
    """Where the hinge ends, in units of sigma / 2; gamma in the paper."""
    start: float = 0.0
    """Progress in [0, 1] from which on the radius counts: `deferred` in the released code."""

    def __post_init__(self) -> None:
        check(self, copies=1, weight=0, beta=0, margin=0, start=0)

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        logits = predict(model, x, draw(x, self.sigma, self.copies))
        smoothed = logits.softmax(-1).mean(0)
        loss = F.nll_loss((smoothed + 1e-10).log(), y)
        if t >= self.start - 1e-9:
            loss = loss + self.weight * self.sigma / 2 * self._hinge(logits, y).mean()
        return loss

    def certifier(self) -> Gaussian:
        return Gaussian(sigma=self.sigma)

    def _hinge(self, logits: Float[Tensor, "copies batch class"], y: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """margin - xi where the smoothed classifier is right, and xi is finite and at most margin; 0 elsewhere.

        xi = ndtri(z_1) - ndtri(z_2) for the two largest averaged probabilities. Rows that do not count are replaced
        before ndtri, not after: the gradient of 0 * inf is NaN.
        """
        top = (self.beta * logits).softmax(-1).mean(0).topk(2)
        xi = _xi(top.values.detach())
        counts = (top.indices[:, 0] == y) & (xi <= self.margin)  # infinity and NaN are not
        return torch.where(counts, self.margin - _xi(top.values.where(counts[:, None], 0.5)), 0.0)


def _xi(top: Float[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
    quantiles = torch.special.ndtri(top)
    return quantiles[:, 0] - quantiles[:, 1]


RECIPES = {
    "macer-digits-0.25": digits(MACER(0.25, weight=4.0, start=1 / 3)),
    **{
        f"macer-mnist-{sigma:.2f}": mnist(MACER(sigma, weight=weight, start=late_drops(90)[0]))
        for sigma, weight in ((0.25, 16.0), (0.5, 16.0), (1.0, 6.0))
    },
    **{
        f"macer-cifar10-{sigma:.2f}": cifar10(MACER(sigma, weight=weight, start=start)).replace(batch_size=64)
        for sigma, weight, start in ((0.25, 12.0, 0.0), (0.5, 6.0, 0.0), (1.0, 12.0, late_drops(150)[0]))
    },
}
