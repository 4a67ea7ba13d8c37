"""Interval bounds: between which numbers each value of a program lies for all inputs of a box, rounding included.

Gowal et al., "On the Effectiveness of Interval Bound Propagation", 2018, https://arxiv.org/abs/1810.12715; for
l-inf-distance neurons Zhang, Jiang, He & Wang, ICLR 2022, https://arxiv.org/abs/2110.06850; for sorted ones the same,
NeurIPS 2022, https://arxiv.org/abs/2210.01787.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..ops.distance import dist, sort_dist_bounds
from ..program import Program
from .head import Head
from .operations import ACTIVATIONS, ORDERED
from .steps import Step, Steps
from .verified import ETA, UNIT, kept

WIDEN = 1 + 1e-12
"""Covers the rounding of the few float64 operations that make a bound from others."""


@dataclass(frozen=True)
class Box:
    """lower <= f(x) <= upper for all x, and what a computer returns for f(x) is within `error` of it."""

    lower: Tensor
    upper: Tensor
    error: Tensor

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor) -> Box:
        """All inputs between two."""
        return cls(lower.double(), upper.double(), torch.zeros_like(lower, dtype=torch.float64))

    @property
    def size(self) -> Tensor:
        """At least the absolute values, true and computed."""
        return torch.maximum(self.lower.abs(), self.upper.abs()) + self.error

    @classmethod
    def around(cls, value: Tensor, deviation: Tensor, error: Tensor) -> Box:
        """All within a deviation of a value."""
        deviation = deviation * WIDEN + 4 * UNIT * value.abs()
        return cls(value - deviation, value + deviation, error * WIDEN)


def follow(steps: Steps, box: Box, until: int | None = None) -> Box:
    """Where the values of a node, by default the output, lie for all inputs of a box.

    Raises:
        ValueError: an operation has no proof; the message names it and the line of code that it comes from.
    """
    with torch.no_grad():
        return steps.follow(box, RULES, until)


def output_bounds(program: Program, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Between which numbers the outputs lie, true and computed in float64, for inputs between `lower` and `upper`."""
    box = follow(Steps(program), Box.of(lower, upper))
    return box.lower - box.error, box.upper + box.error


def lower_margins(
    program: Program | Steps | Head, lower: Tensor, upper: Tensor, label: Int[Tensor, " batch"]
) -> Float[Tensor, "batch class"]:
    """A lower bound on logit_label - logit_j over all images of a box, true and computed; 0 for the label itself."""
    head = Head.of(program)
    box = follow(head.steps, Box.of(lower, upper), head.source)
    low, high, error, size = (part.flatten(1) for part in (box.lower, box.upper, box.error, box.size))
    middle, reach = (low + high) / 2, (high - low) / 2 * WIDEN + error + 4 * UNIT * size
    rounding = head.rounding(size) * 4
    margins = torch.empty(len(low), len(head.matrix), dtype=torch.float64)
    for one in label.unique().tolist():
        rows, weight = label == one, head.matrix[one] - head.matrix
        found = middle[rows] @ weight.T - reach[rows] @ weight.abs().T * WIDEN + head.bias[one] - head.bias
        margins[rows] = found - rounding[rows] - rounding[rows, one, None]
    return margins.scatter(1, label[:, None], 0)


Rule = Callable[..., Box]


def _affine(step: Step, x: Box) -> Box:
    assert step.affine is not None
    middle = (x.lower + x.upper) / 2
    reach = torch.maximum(x.upper - middle, middle - x.lower) * (1 + 4 * UNIT)
    deviation, error = step.affine.spread(torch.stack([reach, x.error]), x.size)
    box = Box.around(step.affine(middle), deviation, error)
    return clipped(step, box)


def clipped(step: Step, box: Box) -> Box:
    """After the clip that belongs to an affine step, if there is one."""
    return Box(step.ends(box.lower), step.ends(box.upper), box.error) if step.ends else box


def _ordered(step: Step, *x: Box) -> Box:
    error = ORDERED[step.op].furthest(step.args, step, [one.error for one in x])
    return Box(step(*(one.lower for one in x)), step(*(one.upper for one in x)), error)


