"""An affine part of a program: one operation, or several that are one convolution, with all that is proven about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..program import Program
from . import convolution as fused
from .convolution import Convolution, kernel_of, summed
from .linear import LINEAR, Change, conv_norm, norm_of, run
from .verified import ETA, UNIT, kept, product, up

Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Bound:
    """What is proven about a map between l2 spaces: its Lipschitz constant, and how far float64 takes it from truth.

    Constants multiply along a chain (Szegedy et al., "Intriguing properties of neural networks", ICLR 2014, section
    4.3, https://arxiv.org/abs/1312.6199). Rounding follows the standard model of floating-point arithmetic (Higham,
    "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1): a sum of n products is off by at most
    n u / (1 - n u) times the sum of the absolute values.

    A map f with |f(x) - f(y)| <= norm |x - y| and |f(x)| <= norm |x| + offset, computed with an error.

    What a computer returns for f(x) is within error |x| + error_offset of it.
    """

    norm: float
    """A Lipschitz constant, rounded up."""
    offset: float = 0.0
    """At least |f(0)|."""
    error: float = 0.0
    error_offset: float = 0.0

    @classmethod
    def of_layer(cls, norm: float, offset: float = 0.0, gain: float | None = None, terms: int = 0) -> Bound:
        """A layer with `terms` roundings in each output.

        Args:
            gain: norm of the map whose weights are the absolute values of the layer's; by default `norm`.
        """
        gamma = terms * UNIT / (1 - terms * UNIT)
        return cls(norm, offset, gamma * (norm if gain is None else gain), gamma * offset + ETA)

    def after(self, first: Bound) -> Bound:
        """The composition: `first`, then this map."""
        computed = self.norm + self.error
        return Bound(
            norm=product(self.norm, first.norm),
            offset=self.norm * first.offset + self.offset,
            error=computed * first.error + self.error * first.norm,
            error_offset=computed * first.error_offset + self.error * first.offset + self.error_offset,
        )


IDENTITY = Bound(1.0)


def plus(one: Bound, other: Bound, factor: float = 1.0) -> Bound:
    """one + factor * other."""
    norm, error = one.norm + factor * other.norm, one.error + factor * other.error
    offset, error_offset = one.offset + factor * other.offset, one.error_offset + factor * other.error_offset
    rounding = 2 * UNIT if factor != 1 else UNIT
    return Bound(
        up(norm), offset, error + rounding * (norm + error), error_offset + rounding * (offset + error_offset) + ETA
    )


@dataclass(frozen=True, eq=False)
class Affine:
    """From the value of node `source` to the value of the last of `nodes`."""

    program: Program
    """Folded, in float64."""
    source: int
    nodes: tuple[int, ...]
    kernel: Convolution | None
    """The linear part of all of it; None, for one operation, where that is no convolution."""

    @classmethod
    def of(cls, program: Program, index: int) -> Affine:
        """A single operation."""
        (source,) = program.nodes[index].refs
        kernel = kernel_of(program.nodes[index].op, program.arguments(index), program.nodes[source].shape)
        return cls(program, source, (index,), kernel)

    @classmethod
    def identity(cls, program: Program, index: int) -> Affine | None:
        """The value of a node itself, as a convolution."""
        shape = program.nodes[index].shape
        if shape[0] != 1 or len(shape) not in (2, 4):
            return None
        one = torch.ones(shape[1], dtype=torch.float64)
        return cls(program, index, (), Convolution.diagonal(one, torch.zeros_like(one)))

    def then(self, other: Affine) -> Affine | None:
        """Both as one; None if that is not one convolution."""
        if self.kernel is None or other.kernel is None:
            return None
        both = fused.Affine((), self.kernel).then(fused.Affine((), other.kernel))
        return both and Affine(self.program, self.source, (*self.nodes, *other.nodes), both.kernel)

    def plus(self, other: Affine, index: int, factor: float) -> Affine | None:
        """self + factor * other, as node `index` computes it, for two with one source; None as for `then`."""
        if self.kernel is None or other.kernel is None or self.source != other.source:
            return None
        kernel = summed(self.kernel, other.kernel, factor, self.program.nodes[self.source].shape)
        return kernel and Affine(self.program, self.source, (*self.nodes, *other.nodes, index), kernel)

    def __call__(self, x: Tensor) -> Tensor:
        values, batch = {self.source: x}, len(x) // self.inputs[0]
        for index in self.nodes:
            op, args = self.program.nodes[index].op, self.program.arguments(index)
            values[index] = run(op, args, lambda ref: values[ref.node], batch)
        return values[self.nodes[-1]]

    def weighted(self, x: Tensor, change: Change) -> Tensor:
        """The linear part, with changed weights, of inputs (batch, *shape)."""
        if self.kernel is None:
            (index,) = self.nodes
            return LINEAR[self.program.nodes[index].op](self.program.arguments(index), x, change)
        return self.kernel.linear(images(x), change(self.kernel.weight)).reshape(len(x), *self.shape[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output for one example."""
        return self.program.nodes[self.nodes[-1]].shape

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of the input for one example."""
        return self.program.nodes[self.source].shape

    @cached_property
    def norm(self) -> float:
        """A proven bound on its norm from l2 to l2, rounded up."""
        if len(self.nodes) == 1:
            node = self.program.nodes[self.nodes[0]]
            found = norm_of(node.op, self.program.arguments(self.nodes[0]), self.inputs, node.shape)
            return self.gain if found is None else min(found, self.gain)
        if not any(self.program.nodes[index].op in _FULL for index in self.nodes):
            return up(self.gain + self.slack)
        assert self.kernel is not None
        kernel, size = self.kernel, self.inputs[2:] or (1, 1)
        return up(conv_norm(kernel.weight, size, kernel.stride, kernel.padding, 1, kernel.dilation) + self.slack)

    @cached_property
    def gain(self) -> float:
        """At least the l2 norm of the linear part with the absolute values of its weights: sums of rows and columns."""
        rows, columns = self._sums(magnitude)
        norm = math.sqrt(rows * columns) * (1 + 2 * UNIT * (sum(self._counts) + 16))
        if not math.isfinite(norm):
            raise ValueError("a weight is inf or NaN, so that nothing is proven")
        return up(norm)

    @property
    def terms(self) -> int:
        """Products that are summed in one output, at most."""
        return self._counts[0]

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Weights in a row and in a column, at most."""
        rows, columns = self._sums(torch.ones_like)
        return math.ceil(rows * (1 + 1e-6)), math.ceil(columns * (1 + 1e-6))

    def _sums(self, change: Change) -> tuple[float, float]:
        """Largest sum of a row and of a column."""
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.ones(self.inputs, dtype=torch.float64, requires_grad=True)
            rows = self.weighted(x, change)
            (columns,) = torch.autograd.grad(rows.sum(), x)
        return float(rows.detach().max()), float(columns.max())

    @cached_property
    def slack(self) -> float:
        """By how much the kernel of several operations may be off, in norm, by the rounding of its own weights."""
        if len(self.nodes) == 1:
            return 0.0
        refs = {index: self.program.nodes[index].refs for index in self.nodes}
        terms = sum(self._alone(index).terms for index, found in refs.items() if len(found) == 1)
        return (2 * terms + 32) * UNIT * self._one_by_one.norm

    def _alone(self, index: int) -> Affine:
        """One of its operations."""
        return Affine(self.program, self.program.nodes[index].refs[0], (index,), None)

    @cached_property
    def bound(self) -> Bound:
        """Its norm, its value at zero, and the rounding errors of its operations one after the other."""
        size = _length(self(torch.zeros(self.inputs, dtype=torch.float64)))
        if len(self.nodes) == 1:
            return Bound.of_layer(self.norm, size, self.gain, self.terms + 4)
        return replace(self._one_by_one, norm=self.norm, offset=size)

    @cached_property
    def _one_by_one(self) -> Bound:
        values = {self.source: IDENTITY}
        for index in self.nodes:
            values[index] = self._rounded(index, values)
        return values[self.nodes[-1]]

    def _rounded(self, index: int, values: dict[int, Bound]) -> Bound:
        """One of several operations; norms by sums of rows and columns."""
        refs = self.program.nodes[index].refs
        if len(refs) == 1:
            part = self._alone(index)
            zero = part(torch.zeros(part.inputs, dtype=torch.float64))
            return Bound.of_layer(part.gain, _length(zero), part.gain, part.terms + 4).after(values[refs[0]])
        factor = abs(float(self.program.arguments(index)["alpha"]))
        return plus(values[refs[0]], values[refs[1]], factor)

    def spread(self, deviations: Tensor, size: Tensor) -> Tensor:
        """How far computed outputs are from true ones, for inputs off by `deviations` whose true ones are up to `size`.

        Args:
            deviations: (count, batch, *shape), several cases at once.
            size: (batch, *shape), at least the absolute values of all inputs, computed and true.
        """
        several = len(self.nodes) > 1
        found, _ = self._walked(torch.zeros_like(deviations[:1]) if several else deviations, size)
        if not several:
            return found
        moved = self.weighted(deviations.flatten(0, 1), magnitude).unflatten(0, (len(deviations), -1))
        return moved * (1 + (self.terms + 32) * UNIT) + found

    def size(self, size: Tensor) -> Tensor:
        """At least the absolute values of all numbers that are summed in each output, for inputs of such a size."""
        return self._walked(torch.zeros_like(size)[None], size)[1]

    def _walked(self, deviations: Tensor, size: Tensor) -> Pairs:
        """(deviations, size) after the operations one by one."""
        values = {self.source: (deviations, size)}
        for index in self.nodes:
            values[index] = self._spread(index, values)
        return values[self.nodes[-1]]

    def _spread(self, index: int, values: dict[int, Pairs]) -> Pairs:
        """After one operation."""
        refs = self.program.nodes[index].refs
        (first, one), (second, other) = values[refs[0]], values[refs[-1]]
        if len(refs) == 2:
            factor = abs(float(self.program.arguments(index)["alpha"]))
            size = kept((one + factor * other) * (1 + 4 * UNIT))
            return (first + factor * second) * (1 + 4 * UNIT) + 4 * UNIT * size, size
        part = self._alone(index)
        unit = (part.terms + 8) * UNIT
        bias = part(torch.zeros(part.inputs, dtype=one.dtype)).abs()
        size = part.weighted(one, magnitude)
        size = kept((size + bias.repeat(len(size) // len(bias), *[1] * (size.dim() - 1))) * (1 + unit))
        moved = part.weighted(first.flatten(0, 1), magnitude).unflatten(0, (len(first), -1))
        return moved * (1 + unit) + kept(unit * size), size

    def row_norms(self, mask: Tensor) -> Tensor:
        """How far each output can move per unit of l2 length, if only inputs where mask is 1 can move."""
        found = self.weighted(mask, torch.square).clamp(min=0).sqrt()
        return found * (1 + (self.terms + 8) * UNIT)


_FULL = {
    f"aten.{name}"
    for name in ("conv2d.default", "conv2d.padding", "linear.default", "mm.default", "addmm.default", "matmul.default")
}


def magnitude(weight: Tensor) -> Tensor:
    """Absolute values.

    Raises:
        ValueError: one is so small, and not 0, that its square vanishes in float64.
    """
    size = weight.abs()
    if bool(((size > 0) & (size < fused.SMALLEST)).any()):
        raise ValueError("a weight is not 0 and smaller than 1e-150, so that products of it vanish in float64")
    return size


def images(x: Tensor) -> Tensor:
    """Features as images of one pixel."""
    return x if x.dim() == 4 else x[:, :, None, None]


def _length(bias: Tensor) -> float:
    length = float(torch.linalg.vector_norm(bias)) * (1 + 1e-6)
    if not math.isfinite(length):
        raise ValueError("a weight is inf or NaN, so that nothing is proven")
    return length
