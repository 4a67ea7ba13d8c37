"""A program in a folder: `graph.json` and `model.safetensors`, whose contents are its identity, and `places.json`.

Reading trusts nothing: operations from a list, arguments of a few kinds, shapes computed anew. No code is executed, and
none of the code that made the program is needed. `places.json` names modules and lines of source; it may be missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .graph import LARGEST, Argument, Batch, Graph, Place, Ref, Weight
from .program import Program

GRAPH, TENSORS, PLACES = "graph.json", "model.safetensors", "places.json"

LONGEST = 2**26
"""Bytes of a graph.json."""

DTYPES = {
    name: getattr(torch, name)
    for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "bool")
}


def save(program: Program, folder: Path) -> None:
    """Write a program into a folder; the file that makes it one, graph.json, appears last and at once."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in program.tensors.items()}, folder / TENSORS)
    places = [{"modules": list(node.place.modules), "line": node.place.line} for node in program.nodes[1:]]
    (folder / PLACES).write_text(json.dumps(places, indent=0))
    unfinished = folder / f"{GRAPH}.part"
    unfinished.write_bytes(program.graph_json)
    unfinished.replace(folder / GRAPH)


def load(folder: Path) -> Program:
    """Read a program, from any hand.

    Raises:
        ValueError: a file is missing or malformed, or is no program that is allowed; the message says why.
    """
    try:
        if (folder / GRAPH).stat().st_size > LONGEST:
            raise ValueError(f"graph.json is longer than {LONGEST} bytes")
        stored = json.loads((folder / GRAPH).read_bytes())
        tensors = load_file(folder / TENSORS)
        return _program(stored, tensors, _places(folder / PLACES))
    except (OSError, UnicodeDecodeError, RecursionError, SafetensorError, ValueError) as error:
        raise ValueError(f"{folder} holds no program that can be read: {error}") from error


def _program(stored: Any, tensors: dict[str, torch.Tensor], places: list[Place]) -> Program:
    if not isinstance(stored, dict) or stored.keys() != {"format", "input", "dtype", "nodes"} or stored["format"] != 1:
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
    if len(program.nodes) != len(graph.nodes) or program.tensors.keys() != tensors.keys():
        raise ValueError("it holds operations or tensors without use")
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
