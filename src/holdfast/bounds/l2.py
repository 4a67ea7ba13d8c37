"""The global Lipschitz constant of a program in l2, and how far float64 takes it from the truth.

The rules compose `holdfast.bounds.affine.Bound`: constants multiply along a program, add up at sums, and combine as
the sides of a right triangle where values stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..ops.distance import sort_weights
from ..program import Program
from .affine import IDENTITY, Bound, plus
from .head import Head
from .operations import ACTIVATIONS, ORDERED
from .steps import Step, Steps
from .verified import ETA, UNIT, up


def lipschitz_bound(program: Program) -> float:
    """A proven upper bound on the l2 -> l2 Lipschitz constant of a program, rounded up.

    Raises:
        ValueError: an operation has no proof; the message names it and the line of code that it comes from.
    """
    return network_bound(Steps(program)).norm


def network_bound(steps: Steps, until: int | None = None) -> Bound:
    """All that is proven in l2 about the value of a node, by default the output."""
    found = steps.follow(IDENTITY, RULES, until)
    if not math.isfinite(found.norm):
        raise ValueError("the constant is not a finite number, so that nothing is proven")
    return found


def difference_constants(program: Program | Head) -> Float[Tensor, "class class"]:
    """Entry (i, j) is a proven l2 Lipschitz constant of logit_i - logit_j; float64, rounded up."""
    head = Head.of(program)
    return network_bound(head.steps, head.source).norm * head.distances() * (1 + 4 * UNIT)


def difference_errors(program: Program | Head) -> Float[Tensor, "class class"]:
    """By how much float64 can falsify a comparison of logit_i - logit_j between two images.

    Holds for images of up to twice the diagonal of the pixel cube: those in the cube, and all within a diagonal of one.
    """
    head = Head.of(program)
    bound = network_bound(head.steps, head.source)
    length = 2 * math.sqrt(math.prod(head.steps.program.input_shape))
    error = bound.error * length + bound.error_offset
    features = bound.norm * length + bound.offset + error
    sizes = torch.linalg.vector_norm(head.magnitude, dim=1) * features + head.bias_magnitude
    rounding = (head.unit + 8 * UNIT) * sizes + ETA * (1 + features)
    return 2 * (head.distances() * error + rounding[:, None] + rounding) * (1 + 1e-3)


Rule = Callable[..., Bound]


def _affine(step: Step, x: Bound) -> Bound:
    assert step.affine is not None
    found = step.affine.bound.after(x)
    return _ordered(step, found, op="clip") if step.ends else found


def _ordered(step: Step, *values: Bound, op: str = "") -> Bound:
    gain = ORDERED[op or step.op].gain(step.args)
    parts = zip(*((v.norm, v.offset, v.error, v.error_offset) for v in values), strict=True)
    norm, offset, error, error_offset = (gain * _together(part) for part in parts)
    zero = _length_at_zero(step.ends) * math.sqrt(math.prod(step.node.shape)) if step.ends else 0.0
    return Bound(up(norm), up(offset + zero), up(error), up(error_offset))


def _together(parts: tuple[float, ...]) -> float:
    return parts[0] if len(parts) == 1 else math.hypot(*parts) * (1 + 4 * UNIT)


def _length_at_zero(ends: Callable[[Tensor], Tensor]) -> float:
    return float(ends(torch.zeros((), dtype=torch.float64)).abs().max()) * (1 + 1e-6)


def _activation(step: Step, x: Bound) -> Bound:
    slope = ACTIVATIONS[step.op].slope(step.args)
    return Bound.of_layer(slope, _at_zero(step), gain=1 + slope, terms=16).after(x)


def _at_zero(step: Step) -> float:
    """Length of what the step makes of zeros, rounded up."""
    return float(step(torch.zeros(step.node.shape, dtype=torch.float64)).norm()) * (1 + 1e-6)


def _sum(step: Step, first: Bound, second: Bound) -> Bound:
    return plus(first, second, abs(step.args["factor"]))


def _softmax(step: Step, x: Bound) -> Bound:
    """The Jacobian diag(p) - p p^T has row sums of absolute values 2 p (1 - p) <= 1/2."""
    terms = step.node.shape[step.args["dim"]] + 32
    return Bound.of_layer(0.5, _at_zero(step), gain=2.0, terms=terms).after(x)


def _log_softmax(step: Step, x: Bound) -> Bound:
    """The Jacobian I - 1 p^T is a projection, as long as 1 p^T is: |1| |p| <= sqrt(classes).

    Szyld, "The many proofs of an identity on the norm of oblique projections", Numerical Algorithms 42, 2006.
    """
    classes = step.node.shape[step.args["dim"]]
    norm, gain = up(math.sqrt(classes)), 3 + math.sqrt(classes)
    return Bound.of_layer(norm, _at_zero(step), gain, terms=classes + 32).after(x)


def _linf_dist(step: Step, x: Bound) -> Bound:
    """Each output moves no further than the input in l-inf."""
    return _distance(step, 1.0, 4).after(x)


def _sort_dist(step: Step, x: Bound) -> Bound:
    """Each output moves no further than the length of the weights of its sorted coordinates times that of the input."""
    weights = sort_weights(step.args["keep"], step.args["terms"])
    return _distance(step, math.hypot(*weights), len(weights) + 8).after(x)


def _distance(step: Step, gain: float, roundings: int) -> Bound:
    """Of neurons that are distances in a norm of at most `gain` times that of l2, and of at most that of l-inf."""
    root = math.sqrt(math.prod(step.node.shape)) * (1 + 1e-15)
    return Bound.of_layer(gain * root, float(step.args["w"].abs().max()) * root, terms=roundings)


RULES: dict[str, Rule] = {
    **dict.fromkeys(ORDERED, _ordered),
    **dict.fromkeys(ACTIVATIONS, _activation),
    "affine": _affine,
    "sum": _sum,
    "aten.softmax.int": _softmax,
    "aten.log_softmax.int": _log_softmax,
    "holdfast.linf_dist.default": _linf_dist,
    "holdfast.sort_dist.default": _sort_dist,
}
