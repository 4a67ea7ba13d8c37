"""A program in a folder: `graph.json` and `model.safetensors`, whose contents are its identity, and `places.json`.

Reading trusts nothing: operations from a list, arguments of a few kinds, shapes computed anew. No code is executed, and
none of the code that made the program is needed. `places.json` names modules and lines of source; it may be missing.

In a run folder `model.safetensors` holds the weights of the trained network, under their names there: the graph refers
to them. What else a graph needs, numbers that stand in the network's code, is in `constants.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .cut import halves
from .graph import LARGEST, Argument, Batch, Graph, Place, Ref, Weight
from .program import Program

GRAPH, TENSORS, PLACES, CONSTANTS = "graph.json", "model.safetensors", "places.json", "constants.safetensors"

HEAD, MORE = {"format", "input", "dtype", "nodes"}, {"halves", "norm"}
"""What a graph.json holds, and may hold besides."""

LONGEST = 2**26
"""Bytes of a graph.json."""

DTYPES = {
    name: getattr(torch, name)
    for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "bool")
}


def save(program: Program, folder: Path, weights: Collection[str] | None = None) -> None:
    """Write a program into a folder; the file that makes it one, graph.json, appears last and at once.

    Args:
        weights: names of the tensors that the `model.safetensors` of that folder holds, where it is not written here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {} if weights is None else program.origins
    tensors = {names.get(name, name): tensor.contiguous() for name, tensor in program.tensors.items()}
    if weights is None:
        save_file(tensors, folder / TENSORS)
    elif constants := {name: tensor for name, tensor in tensors.items() if name not in weights}:
        save_file(constants, folder / CONSTANTS)
    places = [{"modules": list(node.place.modules), "line": node.place.line} for node in program.nodes[1:]]
    (folder / PLACES).write_text(json.dumps(places, indent=0))
    unfinished = folder / f"{GRAPH}.part"
    unfinished.write_bytes(program.spelled(names))
    unfinished.replace(folder / GRAPH)


def load(folder: Path, spare: bool = False) -> Program:
    """Read a program, from any hand.

    Args:
        spare: the files may hold tensors that it does not use, as those of a trained network do.

    Raises:
        ValueError: a file is missing or malformed, or is no program that is allowed; the message says why.
    """
    try:
        if (folder / GRAPH).stat().st_size > LONGEST:
            raise ValueError(f"graph.json is longer than {LONGEST} bytes")
        stored = json.loads((folder / GRAPH).read_bytes())
        tensors = load_file(folder / TENSORS)
        if spare and (folder / CONSTANTS).exists():
            tensors |= load_file(folder / CONSTANTS)
        program = _program(stored, tensors, _places(folder / PLACES))
        if not spare and len(program.tensors) != len(tensors):
            raise ValueError("it holds tensors without use")
        return program
    except (OSError, UnicodeDecodeError, RecursionError, SafetensorError, ValueError) as error:
        raise ValueError(f"{folder} holds no program that can be read: {error}") from error


def _program(stored: Any, tensors: dict[str, torch.Tensor], places: list[Place]) -> Program:
    if not isinstance(stored, dict) or stored.keys() - MORE != HEAD or stored["format"] != 1:
        raise ValueError("expected a graph with format 1, input, dtype and nodes")
    if any(tensor.dtype not in DTYPES.values() for tensor in tensors.values()):
        raise ValueError("a tensor has a type that is not allowed")
    shape = _list(stored["input"])
    if not all(type(side) is int and 0 < side <= LARGEST for side in shape) or not isinstance(stored["dtype"], str):
        raise ValueError("expected the shape and the type of an input")
    graph = Graph(tuple(shape), _dtype(stored["dtype"]))
    graph.tensors.update(tensors)
    for index, node in enumerate(_list(stored["nodes"])):
        if not isinstance(node, dict) or node.keys() != {"op", "args"} or not isinstance(node["args"], dict):
            raise ValueError(f"node {index + 1}: expected op and args")
        if not isinstance(node["op"], str):
            raise ValueError(f"node {index + 1}: expected the name of an operation")
        args = {name: _decoded(arg, index + 1, graph) for name, arg in node["args"].items()}
        graph.add(node["op"], args, places[index] if index < len(places) else Place())
    last = Ref(len(graph.nodes) - 1)
    if not graph[last].rows:
        raise ValueError("its output does not depend on its input")
    program = Program.of(graph, last)
    if len(program.nodes) != len(graph.nodes):
        raise ValueError("it holds operations without use")
    return _told(program, stored)


def _told(program: Program, stored: dict[str, Any]) -> Program:
    """With what is said of it besides: where noise is added, and the norm of its certificates."""
    at, norm = stored.get("halves"), stored.get("norm")
    if not (norm is None or (isinstance(norm, str) and len(norm) < 20)):
        raise ValueError("expected the name of a norm")
    if at is not None and (type(at) is not int or not 0 <= at < len(program.nodes)):
        raise ValueError("expected the node at which it is cut")
    program = replace(program, halves=at, norm=norm)
    if at is not None:
        halves(program, at)
    return program


def _decoded(arg: Any, index: int, graph: Graph, inside: bool = False) -> Argument:
    """From JSON; a reference must be to something before node `index`."""
    if isinstance(arg, list) and not inside:
        return tuple(_decoded(one, index, graph, inside=True) for one in arg)
    if isinstance(arg, dict) and len(arg) == 1:
        ((kind, value),) = arg.items()
        if kind == "node" and type(value) is int and 0 <= value < index:
            return Ref(value)
        if kind == "tensor" and isinstance(value, str) and value in graph.tensors:
            return Weight(value)
        if kind == "batch" and type(value) is int and 0 < value <= LARGEST:
            return Batch(value)
        if kind == "dtype" and isinstance(value, str):
            return _dtype(value)
        if kind == "float" and value in ("inf", "-inf"):
            return float(value)
    if arg is None or isinstance(arg, bool | str) or (isinstance(arg, int | float) and abs(arg) < 2**63):
        return arg
    raise ValueError(f"node {index}: an argument that is not allowed: {str(arg)[:40]}")


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"{name!r} is not a type that is allowed: {', '.join(DTYPES)}")
    return DTYPES[name]


def _list(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError(f"expected a list, got {str(found)[:40]}")
    return found


def _places(path: Path) -> list[Place]:
    """Names for messages and cuts; nothing that is proven rests on them, so that bad ones are only left out."""
    try:
        found = json.loads(path.read_text())
        return [Place(tuple(str(name) for name in place["modules"]), str(place["line"])) for place in found]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
