"""Attacks: projected gradients in any threat model, on a classifier or on its smoothed version.

The one loop that every attack here is an objective of: Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards Deep Learning
Models Resistant to Adversarial Attacks", ICLR 2018, https://arxiv.org/abs/1706.06083.

On a smoothed classifier, shared by the training methods that need adversarial examples: Salman et al., "Provably Robust
Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS 2019, https://arxiv.org/abs/1906.04584: gradient
ascent on -log mean_i F_y(x + noise_i), where F is the softmax. Jeong et al., "SmoothMix", NeurIPS 2021,
https://arxiv.org/abs/2111.09277, take the same steps without a bound on their length.

On l-inf-distance nets: gradients of the net at a lower p, where they are dense, judged at p = inf. Start and step
length of Zhang, Jiang, He & Wang, ICLR 2022, https://arxiv.org/abs/2110.06850. At p = inf the gradient of a distance
has one coordinate that is not 0, so that plain gradient steps move a few pixels and overrate a net; at p = 64 they move
many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .core.certifier import Classifier
from .core.threat import Threat, l2, linf
from .nn.linf.layers import set_exponent
from .nn.linf.network import LInfDistNet
from .smoothing.copies import log_mean_softmax, predict

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


SMALLEST = 1e-8
"""Added to the length of a gradient before it is divided by it, as in the released codes."""


def attack(
    model: Classifier,
    x: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"],
    noise: Float[Tensor, "copies batch ..."],
    steps: int,
    step_size: float,
    radius: float = math.inf,
    start: Float[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch ..."]:
    """Images in [0, 1] that the smoothed classifier, averaged over the given noise, gets as wrong as possible.

    Args:
        model: in any mode; attacked in eval mode, and left as it was.
        x: images in [0, 1].
        steps: gradient steps, each one forward and one backward pass of all copies; T in the papers. 0 returns x.
        step_size: l2 length of a step, in pixel units.
        radius: largest l2 distance from x, in pixel units; no bound unless told.
        start: where to begin; by default x.
    """
    with frozen(model) as classifier:

        def objective(images: Tensor) -> Tensor:
            return log_mean_softmax(predict(classifier, images, noise)).gather(1, y[:, None])[:, 0]

        return pgd(objective, x, l2, radius, steps, step_size=step_size, start=start, smallest=SMALLEST)


@contextmanager
def frozen(model: Classifier) -> Iterator[Classifier]:
    """The classifier in eval mode, with parameters that compute no gradients; afterwards all is as it was."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    learnt = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    try:
        for module in modules:
            module.training = False
        for parameter in learnt:
            parameter.requires_grad_(False)
        yield _unwrapped(model)
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter in learnt:
            parameter.requires_grad_(True)


def _unwrapped(model: Classifier) -> Classifier:
    """The module inside of Lightning Fabric's wrapper, which allows no backward pass but that of the training loss.

    It computes in the precision of its weights: autocast belongs to the wrapper.
    """
    from lightning_fabric import is_wrapped  # takes longer to import than torch, and only training needs it

    if not (isinstance(model, nn.Module) and is_wrapped(model)):
        return model
    inner: nn.Module = model.module  # pyright: ignore[reportAssignmentType]
    dtype = next(inner.parameters()).dtype
    return lambda x: inner(x.to(dtype)).to(x.dtype)


def warm_up(t: float, fraction: float) -> float:
    """Grows linearly from 0 to 1 over the first `fraction` of training; t is the progress in [0, 1]."""
    return min(1.0, t / fraction) if fraction > 0 else 1.0


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
