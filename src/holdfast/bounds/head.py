"""Differences of logits through the last affine map of a program: logit_i - logit_j = (m_i - m_j) v + b_i - b_j.

Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021, https://arxiv.org/abs/2102.08452, section 3:
with features v of constant L the difference has the constant L |m_i - m_j|, less than what two logits have alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..program import Program
from .affine import Affine, magnitude
from .steps import Steps
from .verified import ETA, UNIT

LARGEST = 2**26
"""Numbers in the matrix of a head."""

STEEPEST = 2.0**200
"""Of what is taken together as one matrix: what underflow takes from a product stays far below `ETA`."""


@dataclass(frozen=True, eq=False)
class Head:
    """Logits = matrix v + bias, for the value v of node `source`, flattened."""

    steps: Steps
    source: int
    matrix: Float[Tensor, "class feature"]
    magnitude: Float[Tensor, "class feature"]
    """At least the absolute values of all products that an entry of the matrix sums."""
    bias: Float[Tensor, " class"]
    bias_magnitude: Float[Tensor, " class"]
    unit: float
    """Relative rounding error of the matrix, and of computing logits by its operations."""

    @classmethod
    def of(cls, program: Program | Steps | Head) -> Head:
        """The longest affine chain that ends at the output.

        Raises:
            ValueError: the output is not one number for each class, or a weight is not a finite number.
        """
        if isinstance(program, Head):
            return program
        steps = program if isinstance(program, Steps) else Steps(program)
        classes = steps.program.classes
        parts: list[Affine] = []
        source, largest = steps.output, 1.0
        while (step := steps.steps[source]).affine is not None and step.ends is None:
            if classes * math.prod(step.affine.inputs) > LARGEST or step.affine.inputs[0] != 1:
                break
            largest *= step.affine.gain
            if largest > STEEPEST:
                break
            parts.insert(0, step.affine)
            source = step.affine.source
        shape = steps.program.nodes[source].shape
        unit = sum((part.terms + 8 * len(part.nodes)) * UNIT for part in parts) * 2
        bias = _chain(parts, torch.zeros(shape, dtype=torch.float64))
        head = cls(
            steps,
            source,
            _rows(parts, shape, classes, absolute=False),
            _rows(parts, shape, classes, absolute=True),
            bias.flatten(),
            _bias_magnitude(parts, torch.zeros(shape, dtype=torch.float64)).flatten(),
            unit,
        )
        if not (torch.isfinite(head.magnitude).all() and torch.isfinite(head.bias_magnitude).all()):
            raise ValueError("a weight behind the last activation is inf or NaN, so that nothing is proven")
        return head

    def distances(self) -> Float[Tensor, "class class"]:
        """|m_i - m_j| in l2, rounded up."""
        distances = torch.cdist(self.matrix, self.matrix, compute_mode="donot_use_mm_for_euclid_dist")
        inexact = self.unit * torch.linalg.vector_norm(self.magnitude, dim=1)
        return distances * (1 + 2 * (self.matrix.shape[1] + 8) * UNIT) + inexact[:, None] + inexact + ETA

    def weighted(self, deviations: Float[Tensor, " feature"]) -> Float[Tensor, "class class"]:
        """sum_k |m_ik - m_jk| deviations_k, rounded up: how far a difference moves, if features move that far."""
        inexact = self.unit * (self.magnitude @ deviations) + ETA * deviations.sum()
        differences = torch.stack([(row - self.matrix).abs() @ deviations for row in self.matrix])
        return differences * (1 + 2 * (self.matrix.shape[1] + 8) * UNIT) + inexact[:, None] + inexact

    def rounding(self, sizes: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch class"]:
        """By how much each computed logit may be off, for features of absolute value up to `sizes`."""
        sums = sizes @ self.magnitude.T + self.bias_magnitude + ETA * sizes.sum(-1, keepdim=True)
        return (self.unit + 8 * UNIT) * sums * (1 + 1e-6) + ETA


def _chain(parts: list[Affine], x: Tensor) -> Tensor:
    for part in parts:
        x = part(x)
    return x


def _rows(parts: list[Affine], shape: tuple[int, ...], classes: int, absolute: bool) -> Tensor:
    """The matrix of a chain, row by row: what a change of the features does to each logit."""
    change = magnitude if absolute else torch.clone
    with torch.inference_mode(False), torch.enable_grad():
        x = start = torch.zeros(classes, *shape[1:], dtype=torch.float64, requires_grad=True)
        for part in parts:
            x = part.weighted(x, change)
        (rows,) = torch.autograd.grad(x, start, torch.eye(classes, dtype=torch.float64))
    return rows.flatten(1)


def _bias_magnitude(parts: list[Affine], zero: Tensor) -> Tensor:
    """Sum of the absolute values of all that biases bring to the logits."""
    size = zero
    for part in parts:
        size = part.size(size)
    return size
