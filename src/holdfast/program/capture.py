"""From a network to its program: `torch.export`, made functional, with its own copies of all tensors.

The export of a network in eval mode holds all that its call computes: hooks, overridden forwards, functional calls,
layers that are used twice. It is traced for one batch of `BATCH` examples, so that no code needs to serve a symbolic
batch; a size that `BATCH` divides becomes "the number of examples", and the program is then compared with the network
on a batch of another size. Operations with several results, or that write into a part of a value, become operations of
programs, which have one (`REWRITTEN`).
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from .comparison import compare
from .graph import BATCH, Argument, Batch, Graph, Place, Ref, Weight
from .program import Program, Runner, hooked, hooks_for_all

RENAMED = {"aten.max.other": "aten.maximum.default", "aten.min.other": "aten.minimum.default"}

SAME = {"clone", "alias", "detach", "lift_fresh_copy", "contiguous", "lift"}
"""Operations that change no number: a program has no memory that could be shared."""

DROPPED = {"device", "pin_memory", "layout", "memory_format", "non_blocking", "cudnn_enabled", "momentum", "copy"}
"""Arguments that say how, not what, to compute."""


@torch.inference_mode(False)
def capture(model: nn.Module, shape: tuple[int, ...]) -> Program:
    """The program of a network in eval mode, for inputs of that shape (without the batch).

    Raises:
        ValueError: the network is in training mode, changes its input or itself, draws random numbers, lets examples of
            a batch influence each other, or holds an operation that is not allowed, which the message names with the
            line that it comes from.
    """
    if hooks_for_all():
        raise ValueError("a hook for all modules is registered, which would change what a program computes; remove it")
    if training := [name for name, part in model.named_modules() if part.training]:
        raise ValueError(
            f"a network in training mode is no fixed function ({training[0] or 'all of it'}); call .eval()"
        )
    like = next((t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()), torch.zeros(()))
    seen = _OnCopy(model) if hooked(model) else model  # torch.export leaves out hooks on the outermost module
    program = _translated(model, seen, torch.empty(BATCH, *shape, dtype=like.dtype, device=like.device))
    compare(program, model, like.device)
    return program


def _translated(model: nn.Module, seen: nn.Module, x: Tensor) -> Program:
    """From the first trace where it writes into nothing and holds operations of programs alone, else from a second.

    The second, without writing and composite operations, takes torch twice the time of the first.
    """
    with _reasons():
        exported = torch.export.export(seen, (x,), strict=False)
    if not any(_writes(node) for node in exported.graph.nodes):
        with suppress(ValueError):
            return _Translation(exported, x, model).program()
    with _reasons():
        exported = exported.run_decompositions({})
    signature = exported.graph_signature
    if changed := [*signature.user_inputs_to_mutate.values(), *signature.buffers_to_mutate.values()]:
        error = ValueError if signature.buffers_to_mutate else ChangesInput
        raise error(f"the classifier changes {changed[0]!r} when it is called; a program changes nothing")
    return _Translation(exported, x, model).program()


def _writes(node: Any) -> bool:
    """Whether an operation may change one of its arguments; what torch has no schema of, such as a loop, may."""
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    return getattr(getattr(node.target, "_schema", None), "is_mutable", True)


class ChangesInput(ValueError):
    """The network writes into its input."""


def capture_on_copy(model: nn.Module, shape: tuple[int, ...]) -> Program:
    """`capture`, of what the network does to a copy of its input where it writes into that."""
    try:
        return capture(model, shape)
    except ChangesInput:
        return capture(_OnCopy(model), shape)


class _OnCopy(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.clone())


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, and without the tracebacks that torch.export logs of what it also raises."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _reasons() -> Iterator[None]:
    """torch.export without its warnings, and with one line of a reason where it fails."""
    try:
        with quiet(), torch.inference_mode(False), torch.no_grad():
            yield
    except Exception as error:  # torch.export raises whatever the user's code or its own passes raise
        reason = str(error).strip().splitlines() or [repr(error)]
        raise ValueError(f"the classifier cannot be captured as a program: {reason[0]}") from error


class _Translation:
    """One exported program on its way to normal form."""

    def __init__(self, exported: Any, x: Tensor, model: nn.Module) -> None:
        self.exported = exported
        self.runners = {part.file: (name, part) for name, part in model.named_modules() if isinstance(part, Runner)}
        self.graph = Graph(tuple(x.shape[1:]), x.dtype)
        self.known: dict[Any, Any] = {}
        """What stands for each exported node: a Ref, a Weight, or a function from an index to one of them."""
        self.names: dict[str, Weight] = {}

    def program(self) -> Program:
        outputs: tuple[Any, ...] = ()
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                self.known[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.known[node] = self._call(node)
            elif node.op == "output":
                outputs = node.args[0]
        spec = self.exported.call_spec.out_spec
        if len(outputs) != 1 or not hasattr(outputs[0], "meta") or spec.num_nodes != 1:
            raise ValueError("expected a classifier that returns one tensor of logits; wrap it, e.g. to return .logits")
        output = self.known[outputs[0]]
        if not isinstance(output, Ref) or not self.graph[output].rows:
            raise ValueError("what the classifier returns does not depend on its input")
        return Program.of(self.graph, output)

    def _placeholder(self, node: Any) -> Any:
        signature = self.exported.graph_signature
        if node.name in signature.user_inputs:
            return Ref(0)
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        return lambda: self._weight(names[node.name])

    def _weight(self, name: str) -> Weight:
        """Stored on first use, under its name in the network, which is no part of a program."""
        if name not in self.names:
            tensor = self.exported.state_dict.get(name)
            tensor = self.exported.constants[name] if tensor is None else tensor
            self.names[name] = Weight(name)
            self.graph.tensors[self.names[name].name] = (
                tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            )
        return self.names[name]

    def _call(self, node: Any) -> Any:
        if node.target is operator.getitem:
            return self.known[node.args[0]](node.args[1])
        packet = (
            node.target._schema.name.removeprefix("aten::") if hasattr(node.target, "_schema") else str(node.target)
        )
        if packet == "_assert_tensor_metadata":
            return None
        place = _place(node, self.runners)
        if not hasattr(node.target, "_schema"):
            raise ValueError(f"{node.target} ({place.line}): this operation is not allowed in a program")
        args = _bound(node.target, node.args, node.kwargs)
        chance = {"dropout": "train", "scaled_dot_product_attention": "dropout_p"}.get(packet)
        if torch.Tag.nondeterministic_seeded in node.target.tags and (chance is None or args.get(chance)):
            raise ValueError(f"{node.target} ({place.line}): the classifier draws random numbers")
        args = {name: self._argument(arg) for name, arg in args.items()}
        if packet in SAME or packet == "dropout" or _changes_nothing(packet, node):
            return args["src" if packet == "copy" else next(iter(args))]
        if rewrite := REWRITTEN.get(str(node.target).removeprefix("aten.").removesuffix(".default")):
            return lambda index: rewrite(self.graph, args, node.meta["val"], place, index)
        if packet in ("slice_scatter", "select_scatter"):
            return scattered(self.graph, args, packet, place)
        return self.graph.add(*self._normal(packet, str(node.target), args, node), place)

    def _normal(self, packet: str, op: str, args: dict[str, Any], node: Any) -> tuple[str, dict[str, Argument]]:
        """The operation with sizes written out: the number of examples as such."""
        if packet == "mT":
            return "aten.transpose.int", {**args, "dim0": -2, "dim1": -1}
        if packet in ("view", "_unsafe_view", "view_as", "flatten", "reshape", "expand"):
            source = args["self"]
            rows = isinstance(source, Ref) and self.graph[source].rows
            sides = tuple(int(side) for side in node.meta["val"].shape)
            if sides and sides[0] % BATCH == 0 and (rows or packet == "expand"):
                sides = (Batch(sides[0] // BATCH), *sides[1:])
            return (
                ("aten.expand.default", {"self": source, "size": sides})
                if packet == "expand"
                else ("aten.reshape.default", {"self": source, "shape": sides})
            )
        return RENAMED.get(op, op), args

    def _argument(self, arg: Any) -> Argument:
        if isinstance(arg, list | tuple):
            return tuple(self._argument(one) for one in arg)
        if isinstance(arg, torch.fx.Node):
            known = self.known[arg]
            return known() if callable(known) and arg.op == "placeholder" else known
        return arg


def _bound(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, without those at their default."""
    arguments = target._schema.arguments
    given = dict(zip((a.name for a in arguments), args, strict=False)) | dict(kwargs)
    return {
        a.name: given[a.name]
        for a in arguments
        if a.name in given
        and a.name not in DROPPED
        and not (
            a.has_default_value() and type(given[a.name]) is type(a.default_value) and given[a.name] == a.default_value
        )
    }


