"""A program as a small graph: operations by name, each with one tensor as its value. It grows node by node, checked.

Shapes are those of a batch of one example. `rows` tells whether dimension 0 of a value is the batch: then a batch of n
has n times as many rows, those of one example together, and no row depends on another example.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .rows import Value, check_rows

BATCH = 1009
"""Examples in the batch on which shapes are computed: a prime, so that a size that it divides is a number of rows."""

LARGEST = 2**28
"""Numbers that one value of a program may hold, for one example."""


@dataclass(frozen=True)
class Ref:
    """The value of a node; 0 is the input."""

    node: int


@dataclass(frozen=True)
class Weight:
    """A stored tensor."""

    name: str


@dataclass(frozen=True)
class Batch:
    """The number of examples, times a number."""

    times: int


Argument = Any
"""Ref, Weight, Batch, None, bool, int, float, str, torch.dtype, or a tuple of them."""


@dataclass(frozen=True)
class Place:
    """Where a node comes from; no part of what a program is."""

    modules: tuple[str, ...] = ()
    """The modules in whose call it was computed, from the outside in: `layer2.3`, `layer2.3@1` for a second call."""
    line: str = ""
    """Of the user's code: file, number, text."""


@dataclass(frozen=True)
class Node:
    """One operation."""

    op: str
    """Such as "aten.conv2d.default"; "input" for node 0."""
    args: Mapping[str, Argument]
    """By their names in the operation's schema, without those at their default."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: bool
    place: Place = field(default=Place(), compare=False)

    @property
    def refs(self) -> tuple[int, ...]:
        """Nodes whose values it takes."""
        return tuple(arg.node for arg in flat(self.args) if isinstance(arg, Ref))

    def __str__(self) -> str:
        where = f" in {self.place.modules[-1]}" if self.place.modules and self.place.modules[-1] else ""
        return f"{self.op}{where}" + (f" ({self.place.line})" if self.place.line else "")


def flat(args: Mapping[str, Argument]) -> Iterator[Argument]:
    """All arguments, lists unpacked."""
    for arg in args.values():
        yield from arg if isinstance(arg, tuple) else (arg,)


def mapped(arg: Argument, change: Any) -> Argument:
    """The argument with `change` applied to what it holds, lists unpacked."""
    return [change(one) for one in arg] if isinstance(arg, tuple) else change(arg)


def operation(name: str) -> Any:
    """The torch operation of that name, e.g. "aten.conv2d.default"."""
    room, packet, overload = name.split(".")
    if room == "holdfast":
        from ..ops import distance  # noqa: F401  (registers the operations)
    return getattr(getattr(getattr(torch.ops, room), packet), overload)


def positional(op: Any, args: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by name as a call: (positional, by keyword), defaults filled in where a later one is given."""
    left = dict(args)
    before: list[Any] = []
    plain = [a for a in op._schema.arguments if not a.kwarg_only]
    while left and plain:
        argument = plain.pop(0)
        before.append(left.pop(argument.name) if argument.name in left else argument.default_value)
        if all(a.name not in left for a in plain):
            break
    return before, left


def _ordered(op: str, args: Mapping[str, Argument]) -> dict[str, Argument]:
    """In the order of the operation's schema."""
    known = [argument.name for argument in operation(op)._schema.arguments]
    if unknown := args.keys() - set(known):
        raise ValueError(f"it has no argument {sorted(unknown)[0]!r}")
    return {name: args[name] for name in known if name in args}


class Graph:
    """Nodes and tensors of a program that is being made; every node is checked and gets its shape.

    Args:
        shape: of one input, without the batch.

    Raises:
        ValueError: from `add`: an operation that is not allowed, does not fit its arguments, or mixes the batch.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.nodes = [Node("input", {}, (1, *shape), dtype, rows=True)]
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[str, Ref] = {}
        self._fake = FakeTensorMode()
        self._size = 0

    def __getitem__(self, ref: Ref) -> Node:
        return self.nodes[ref.node]

    def add(self, op: str, args: Mapping[str, Argument], place: Place = Place()) -> Ref:
        """Append an operation; what is there already is not computed again."""
        try:
            check_rows(op, None, (), BATCH)
            args = _ordered(op, args)
            key = f"{op} {args}"
            if key in self._known:
                return self._known[key]
            shape, dtype = self._typed(op, args)
            rows = check_rows(op, {name: self._value(arg) for name, arg in args.items()}, shape, BATCH)
            if rows:
                shape = (shape[0] // BATCH, *shape[1:])
            self._refuse_large(shape, rows)
        except ValueError as error:
            raise ValueError(f"{Node(op, args, (), torch.float32, False, place)}: {error}") from None
        self.nodes.append(Node(op, dict(args), shape, dtype, rows, place))
        self._known[key] = Ref(len(self.nodes) - 1)
        return self._known[key]

    def _typed(self, op: str, args: Mapping[str, Argument]) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape for `BATCH` examples, and type."""
        try:
            with self._fake, torch.no_grad():
                call = operation(op)
                before, named = positional(call, {name: mapped(arg, self._like) for name, arg in args.items()})
                result = call(*before, **named)
            return tuple(int(side) for side in result.shape), result.dtype
        except Exception as error:  # what torch raises for arguments that make no sense has many types
            raise ValueError(
                f"its arguments do not fit: {str(error).splitlines()[0] if str(error) else error!r}"
            ) from None

    def _like(self, arg: Argument) -> Any:
        """What stands for an argument while shapes are computed."""
        if isinstance(arg, Batch):
            return arg.times * BATCH
        if isinstance(arg, Weight):
            tensor = self.tensors[arg.name]
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        if isinstance(arg, Ref):
            node = self[arg]
            return torch.empty((node.shape[0] * BATCH, *node.shape[1:]) if node.rows else node.shape, dtype=node.dtype)
        return arg

    def _value(self, arg: Argument) -> Any:
        """The argument as the rules for the batch see it."""
        if isinstance(arg, tuple):
            return tuple(self._value(one) for one in arg)
        if isinstance(arg, Ref):
            return Value(self[arg].shape, self[arg].rows)
        if isinstance(arg, Weight):
            return Value(tuple(self.tensors[arg.name].shape), rows=False)
        return arg

    def _refuse_large(self, shape: tuple[int, ...], rows: bool) -> None:
        size = math.prod(shape)
        self._size += 0 if rows else size
        if size > LARGEST or self._size > 4 * LARGEST:
            raise ValueError(f"its value of shape {shape} is too large")
