"""A classifier as data: what runs, what is proven, what is stored and what is hashed are this one object."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .graph import Argument, Batch, Graph, Node, Place, Ref, Weight, flat, mapped, operation, positional


@dataclass(frozen=True, eq=False)
class Program:
    """A function of batches of inputs: operations in order, each with one value, and the tensors that they use.

    It holds no code, shares no memory with what it was captured from, and changes neither itself nor its input.
    """

    nodes: tuple[Node, ...]
    """Node 0 is the input; each of the others refers to nodes before it, and is of use; the last is the output."""
    tensors: Mapping[str, Tensor]
    origins: Mapping[str, str] = field(default_factory=dict)
    """What a tensor was called where it comes from; no part of what a program is."""
    halves: int | None = None
    """The node to whose value noise is added, where that is not the input: a cut; see `holdfast.program.cut`."""
    norm: str | None = None
    """In which it is certified, as its network names it."""

    @classmethod
    def of(cls, graph: Graph, output: Ref) -> Program:
        """What the output needs of a graph, numbered anew."""
        needed = {output.node, 0}
        for index in range(output.node, 0, -1):
            if index in needed:
                needed |= set(graph.nodes[index].refs)
        order = sorted(needed)
        return cls._numbered({old: graph.nodes[old] for old in order}, graph.tensors)

    @classmethod
    def _numbered(
        cls, kept: Mapping[int, Node], tensors: Mapping[str, Tensor], origins: Mapping[str, str] | None = None
    ) -> Program:
        """Nodes by their old number; tensors that none of them uses are left out, the others named in order of use."""
        new = {old: index for index, old in enumerate(kept)}
        names: dict[str, str] = {}

        def renamed(arg: Argument) -> Argument:
            if isinstance(arg, Ref):
                return Ref(new[arg.node])
            return Weight(names.setdefault(arg.name, str(len(names)))) if isinstance(arg, Weight) else arg

        nodes = [
            replace(node, args={key: _tuple(mapped(arg, renamed)) for key, arg in node.args.items()})
            for node in kept.values()
        ]
        origins = {name: (origins or {}).get(old, old) for old, name in names.items()}
        return cls(tuple(nodes), {name: tensors[old] for old, name in names.items()}, origins)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input, without the batch."""
        return self.nodes[0].shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """In which it was captured."""
        return self.nodes[0].dtype

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the output for one input."""
        return self.nodes[-1].shape[1:]

    @property
    def classes(self) -> int:
        """Raises a ValueError where the output is not one number for each class."""
        if len(self.nodes[-1].shape) != 2:
            raise ValueError(f"expected logits (batch, class), the program returns (batch, *{self.output_shape})")
        return self.nodes[-1].shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Run it on a batch of inputs, in the precision of its weights, where they are."""
        return self._runner(x)

    @cached_property
    def _runner(self) -> Runner:
        return Runner(self.folded())

    def module(self, dtype: torch.dtype | None = None) -> Runner:
        """A network that runs it, whose weights are buffers: it can be moved to another device."""
        return Runner(self.folded(dtype), self if dtype in (None, self.dtype) else None)

    def to(self, device: torch.device) -> Program:
        """The same program with its tensors there."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def __deepcopy__(self, memo: Any) -> Program:
        """Itself: nothing in it ever changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which computes again what was computed from it."""
        return Program, (self.nodes, self.tensors, self.origins, self.halves, self.norm)

    def arguments(self, index: int) -> dict[str, Any]:
        """All arguments of a node by name, with defaults, and tensors for weights."""
        node = self.nodes[index]
        schema = operation(node.op)._schema.arguments
        given = {name: _tuple(mapped(arg, self._tensor)) for name, arg in node.args.items()}
        return {a.name: given.get(a.name, _tuple(a.default_value)) for a in schema}

    def _tensor(self, arg: Argument) -> Any:
        return self.tensors[arg.name] if isinstance(arg, Weight) else arg

    def folded(self, dtype: torch.dtype | None = None) -> Program:
        """The same function, with every value that does not depend on the input computed once, in that precision."""
        dtype = dtype or self.dtype
        known: dict[int, Tensor] = {}
        cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.tensors.items()}
        device = next((t.device for t in cast.values()), None)

        def value(arg: Argument) -> Any:
            if isinstance(arg, Ref):
                return known[arg.node]
            return cast[arg.name] if isinstance(arg, Weight) else arg

        last: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            last |= {ref: max(last.get(ref, 0), len(self.nodes) if node.rows else index) for ref in node.refs}
        kept, used = {}, dict(cast)
        for index, node in enumerate(self.nodes):
            node = replace(node, dtype=dtype if node.dtype == self.dtype else node.dtype)
            args = {name: dtype if arg == self.dtype else arg for name, arg in node.args.items()}
            if index and not node.rows:
                made = _computed(node, args, value, device)
                known[index] = used[f"value {index}"] = made.to(node.dtype)  # torch.ones(3), say, knows of no other
                for ref in {ref for ref in node.refs if last[ref] == index}:  # gigabytes, of weights made of others
                    del known[ref], used[f"value {ref}"]
                continue
            kept[index] = replace(
                node, args={key: _tuple(mapped(arg, lambda one: _folded(one, known))) for key, arg in args.items()}
            )
        return Program._numbered(kept, used)

    @cached_property
    def graph_json(self) -> bytes:
        """The operations in one fixed spelling."""
        return self.spelled({})

    def spelled(self, names: Mapping[str, str]) -> bytes:
        """`graph_json` with other names of the tensors."""

        def renamed(arg: Argument) -> Argument:
            return Weight(names.get(arg.name, arg.name)) if isinstance(arg, Weight) else arg

        nodes = [
            {"op": n.op, "args": {k: _encoded(_tuple(mapped(v, renamed))) for k, v in n.args.items()}}
            for n in self.nodes[1:]
        ]
        head = {"format": 1, "input": list(self.input_shape), "dtype": str(self.dtype).removeprefix("torch.")}
        more = {} if self.halves is None else {"halves": self.halves}
        more |= {} if self.norm is None else {"norm": self.norm}
        return json.dumps({**head, **more, "nodes": nodes}, indent=0, sort_keys=True, allow_nan=False).encode()

    @cached_property
    def identity(self) -> str:
        """SHA-256, in hex, of the operations and the stored tensors: the same in every process, on every processor."""
        digest = hashlib.sha256(self.graph_json)
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


class Runner(torch.fx.GraphModule):
    """A folded program as a module of torch operations.

    Args:
        program: that runs.
        source: the program that it is the folded form of, in the same precision.
    """

    def __init__(self, program: Program, source: Program | None = None) -> None:
        root = nn.Module()
        for name, tensor in program.tensors.items():
            root.register_buffer(f"t{name}", tensor.clone() if source else tensor)  # what is changed here stays here
        graph = torch.fx.Graph()
        values = [graph.placeholder("x")]
        size: torch.fx.Node | None = None
        places: dict[str, Place] = {}
        if any(isinstance(arg, Batch) for node in program.nodes for arg in flat(node.args)):
            size = graph.call_function(torch.ops.aten.sym_size.int, (values[0], 0))

        def value(arg: Argument) -> Any:
            if isinstance(arg, Ref):
                return values[arg.node]
            if isinstance(arg, Weight):
                return weights[arg.name]
            return _times(graph, size, arg.times) if isinstance(arg, Batch) else arg

        weights = {name: graph.get_attr(f"t{name}") for name in program.tensors}
        for node in program.nodes[1:]:
            call = operation(node.op)
            before, named = positional(call, {name: mapped(arg, value) for name, arg in node.args.items()})
            values.append(graph.call_function(call, tuple(before), named))
            places[values[-1].name] = node.place
        graph.output(values[-1])
        super().__init__(root, graph, "Program")
        self.input_shape, self.norm, self._source = program.input_shape, source.norm if source else None, source
        self._digest, self._places = self._digested() if source else b"", places
        self._compiled = type(self).forward
        self.eval()

    @property
    def file(self) -> str:
        """What a stack trace calls the file of its code, which torch.fx has written."""
        return str(getattr(getattr(type(self).forward, "__code__", None), "co_filename", ""))

    def place(self, frame: str, name: str = "") -> Place:
        """Where the node comes from that a line of its code computes.

        Args:
            frame: of a stack trace, from behind the file on: number, function and text.
            name: of this module in a larger one.
        """
        text = frame.partition("\n")[2].strip()
        found = self._places.get(text.partition(" = ")[0], Place())
        return Place(tuple(f"{name}.{module}".strip(".") for module in found.modules) or (name,), found.line)

    @property
    def program(self) -> Program | None:
        """The program that it runs, if it was made of one and runs it still: unchanged, wherever it was moved."""
        return self._source if not self._wrapped and self._digested() == self._digest else None

    @property
    def _wrapped(self) -> bool:
        """Whether calling it does more than its operations."""
        kind = type(self)  # torch.fx makes a class of its own for each, with its forward
        return hooked(self) or kind.__bases__ != (Runner,) or kind.forward is not self._compiled

    def _digested(self) -> bytes:
        """Of all that decides what it computes, and of the program that this is taken for."""
        digest = hashlib.sha256(self.code.encode() + (self._source.identity.encode() if self._source else b""))
        for name, tensor in self.named_buffers():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.digest()

    def __deepcopy__(self, memo: dict[int, Any]) -> Runner:
        if self._wrapped:
            same = object.__new__(type(self))
            memo[id(self)] = same
            vars(same).update(copy.deepcopy(vars(self), memo))
            return same
        twin: Any = super().__deepcopy__(memo)  # which keeps the operations and tensors alone
        for name in ("input_shape", "norm", "_source", "_digest", "_places"):
            setattr(twin, name, getattr(self, name))
        twin._compiled = type(twin).forward
        return twin.eval()

    def __reduce__(self) -> Any:
        """For another process, which makes it of the program again."""
        program = self.program
        return (Program.module, (program,)) if program else super().__reduce__()

    def __call__(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(f"the program is for inputs (batch, *{self.input_shape}), got {tuple(x.shape)}")
        return super().__call__(x)


def hooked(module: nn.Module) -> bool:
    """Whether calling it does more, or something else, than what its class says."""
    replaced = vars(module).keys() & {"forward", "_call_impl", "_wrapped_call_impl"}
    return bool(module._forward_hooks or module._forward_pre_hooks or replaced or hooks_for_all())


def hooks_for_all() -> bool:
    """Whether a hook is registered that runs at the call of every module there is."""
    room = torch.nn.modules.module
    return bool(room._global_forward_hooks or room._global_forward_pre_hooks)


def _times(graph: torch.fx.Graph, size: torch.fx.Node | None, times: int) -> Any:
    import operator

    return size if times == 1 else graph.call_function(operator.mul, (size, times))


def _computed(node: Node, args: Mapping[str, Argument], value: Any, device: torch.device | None) -> Tensor:
    call = operation(node.op)
    before, named = positional(call, {name: mapped(arg, value) for name, arg in args.items()})
    if any(argument.name == "device" for argument in call._schema.arguments):
        named["device"] = device  # of the weights: an identity matrix, say, would be made on the CPU
    try:
        with torch.inference_mode(False), torch.no_grad():
            return call(*before, **named)
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(f"{node}: cannot be computed from the weights: {str(error).splitlines()[0]}") from error


def _folded(arg: Argument, known: Mapping[int, Tensor]) -> Argument:
    return Weight(f"value {arg.node}") if isinstance(arg, Ref) and arg.node in known else arg


def _tuple(arg: Any) -> Any:
    return tuple(arg) if isinstance(arg, list) else arg


def _encoded(arg: Argument) -> Any:
    """As JSON."""
    match arg:
        case tuple():
            return [_encoded(one) for one in arg]
        case Ref():
            return {"node": arg.node}
        case Weight():
            return {"tensor": arg.name}
        case Batch():
            return {"batch": arg.times}
        case torch.dtype():
            return {"dtype": str(arg).removeprefix("torch.")}
        case float() if not -1e308 < arg < 1e308:
            return {"float": str(arg)}
    return arg