def _activation(step: Step, x: Box) -> Box:
    """Extremes are at the ends or where the function turns."""
    activation = ACTIVATIONS[step.op]
    values = [step(x.lower), step(x.upper)]
    for turn in activation.turns(step.args):
        at = x.lower.new_full((), turn).expand_as(x.lower)
        values.append(torch.where((x.lower < turn) & (turn < x.upper), step(at.contiguous()), values[0]))
    lower, upper = torch.stack(values).amin(0), torch.stack(values).amax(0)
    rounding = kept(16 * UNIT * (x.size + torch.maximum(lower.abs(), upper.abs())))
    error = activation.slope(step.args) * x.error * WIDEN + rounding
    return Box(lower - rounding, upper + rounding, error)


def _sum(step: Step, first: Box, second: Box) -> Box:
    factor = step.args["factor"]
    low, high = (second.lower, second.upper) if factor >= 0 else (second.upper, second.lower)
    rounding = kept(4 * UNIT * (first.size + abs(factor) * second.size))
    error = (first.error + abs(factor) * second.error) * WIDEN + rounding
    return Box(first.lower + factor * low - rounding, first.upper + factor * high + rounding, error)


def _log_softmax(step: Step, x: Box) -> Box:
    """Each rises with its own logit and falls with all others."""
    lower, upper = _others(step, x.lower, x.upper), _others(step, x.upper, x.lower)
    rounding = (64 + 4 * step.node.shape[step.args["dim"]]) * UNIT * (x.size.amax(1, keepdim=True) + 1)
    error = 2 * x.error.amax(1, keepdim=True) * WIDEN + rounding
    return Box(lower - rounding, (upper + rounding).clamp(max=0), error.expand_as(lower))


def _softmax(step: Step, x: Box) -> Box:
    """The error moves a probability by a quarter of twice the largest error of a logit."""
    log = _log_softmax(step, x)
    error = 0.5 * x.error.amax(1, keepdim=True) * WIDEN + (64 + 4 * x.lower.shape[1]) * UNIT
    return Box(log.lower.exp() * (1 - 1e-14), (log.upper.exp() * (1 + 1e-14)).clamp(max=1), error.expand_as(log.lower))


def _others(step: Step, own: Tensor, others: Tensor) -> Tensor:
    """own_i - log(exp own_i + sum over j != i of exp others_j)."""
    if own.dim() != 2:
        raise ValueError("softmax has a box for (batch, class)")
    table = others[:, None].expand(-1, own.shape[1], -1).clone()
    table.diagonal(dim1=1, dim2=2).copy_(own)
    return own - table.logsumexp(2)


def _linf_dist(step: Step, x: Box) -> Box:
    return _distance(step, x, distance_bounds(x.lower, x.upper, step.args["w"]), 16)


def _sort_dist(step: Step, x: Box) -> Box:
    keep, terms = step.args["keep"], step.args["terms"]
    return _distance(step, x, sort_dist_bounds(x.lower, x.upper, step.args["w"], keep, terms), terms + 16)


def _distance(step: Step, x: Box, bounds: tuple[Tensor, Tensor], roundings: int) -> Box:
    """Of distances in norms no larger than that of l-inf, from bounds that were computed with some roundings."""
    lower, upper = bounds
    rounding = roundings * UNIT * (x.size.amax(1, keepdim=True) + step.args["w"].abs().max()).amax()
    error = x.error.amax(1, keepdim=True) + rounding + ETA
    return Box(lower - rounding, upper + rounding, error.expand_as(lower))


def distance_bounds(
    lower: Float[Tensor, "batch inputs"], upper: Float[Tensor, "batch inputs"], w: Float[Tensor, "outputs inputs"]
) -> tuple[Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"]]:
    """The least and the largest |x - w|_inf over lower <= x <= upper.

    The largest is at an end: max(|lower - w|_inf, |upper - w|_inf). The least is how far w lies outside of the box,
    max_j max(lower - w, w - upper, 0): a one-sided distance, which is a distance once the box is moved far enough to
    one side of all weights. The move costs a few of the 53 bits of float64.
    """
    far = 2.0 ** torch.stack([lower, upper]).abs().amax().add(w.abs().amax()).log2().ceil().clamp(min=0).item()
    below, above, lowest, highest = dist(torch.cat([lower + far, upper - far, lower, upper]), w).chunk(4)
    return torch.maximum(below, above).sub(far).clamp(min=0), torch.maximum(lowest, highest)


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
