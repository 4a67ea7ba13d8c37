"""Operations with several results, or that write into a part of a value, as operations of programs, which have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .graph import BATCH, Graph, Place, Ref

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