def _changes_nothing(packet: str, node: Any) -> bool:
    """A cast to the type that it has, a slice of everything, what is flat already, a copy over such."""
    source = node.args[1 if packet == "copy" else 0] if node.args else None
    if packet not in ("_to_copy", "to", "slice", "expand", "copy", "flatten") or not isinstance(source, torch.fx.Node):
        return False
    before, after = source.meta["val"], node.meta["val"]
    return before.shape == after.shape and before.dtype == after.dtype and (packet != "slice" or _step(node) == 1)


def _step(node: Any) -> int:
    return _bound(node.target, node.args, node.kwargs).get("step", 1)


def _place(node: Any, runners: Mapping[str, tuple[str, Runner]]) -> Place:
    trace = node.meta.get("stack_trace") or ""
    for file, (name, runner) in runners.items():
        if f'"{file}"' in trace:  # the code of a program is none of the user's
            return runner.place(trace.rpartition(f'"{file}"')[2], name)
    stack = node.meta.get("nn_module_stack") or {}
    paths = []
    for key, (path, _) in stack.items():
        call = key.rpartition("@")[2] if "@" in key else ""
        paths.append(f"{path}@{call}" if call else path)
    return Place(tuple(paths), _line(trace))


def _line(trace: str) -> str:
    """The last line of a stack trace that is not inside of torch: `model.py:12: return x * 2`."""
    lines = [line.strip() for line in trace.strip().splitlines()]
    frames = [
        (where, lines[i + 1] if i + 1 < len(lines) else "") for i, where in enumerate(lines) if where[:4] == "File"
    ]
    own = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    if not own:
        return ""
    where, text = own[-1]
    parts = where.split('"')
    return f"{parts[1]}:{parts[2].split('line ')[-1].split(',')[0]}: {text}"


