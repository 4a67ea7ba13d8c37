"""Where a program can be cut in two: at a value that everything behind it depends on, and nothing else before it."""

from __future__ import annotations

import difflib

from .graph import Node
from .program import Program


def cuts(program: Program) -> dict[str, int]:
    """Names of the cuts of a program: modules by their path, `path@1` for a second call; and the node that each makes.

    A module is a cut if its result is a value through which everything passes. `body.relu` stands behind that layer.
    """
    through = _bottlenecks(program)
    found: dict[str, int] = {}
    for index, node in enumerate(program.nodes):
        found |= {name: index for name in node.place.modules if name}
    return {name: index for name, index in found.items() if index in through}


def cut(program: Program, at: str) -> tuple[Program, Program]:
    """(left, right), where right after left computes what the program computes, by the same operations.

    Raises:
        ValueError: there is no cut of that name; the nearest names are given.
    """
    found = cuts(program)
    if at not in found:
        near = difflib.get_close_matches(at, found, 3) or list(found)[:10]
        raise ValueError(f"cannot cut at {at!r}; there are {len(found)} cuts, such as {', '.join(near) or 'none'}")
    return halves(program, found[at])


def halves(program: Program, index: int) -> tuple[Program, Program]:
    """(left, right) at a node; the input, node 0, leaves everything to the right half.

    Raises:
        ValueError: not everything passes through it.
    """
    if index and index not in _bottlenecks(program):
        raise ValueError(f"a program cannot be cut at node {index}: not everything passes through it")
    middle = program.nodes[index]
    start = Node("input", {}, middle.shape, middle.dtype, rows=True)
    constants = {i: node for i, node in enumerate(program.nodes) if 0 < i < index and not node.rows}
    behind = {i: node for i, node in enumerate(program.nodes) if i > index}
    needed = _needed(constants | behind, len(program.nodes) - 1)
    right = {index: start, **{i: node for i, node in (constants | behind).items() if i in needed}}
    return before(program, index), Program._numbered(right, program.tensors, program.origins)


def prefixes(program: Program, within: str) -> dict[str, Program]:
    """The program up to the result of each part of a module, by its name there, where everything passes through it.

    Args:
        within: path of the module, with a dot behind it.
    """
    found = {name: index for name, index in cuts(program).items() if _part(name, within)}
    last = len(program.nodes) - 1
    found |= {name: last for name in program.nodes[last].place.modules if _part(name, within)}
    return {name.removeprefix(within): before(program, index) for name, index in found.items()}


def _part(name: str, within: str) -> bool:
    return name.startswith(within) and "." not in name.removeprefix(within)


def before(program: Program, index: int) -> Program:
    """The program up to the value of a node."""
    needed = _needed(dict(enumerate(program.nodes)), index) | {0}
    kept = {i: node for i, node in enumerate(program.nodes) if i in needed}
    return Program._numbered(kept, program.tensors, program.origins)


def _needed(nodes: dict[int, Node], last: int) -> set[int]:
    needed = {last}
    for index in sorted(nodes, reverse=True):
        if index in needed:
            needed |= set(nodes[index].refs)
    return needed


def _bottlenecks(program: Program) -> set[int]:
    """Nodes, with one row an example, that no later node looks past."""
    oldest = len(program.nodes)
    found = set()
    for index in range(len(program.nodes) - 1, 0, -1):
        node = program.nodes[index]
        if not node.rows:
            continue
        if oldest >= index and index < len(program.nodes) - 1 and node.shape[0] == 1:
            found.add(index)
        oldest = min([oldest, *(ref for ref in node.refs if program.nodes[ref].rows)])
    return found
