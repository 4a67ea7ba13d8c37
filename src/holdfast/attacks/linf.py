"""Attacks on l-inf-distance nets: gradients of the net at a lower p, where they are dense, judged at p = inf.

Start and step length of Zhang, Jiang, He & Wang, ICLR 2022, https://arxiv.org/abs/2110.06850. At p = inf the gradient
of a distance has one coordinate that is not 0, so plain gradient steps move a few pixels and overrate a net; at p = 64
they move many.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..core.certifier import Classifier
from ..core.threat import linf
from ..nn.linf.layers import set_exponent
from ..nn.linf.network import LInfDistNet
from .pgd import lead, pgd

SURROGATE = 64.0
"""The exponent whose gradients worked best of 8, 16, 32, 64 and inf; 8 and 16 were weaker than inf."""


def attacks(
    network: LInfDistNet,
    x: Float[Tensor, "batch channel height width"],
    y: Int[Tensor, " batch"],
    epsilon: float | Float[Tensor, " batch"],
    steps: int = 20,
    seed: int = 0,
    judge: Classifier | None = None,
) -> dict[str, Tensor]:
    """The images in [0, 1] that each attack found: `pgd`, as published, and `surrogate`. An example falls if either
    succeeds.

    Args:
        network: in eval mode and at p = inf, and left so.
        epsilon: in pixel units, one for all or one for each image.
        seed: of the start, a clipped normal.
        judge: the classifier that is attacked, where it is not the network itself, which then lends its gradients.
    """
    radius = torch.as_tensor(epsilon, dtype=x.dtype, device=x.device).expand(len(x))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    start = (x + radius.view(-1, 1, 1, 1) * (noise / 4).clamp(-0.5, 0.5)).clamp(0, 1)

    def logits(images: Tensor, p: float) -> Tensor:
        set_exponent(network, p)
        try:
            return network.tempered(network(images))
        finally:
            set_exponent(network, math.inf)

    def judged(images: Tensor) -> Tensor:
        return lead((judge or network)(images), y)

    objectives = {
        "pgd": lambda images: -cross_entropy(logits(images, math.inf), y, reduction="none"),
        "surrogate": lambda images: lead(logits(images, SURROGATE), y),
    }
    return {
        name: pgd(objective, x, linf, radius, steps, start=start, judge=judged)
        for name, objective in objectives.items()
    }