Rewrite = Callable[[Graph, dict[str, Any], Any, Place, int], Ref]


def _piece(graph: Graph, args: dict[str, Any], values: Any, place: Place, index: int) -> Ref:
    """One of the parts into which a tensor is split, as a slice."""
    dim = args.get("dim", 0)
    start = sum(int(part.shape[dim]) for part in values[:index])
    bounds = {"dim": dim, "start": start, "end": start + int(values[index].shape[dim])}
    return graph.add("aten.slice.Tensor", {"self": args["self"], **bounds}, place)


def _selected(graph: Graph, args: dict[str, Any], values: Any, place: Place, index: int) -> Ref:
    return graph.add("aten.select.int", {"self": args["self"], "dim": args.get("dim", 0), "index": index}, place)


def scattered(graph: Graph, args: dict[str, Any], packet: str, place: Place) -> Ref:
    """What was written into a slice of a value, as what is before it, the new part, and what is behind."""
    whole, part = graph[args["self"]], args["src"]
    dim = args.get("dim", 0) % len(whole.shape)
    size = BATCH * whole.shape[0] if dim == 0 else whole.shape[dim]
    start = args["index"] if packet == "select_scatter" else (args.get("start") or 0)
    end = start + 1 if packet == "select_scatter" else args.get("end", size)
    start, end = (min(at + size if at < 0 else at, size) for at in (start, size if end is None else end))
    if packet == "select_scatter":
        end = start + 1
        part = graph.add("aten.unsqueeze.default", {"self": part, "dim": dim}, place)
    if args.get("step", 1) != 1:
        raise ValueError(f"writing into a slice with a step ({place.line}) is not allowed in a program")
    sides = [(0, start), (end, size)]
    before, behind = (
        [graph.add("aten.slice.Tensor", {"self": args["self"], "dim": dim, "start": a, "end": b}, place)]
        if a < b
        else []
        for a, b in sides
    )
    pieces = (*before, part, *behind)
    return part if len(pieces) == 1 else graph.add("aten.cat.default", {"tensors": pieces, "dim": dim}, place)


def _first(op: str, names: tuple[str, ...] | None = None, **more: Any) -> Rewrite:
    """An operation of which only the first result is used, as one that has no other."""

    def rewrite(graph: Graph, args: dict[str, Any], values: Any, place: Place, index: int) -> Ref:
        if index:
            raise ValueError(f"{op} ({place.line}): only its first result is allowed in a program")
        kept = {name: args[name] for name in names or args if args.get(name) is not None}
        return graph.add(op, {**kept, **more}, place)

    return rewrite


def _extreme(op: str) -> Rewrite:
    def rewrite(graph: Graph, args: dict[str, Any], values: Any, place: Place, index: int) -> Ref:
        return _first(op)(graph, {**args, "dim": (args["dim"],)}, values, place, index)

    return rewrite


def _adaptive_max(graph: Graph, args: dict[str, Any], values: Any, place: Place, index: int) -> Ref:
    sizes = list(zip(graph[args["self"]].shape[-2:], args["output_size"], strict=True))
    if index or any(size % wanted for size, wanted in sizes):
        raise ValueError(f"adaptive max pooling ({place.line}): allowed where the windows are of one size")
    window = tuple(size // wanted for size, wanted in sizes)
    return graph.add("aten.max_pool2d.default", {"self": args["self"], "kernel_size": window, "stride": window}, place)


REWRITTEN: dict[str, Rewrite] = {
    "split.Tensor": _piece,
    "split_with_sizes": _piece,
    "chunk": _piece,
    "unbind.int": _selected,
    "max.dim": _extreme("aten.amax.default"),
    "min.dim": _extreme("aten.amin.default"),
    "adaptive_max_pool2d": _adaptive_max,
    "_native_batch_norm_legit_no_training": _first(
        "aten.batch_norm.default",
        ("input", "weight", "bias", "running_mean", "running_var", "eps"),
        training=False,
        momentum=0.0,
        cudnn_enabled=True,
    ),
    "native_layer_norm": _first("aten.layer_norm.default"),
    "max_pool2d_with_indices": _first("aten.max_pool2d.default"),
}
"""Operations with several results."""
