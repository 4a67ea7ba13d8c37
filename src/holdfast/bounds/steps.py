"""A program as the steps that are bounded: affine parts fused into operators, MinMax and clipped ReLU recognized.

Rules that bound step by step lose little where a step is as large as what can be bounded at once: `x + conv(x)` is one
convolution, a normalization belongs to the convolution behind it, and MinMax, which programs spell as comparisons,
choices and a concatenation, permutes numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..program import Node, Program, Ref
from .affine import Affine
from .linear import is_linear, run
from .operations import ACTIVATIONS, CLIPS

Found = TypeVar("Found")


@dataclass(frozen=True)
class Ends:
    """min(max(x, lower), upper)."""

    lower: Tensor
    upper: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def after(self, first: Ends) -> Ends:
        """Both as one."""
        return Ends(self(first.lower), self(first.upper))


@dataclass(frozen=True, eq=False)
class Step:
    """What is bounded at once: the value of one node from the values of others."""

    op: str
    """"affine", "sum", "clip", "minmax", "maximum", "minimum", "input", or the operation's own name."""
    inputs: tuple[int, ...]
    node: Node
    """The node whose value it makes."""
    args: Mapping[str, Any]
    affine: Affine | None = None
    ends: Ends | None = None
    """Of a clip, or of the one behind an affine part, which then belongs to the step."""

    def __call__(self, *values: Tensor) -> Tensor:
        """The value, from values of its inputs."""
        if self.affine is not None:
            (x,) = values
            return self.ends(self.affine(x)) if self.ends else self.affine(x)
        if self.op == "clip" and self.ends:
            return self.ends(*values)
        if self.op == "minmax":
            first, second = values[0].chunk(2, self.args["dim"])
            order = (torch.maximum, torch.minimum) if self.args["rising"] is False else (torch.minimum, torch.maximum)
            return torch.cat([one(first, second) for one in order], self.args["dim"])
        if self.op in ("maximum", "minimum"):
            return getattr(torch, self.op)(*values)
        if self.op == "sum":
            return values[0] + self.args["factor"] * values[1]
        of = dict(zip(self.inputs, values, strict=True))
        return run(self.node.op, self.args, lambda ref: of[ref.node], len(values[0]) // self.node.shape[0])

    def refuse(self) -> ValueError:
        """There is no rule for it."""
        return ValueError(f"there is no proof for {self.node}")


class Steps:
    """The steps of a program, by the node that each makes.

    Raises:
        ValueError: a value is computed in another precision than the rest, or a weight is not a number.
    """

    def __init__(self, program: Program) -> None:
        self.program = program.folded(torch.float64)
        self.users = [0] * len(self.program.nodes)
        for node in self.program.nodes:
            for ref in set(node.refs):
                self.users[ref] += 1
        self.found: dict[int, Step] = {}
        for index, node in enumerate(self.program.nodes):
            if node.dtype not in (torch.float64, torch.bool):
                raise ValueError(f"there is no proof for what is computed in {node.dtype}: {node}")
            try:
                self.found[index] = self._step(index, node)
            except ValueError as error:
                raise ValueError(f"there is no proof for {node}: {error}") from error
        self.steps = self._fused(self._needed())

    @property
    def output(self) -> int:
        """The node that the program returns."""
        return len(self.program.nodes) - 1

    def follow(self, start: Found, rules: Mapping[str, Callable[..., Found]], until: int | None = None) -> Found:
        """The value of a domain at a node, by default the output, from that of the input.

        Raises:
            ValueError: a step has no rule, or the rule refuses it; the message names it and the line it comes from.
        """
        until = self.output if until is None else until
        last = {ref: index for index, step in self.steps.items() for ref in step.inputs}
        values = {0: start}
        for index, step in self.steps.items():
            if index == 0 or index > until:
                continue
            if step.op not in rules:
                raise step.refuse()
            try:
                values[index] = rules[step.op](step, *(values[ref] for ref in step.inputs))
            except ValueError as error:
                raise ValueError(f"there is no proof for {step.node}: {error}") from error
            for ref in step.inputs:
                if last[ref] == index and ref != until:
                    values.pop(ref, None)
        return values[until]

    def require(self, rules: Container[str]) -> None:
        """Refuse a program with a step that has no rule, before any of them is applied.

        Raises:
            ValueError: it names the operation and the line of code that it comes from.
        """
        for index, step in self.steps.items():
            if index and step.op not in rules:
                raise step.refuse()

    def _step(self, index: int, node: Node) -> Step:
        args = self.program.arguments(index) if index else {}
        if args.get("p", math.inf) != math.inf and node.op == "holdfast.linf_dist.default":
            raise ValueError(f"at p = {args['p']:g} it has no constant; train to p = inf, or set it")
        if node.op in ACTIVATIONS and not all(math.isfinite(arg) for arg in args.values() if isinstance(arg, float)):
            raise ValueError("a number in its arguments is inf or NaN")
        plain = Step(node.op, node.refs, node, args)
        if node.op in CLIPS and len(node.refs) == 1 and (clip := self._clip(plain)):
            return clip
        if is_linear(node.op, args):
            return self._affine(index, plain)
        recognized = {
            "aten.where.self": self._choice,
            "aten.maximum.default": self._pair,
            "aten.minimum.default": self._pair,
            "aten.cat.default": self._minmax,
            "aten.add.Tensor": self._sum,
            "aten.sub.Tensor": self._sum,
        }
        return recognized[node.op](index, plain) if node.op in recognized else plain

    def _clip(self, step: Step) -> Step | None:
        ends = [_end(end, way) for end, way in zip(CLIPS[step.node.op](step.args), (-1, 1), strict=True)]
        if any(bool(end.isnan().any()) for end in ends):
            raise ValueError("an end is not a number")
        (source,) = step.inputs
        before, own = self.found[source], Ends(*ends)
        if self.program.nodes[source].shape != step.node.shape:
            return None
        if before.op == "clip" and before.ends:
            return replace(step, op="clip", inputs=before.inputs, ends=own.after(before.ends))
        return replace(step, op="clip", ends=own)

    def _affine(self, index: int, step: Step) -> Step:
        own = Affine.of(self.program, index)
        before = self.found[own.source].affine
        together = before.then(own) if before is not None and self.users[own.source] == 1 else None
        found = together or own
        return replace(step, op="affine", inputs=(found.source,), affine=found)

    def _sum(self, index: int, step: Step) -> Step:
        """Two affine parts of one value, or such a part and the value itself, are one; else the sum of two values."""
        self._refuse_broadcast(step, 2)
        factor = float(step.args["alpha"]) * (1 if step.node.op == "aten.add.Tensor" else -1)
        for one in self._as_affine(step.args["self"].node):
            for other in self._as_affine(step.args["other"].node):
                if one.source == other.source and (found := one.plus(other, index, factor)):
                    return replace(step, op="affine", inputs=(found.source,), affine=found)
        return replace(step, op="sum", args={"factor": factor})

    def _pair(self, index: int, step: Step) -> Step:
        self._refuse_broadcast(step, 2)
        return replace(step, op=step.node.op.split(".")[1])

    def _refuse_broadcast(self, step: Step, count: int) -> None:
        shapes = {self.program.nodes[ref].shape for ref in step.inputs}
        if len(step.inputs) != count or shapes != {step.node.shape}:
            raise ValueError("of two values, both must depend on the input and have one shape")

    def _as_affine(self, index: int) -> list[Affine]:
        itself, made = Affine.identity(self.program, index), self.found[index].affine
        return [one for one in (itself, made if self.users[index] == 1 else None) if one is not None]

    def _choice(self, index: int, step: Step) -> Step:
        """where(a > b, a, b) is a maximum, and the like."""
        condition, one, other = (step.args[name] for name in ("condition", "self", "other"))
        compared = self.program.nodes[condition.node] if isinstance(condition, Ref) else step.node
        kind = compared.op.split(".")[1]
        if kind not in ("gt", "ge", "lt", "le") or not (isinstance(one, Ref) and isinstance(other, Ref)):
            return step
        pair = (compared.args["self"], compared.args["other"])
        if pair not in ((one, other), (other, one)) or len({self.program.nodes[r.node].shape for r in pair}) != 1:
            return step
        larger = (kind in ("gt", "ge")) == (pair == (one, other))
        return replace(step, op="maximum" if larger else "minimum", inputs=(one.node, other.node))

    def _minmax(self, index: int, step: Step) -> Step:
        """cat([max(a, b), min(a, b)]), where a and b are the halves of one value."""
        parts = [self.found[part.node] for part in step.args["tensors"] if isinstance(part, Ref)]
        dim = step.args["dim"] % len(step.node.shape)
        kinds = [part.op for part in parts]
        if sorted(kinds) != ["maximum", "minimum"] or set(parts[0].inputs) != set(parts[1].inputs):
            return step
        halves = sorted(self._half(ref, dim) for ref in set(parts[0].inputs))
        if len(halves) != 2 or halves[0][0] != halves[1][0] or [half[1] for half in halves] != [0, 1]:
            return step
        args = {"dim": dim, "rising": kinds[0] == "minimum"}
        return replace(step, op="minmax", inputs=(halves[0][0],), args=args)

    def _half(self, index: int, dim: int) -> tuple[int, int]:
        """(node, 0 or 1) for the first or second half of its value along a dimension; (index, -1) otherwise."""
        node = self.program.nodes[index]
        if node.op == "aten.slice.Tensor":
            args, (source,) = self.program.arguments(index), node.refs
            size = self.program.nodes[source].shape[dim]
            start, end = args["start"] or 0, min(args["end"] if args["end"] is not None else size, size)
            halves = ((0, size // 2), (size // 2, size)) if size % 2 == 0 and args["step"] == 1 else ()
            if args["dim"] % len(node.shape) == dim and (start, end) in halves:
                return source, int(start > 0)
        return index, -1

    def _needed(self) -> dict[int, Step]:
        needed = {self.output}
        for index in range(self.output, 0, -1):
            if index in needed:
                needed |= set(self.found[index].inputs)
        return {index: step for index, step in self.found.items() if index in needed or index == 0}

    def _fused(self, steps: dict[int, Step]) -> dict[int, Step]:
        """With each clip behind an affine part that nothing else uses made a part of its step."""
        users: dict[int, list[int]] = {}
        for index, step in steps.items():
            for ref in step.inputs:
                users.setdefault(ref, []).append(index)
        for index, step in list(steps.items()):
            before = steps.get(step.inputs[0]) if step.op == "clip" else None
            if before and before.affine is not None and before.affine.kernel and users[step.inputs[0]] == [index]:
                steps[index] = replace(step, op="affine", inputs=before.inputs, affine=before.affine)
                del steps[step.inputs[0]]
        return steps


def _end(end: Any, way: int) -> Tensor:
    return torch.as_tensor(way * torch.inf if end is None else end, dtype=torch.float64)
