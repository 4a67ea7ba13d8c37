"""The global Lipschitz constant of a program in l-inf: how far each number moves if no pixel moves by more than 1.

A deviation is followed number by number, which is tighter than one constant a layer; for l-inf-distance neurons it is
their theorem (Zhang, Cai, Lu, He & Wang, ICML 2021, https://arxiv.org/abs/2102.05363, theorem 3.2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..program import Program
from .affine import magnitude
from .box import Box, follow
from .head import Head
from .operations import ACTIVATIONS, ORDERED
from .steps import Step
from .verified import UNIT, kept


def difference_constants(program: Program | Head) -> Float[Tensor, "class class"]:
    """Entry (i, j) is a proven l-inf Lipschitz constant of logit_i - logit_j; float64, rounded up.

    Raises:
        ValueError: an operation has no proof; the message names it and the line of code that it comes from.
    """
    head = Head.of(program)
    steps = head.steps
    deviations = steps.follow(torch.ones(steps.program.nodes[0].shape, dtype=torch.float64), RULES, head.source)
    return head.weighted(deviations.flatten())


def difference_errors(program: Program | Head) -> Float[Tensor, "class class"]:
    """By how much float64 can falsify a comparison of logit_i - logit_j between two images.

    Holds for images in [-1, 2]: those in the cube, and all within its diameter.
    """
    head = Head.of(program)
    steps = head.steps
    shape = steps.program.nodes[0].shape
    lower, upper = (torch.full(shape, end, dtype=torch.float64) for end in (-1.0, 2.0))
    box = follow(steps, Box.of(lower, upper), head.source)
    rounding = head.rounding(torch.maximum(box.lower.abs(), box.upper.abs()).flatten())
    return 2 * (head.weighted(box.error.flatten()) + rounding[:, None] + rounding) * (1 + 1e-3)


Rule = Callable[..., Tensor]


def _up(deviations: Tensor, terms: int = 1) -> Tensor:
    return kept(deviations * (1 + (terms + 4) * UNIT))


def _affine(step: Step, c: Tensor) -> Tensor:
    assert step.affine is not None
    return _up(step.affine.weighted(c, magnitude), step.affine.terms + 32)


def _ordered(step: Step, *c: Tensor) -> Tensor:
    return ORDERED[step.op].furthest(step.args, step, list(c))


def _activation(step: Step, c: Tensor) -> Tensor:
    return _up(ACTIVATIONS[step.op].slope(step.args) * c)


def _sum(step: Step, first: Tensor, second: Tensor) -> Tensor:
    return _up(first + abs(step.args["factor"]) * second)


def _all(gain: float) -> Rule:
    """Each output moves with all inputs along one dimension."""

    def rule(step: Step, c: Tensor) -> Tensor:
        return _up(gain * c.amax(step.args["dim"], keepdim=True)).expand_as(c)

    return rule


def _distance(step: Step, c: Tensor) -> Tensor:
    """The norms are no larger than that of l-inf."""
    return c.amax(1, keepdim=True).expand(len(c), step.node.shape[1])


RULES: dict[str, Rule] = {
    **dict.fromkeys(ORDERED, _ordered),
    **dict.fromkeys(ACTIVATIONS, _activation),
    "affine": _affine,
    "sum": _sum,
    "aten.softmax.int": _all(0.5),
    "aten.log_softmax.int": _all(2.0),
    "holdfast.linf_dist.default": _distance,
    "holdfast.sort_dist.default": _distance,
}
