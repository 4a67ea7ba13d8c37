"""Projected gradient descent in any threat model: the one loop that every attack here is an objective of.

Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.threat import Threat

Objective = Callable[[Tensor], Float[Tensor, " batch"]]
"""What an attack lowers, for every row of a batch of images."""


def pgd(
    objective: Objective,
    x: Float[Tensor, "batch ..."],
    threat: Threat,
    radius: float | Float[Tensor, " batch"],
    steps: int,
    *,
    step_size: float | None = None,
    start: Float[Tensor, "batch ..."] | None = None,
    box: tuple[float, float] | None = (0.0, 1.0),
    judge: Objective | None = None,
    smallest: float = 1e-30,
) -> Float[Tensor, "batch ..."]:
    """Images within a radius of x at which an objective is as low as found.

    Args:
        objective: differentiable; its gradient is followed.
        radius: in the norm of the threat, in pixel units; one for all or one for each image.
        steps: gradient steps; 0 returns the start.
        step_size: norm of a step; by default a quarter of the radius.
        start: where to begin; by default x.
        box: values that images stay within; None lets them leave [0, 1], as the ball of a certificate does.
        judge: where given, the image that it rates lowest of all that were visited is returned; else the last.
        smallest: see `Threat.direction`.
    """
    rows = [-1, *[1] * (x.ndim - 1)]
    limit = torch.as_tensor(radius, dtype=x.dtype, device=x.device).expand(len(x)).reshape(rows)
    step = limit / 4 if step_size is None else step_size
    here = x if start is None else start
    found, least = x, None if judge is None else _rated(judge, x)
    for _ in range(steps):
        here = here - step * threat.direction(gradient(objective, here), smallest)
        here = x + threat.project((here - x).detach(), limit)  # what made x may learn; the way to here may not
        here = here if box is None else here.clamp(*box)
        if judge is not None and least is not None:
            now = _rated(judge, here)
            found = torch.where((now < least).view(rows), here, found)
            least = torch.minimum(least, now)
    return here if judge is None else found


def inside(
    network: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"],
    threat: Threat,
    radii: Float[Tensor, " batch"],
    steps: int = 40,
) -> Float[Tensor, "batch ..."]:
    """Images within `radii` of x, in or out of [0, 1], at which y leads its strongest rival by as little as found.

    Looks for what a certificate says does not exist: give it the float64 network that was certified.
    """
    limit = radii * (1 - 1e-9)  # so that rounding x + shift takes nothing outside
    return pgd(lambda images: lead(network(images), y), x, threat, limit, steps, box=None)


def lead(logits: Float[Tensor, "batch class"], y: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """By how much the label leads its strongest rival; negative where it does not."""
    label = y[:, None]
    return logits.gather(1, label)[:, 0] - logits.scatter(1, label, -math.inf).amax(1)


def gradient(objective: Objective, at: Tensor) -> Tensor:
    """Of the sum of an objective over rows that do not influence each other."""
    with torch.inference_mode(False), torch.enable_grad():
        at = at.detach().clone().requires_grad_()
        return torch.autograd.grad(objective(at).sum(), at)[0]


@torch.no_grad()
def _rated(judge: Objective, x: Tensor) -> Tensor:
    return judge(x)
