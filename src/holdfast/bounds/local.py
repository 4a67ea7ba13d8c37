"""How far a program can move when its input moves within a small l2 ball: boxes and balls, step by step.

Huang, Zhang, Shi, Kolter & Anandkumar, "Training Certifiably Robust Neural Networks with Efficient Local Lipschitz
Bounds", NeurIPS 2021, https://arxiv.org/abs/2111.01395, section 3: a unit of a clipped ReLU that stays at one of its
ends for the whole ball passes nothing on, so its row leaves the operator norm. Two things are tighter here:
- A unit that leaves its end only near the edge of the ball has a slope below 1. With pre-activation z <= 0, rising by
  at most h, it moves by max(0, z + u) <= u (z + h) / h for 0 <= u <= h, a chord of a convex function; and the same at
  the upper end. Slopes of 0 and 1 are the "may vary" masks of the paper.
- What is followed is the distance max |f(x') - f(x)| over the ball itself, and the box may bound it as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..program import Program
from . import box as boxes
from . import convolution as fused
from . import l2
from .affine import IDENTITY, images
from .box import WIDEN, Box, clipped
from .convolution import Norm, proven_norm
from .operations import ORDERED
from .steps import Ends, Step, Steps
from .verified import ETA


@dataclass(frozen=True)
class Region:
    """Where f(x') can be for all x' within gamma of x, for a batch of inputs."""

    value: Tensor
    """f(x), as computed: within box.error of the true one."""
    box: Box
    reach: Float[Tensor, " batch"]
    """At least max |f(x') - f(x)|, in l2."""
    constant: Float[Tensor, " batch"]
    """A Lipschitz constant of f between x and every x'."""

    @classmethod
    def ball(cls, x: Tensor, gamma: Float[Tensor, " batch"]) -> Region:
        """All inputs within gamma of x."""
        box = Box.around(x, _like(gamma, x).expand_as(x), torch.zeros_like(x))
        return cls(x, box, gamma, torch.ones_like(gamma))

    def bounded(self) -> Region:
        """Box and reach, each by the other: no number moves further than all, nor all further than a corner."""
        value, box = self.value, self.box
        furthest = torch.maximum(box.upper - value, value - box.lower) + box.error
        corner = furthest.reshape(len(self.reach), -1).norm(dim=1) * WIDEN
        away = _like(self.reach, value) * WIDEN + box.error
        lower, upper = torch.maximum(box.lower, value - away), torch.minimum(box.upper, value + away)
        return replace(self, reach=torch.minimum(self.reach, corner), box=replace(box, lower=lower, upper=upper))


def local_bound(program: Program | Steps, x: Tensor, gamma: float | Tensor, norm: Norm = proven_norm) -> Region:
    """Where a program can take the balls of l2 radius gamma around some inputs.

    Args:
        x: inputs (batch, *shape).
        gamma: positive radius, in pixel units; one for all, or one for each.
        norm: `proven_norm`, or an estimate.

    Raises:
        ValueError: gamma is not positive, or an operation has no proof, which the message names.
    """
    steps = program if isinstance(program, Steps) else Steps(program)
    x = x.double()
    radius = torch.as_tensor(gamma, dtype=x.dtype, device=x.device).expand(len(x))
    if not (radius > 0).all():
        raise ValueError(f"gamma must be positive, got {gamma}")
    with torch.no_grad():
        region = steps.follow(Region.ball(x, radius), _rules(norm))
    reach, constant = (torch.where(one.isnan(), torch.inf, one * WIDEN) for one in (region.reach, region.constant))
    return replace(region, reach=reach, constant=constant)


Rule = Callable[..., Region]


def _rules(norm: Norm) -> dict[str, Rule]:
    return {**RULES, "affine": lambda step, x: _affine(step, x, norm)}


def _affine(step: Step, x: Region, norm: Norm) -> Region:
    affine = step.affine
    assert affine is not None
    if affine.kernel is None:
        return _single(step, x)
    mask = (~(x.box.upper <= x.box.lower)).to(x.value)  # NaN may vary
    before = replace(step, ends=None)
    value, box = affine(x.value), boxes.RULES["affine"](before, x.box)
    ball = affine.row_norms(mask) * _like(x.reach, value) * WIDEN + box.error
    box = replace(box, lower=torch.maximum(box.lower, value - ball), upper=torch.minimum(box.upper, value + ball))
    slope = torch.ones_like(value) if step.ends is None else slopes(value, box, step.ends)
    kernel = fused.Affine((), affine.kernel)
    factor = norm(kernel, images(slope), images(mask)) + affine.slack
    after = step.ends(value) if step.ends else value
    reach, constant = (factor * size * WIDEN + ETA for size in (x.reach, x.constant))
    return Region(after, clipped(step, box), reach, constant).bounded()


def slopes(value: Tensor, box: Box, ends: Ends) -> Tensor:
    """At least |clip(z') - clip(z)| / |z' - z| for z' in the box and a true z within the error of the value.

    1 where z is between the ends; the chord from z where it is beyond one of them.
    """
    risen = (torch.minimum(box.upper, ends.upper) - ends.lower).clamp(min=0)
    fallen = (ends.upper - torch.maximum(box.lower, ends.lower)).clamp(min=0)
    below, above = (ends.lower - (value + box.error)).clamp(min=0), (value - box.error - ends.upper).clamp(min=0)
    slope = torch.where(below > 0, risen / (risen + below), 1.0)
    slope = torch.where(above > 0, fallen / (fallen + above), slope)
    return torch.where(slope.isnan(), 1.0, slope * WIDEN).clamp(max=1)


def _single(step: Step, x: Region) -> Region:
    """By the box of the operation, and its Lipschitz constant everywhere."""
    gain = l2.RULES[step.op](step, IDENTITY).norm * WIDEN
    return Region(
        step(x.value), boxes.RULES[step.op](step, x.box), gain * x.reach + ETA, gain * x.constant + ETA
    ).bounded()


def _ordered(step: Step, *x: Region) -> Region:
    gain = ORDERED[step.op].gain(step.args)
    reach, constant = (
        gain * torch.stack([getattr(one, name) for one in x]).norm(dim=0) * WIDEN for name in ("reach", "constant")
    )
    box = boxes.RULES[step.op](step, *(one.box for one in x))
    return Region(step(*(one.value for one in x)), box, reach, constant).bounded()


def _sum(step: Step, first: Region, second: Region) -> Region:
    factor = abs(step.args["factor"])
    return Region(
        step(first.value, second.value),
        boxes.RULES["sum"](step, first.box, second.box),
        (first.reach + factor * second.reach) * WIDEN,
        (first.constant + factor * second.constant) * WIDEN,
    ).bounded()


RULES: dict[str, Rule] = {
    **dict.fromkeys(l2.RULES, _single),
    **dict.fromkeys(ORDERED, _ordered),
    "sum": _sum,
}
"""Operations with rules in l2 and for boxes have one here; some have a better one."""


def _like(numbers: Float[Tensor, " batch"], value: Tensor) -> Tensor:
    """One number for each example, over all numbers of its value."""
    return numbers.repeat_interleave(len(value) // len(numbers)).view(-1, *[1] * (value.dim() - 1))
