"""The attack on a smoothed classifier, shared by the training methods that need adversarial examples.

Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS 2019,
https://arxiv.org/abs/1906.04584: gradient ascent on -log mean_i F_y(x + noise_i), where F is the softmax. Jeong et al.,
"SmoothMix", NeurIPS 2021, https://arxiv.org/abs/2111.09277, take the same steps without a bound on their length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.certifier import Classifier
from ..core.threat import l2
from ..smoothing.copies import log_mean_softmax, predict
from .pgd import pgd

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
