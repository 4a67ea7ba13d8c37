"""Attacks on l-inf-distance nets: gradients of the net at a lower p, where they are dense, judged at p = inf.

Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083, with the start and the step length of Zhang et al., ICLR 2022,
https://arxiv.org/abs/2110.06850. At p = inf the gradient of a distance has one coordinate that is not 0, so plain
gradient steps move a few pixels and overrate a net; at p = 64 they move many.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from .layers import set_exponent
from .network import LInfDistNet

SURROGATE = 64.0
"""The exponent whose gradients worked best of 8, 16, 32, 64 and inf; 8 and 16 were weaker than inf."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""Logits (batch, class) and labels (batch,) -> what an attack lowers, (batch,)."""


def attacks(
    network: LInfDistNet,
    x: Float[Tensor, "batch channel height width"],
    y: Int[Tensor, " batch"],
    epsilon: float | Float[Tensor, " batch"],
    steps: int = 20,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The images that each attack found: `pgd`, as published, and `surrogate`. An example falls if either succeeds."""
    return {
        "pgd": pgd(network, x, y, epsilon, confidence, steps=steps, seed=seed),
        "surrogate": pgd(network, x, y, epsilon, lead, steps=steps, p=SURROGATE, seed=seed),
    }


def pgd(
    network: LInfDistNet,
    x: Float[Tensor, "batch channel height width"],
    y: Int[Tensor, " batch"],
    epsilon: float | Float[Tensor, " batch"],
    objective: Objective,
    steps: int = 20,
    p: float = math.inf,
    seed: int = 0,
) -> Float[Tensor, "batch channel height width"]:
    """The images in [0, 1] within epsilon of x at which the label leads least at p = inf, of all that were visited.

    Args:
        network: in eval mode and at p = inf, and left so.
        epsilon: in pixel units, one for all or one for each image.
        objective: lowered by signed gradient steps of epsilon / 4.
        p: exponent of the net whose gradients are followed.
        seed: of the start, a clipped normal.
    """
    radius = torch.as_tensor(epsilon, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)
    lower, upper = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    here = (x + radius * (noise / 4).clamp(-0.5, 0.5)).clamp(lower, upper)
    found, least = x, _lead_at_inf(network, x, y)
    for _ in range(steps):
        here = (here - radius / 4 * _direction(network, here, y, objective, p)).clamp(lower, upper)
        now = _lead_at_inf(network, here, y)
        found = torch.where((now < least).view(-1, 1, 1, 1), here, found)
        least = torch.minimum(least, now)
    return found


def lead(logits: Tensor, y: Tensor) -> Tensor:
    """By how much the label leads the strongest rival; negative where it does not."""
    own = logits.gather(1, y[:, None])
    return (own - logits.scatter(1, y[:, None], -math.inf)).amin(1)


def confidence(logits: Tensor, y: Tensor) -> Tensor:
    """The log-probability of the label."""
    return -cross_entropy(logits, y, reduction="none")


def _direction(network: LInfDistNet, x: Tensor, y: Tensor, objective: Objective, p: float) -> Tensor:
    at = x.detach().requires_grad_()
    set_exponent(network, p)
    try:
        return torch.autograd.grad(objective(network.tempered(network(at)), y).sum(), at)[0].sign()
    finally:
        set_exponent(network, math.inf)


@torch.no_grad()
def _lead_at_inf(network: LInfDistNet, x: Tensor, y: Tensor) -> Tensor:
    return lead(network(x), y)
