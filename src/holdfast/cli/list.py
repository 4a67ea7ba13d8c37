"""Show the recipes, certifiers, architectures and data sets there are, and where an architecture can be cut."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..core.recipe import DataInfo
from ..core.registry import unknown

if TYPE_CHECKING:
    from ..program import Program

USAGE = """usage: holdfast list [recipes | certifiers | architectures | datasets] [WORD ...]
       holdfast list cuts ARCHITECTURE

Shows what every WORD is part of, as in: holdfast list recipes smoothmix cifar10
"""

KINDS = ("recipes", "certifiers", "architectures", "datasets")


def main(args: list[str]) -> None:
    """holdfast list [recipes | certifiers | architectures | datasets] [WORD ...]."""
    from ..discovery import Rows, listing

    console = Console(highlight=False)
    if {"-h", "--help"} & set(args):
        console.print(USAGE, markup=False, soft_wrap=True)
        return
    if args[:1] == ["cuts"]:
        _show_cuts(console, args[1:])
        return
    words = [word.lower() for word in args if word not in KINDS]
    there = listing()
    kinds = [kind for kind in KINDS if kind in args] or KINDS
    found: dict[str, Rows] = {kind: _matching(there[kind], words) for kind in kinds}
    if not any(found.values()):
        if len(args) == 1:
            raise unknown("list", args[0], KINDS)
        raise ValueError(f"none of the {' and '.join(found)} matches all of: {' '.join(words)}")
    for kind, names in found.items():
        if names:
            console.print(f"[bold]{kind}[/bold]")
            _show_recipes(console, names, bool(words)) if kind == "recipes" else _show(console, names)
            console.print()


def _matching(names: Mapping[str, list[str]], words: Iterable[str]) -> dict[str, list[str]]:
    """Those whose name or text, in the values, holds all words."""
    return {name: row for name, row in names.items() if all(w in " ".join([name, *row]).lower() for w in words)}


def _show(console: Console, names: Mapping[str, list[str]]) -> None:
    for name, row in names.items():
        console.print(f" {name:24} {' '.join(row)}".rstrip(), markup=False, soft_wrap=True)


def _show_recipes(console: Console, rows: Mapping[str, list[str]], selected: bool) -> None:
    """A table of those that were asked for; of all, their names by method and data set."""
    if not console.is_terminal:  # into a pipe or a file goes every name whole
        console.width = 200
    if selected:
        table = Table("recipe", "method", "data set", "architecture", "epochs", box=None)
        for name, row in rows.items():
            table.add_row(name, *row)
        console.print(table)
        return
    groups: dict[tuple[str, str], list[str]] = {}
    for name, (method, dataset, *_) in rows.items():
        groups.setdefault((method, dataset), []).append(name)
    table, last = Table("method", "data set", "recipes", box=None), ""
    for (method, dataset), of_both in sorted(groups.items()):
        table.add_row("" if method == last else method, dataset, "  ".join(of_both))
        last = method
    console.print(table)
    console.print("more of some of them: holdfast list recipes WORD ...", markup=False)


SHAPES = ((3, 32, 32), (1, 28, 28), (3, 224, 224))
"""Images that architectures are tried for: what can be cut does not depend on their size."""


def _show_cuts(console: Console, archs: list[str]) -> None:
    """The values through which everything passes, by the module that makes them, and their shape."""
    from ..nn.zoo import CUTS
    from ..program import cut

    if len(archs) != 1:
        raise ValueError("expected one architecture, as in: holdfast list cuts resnet110")
    (arch,) = archs
    program = _program(arch)
    found = cut.cuts(program)
    named = {name: found[str(layers - 1)] for name, layers in CUTS.get(arch, {}).items()}
    for name, node in (named or found).items():
        console.print(f" {arch}@{name:24} {program.nodes[node].shape[1:]}", markup=False, soft_wrap=True)


def _program(arch: str) -> "Program":
    """Of an architecture with random weights, for the first images that it takes."""
    from ..nn.zoo import build
    from ..program import capture

    errors: list[ValueError] = []
    for shape in SHAPES:
        info = DataInfo("images", shape, 10, (0.5,) * shape[0], (0.25,) * shape[0])
        try:
            return capture(build(arch, info).eval(), shape)
        except ValueError as error:
            errors.append(error)
    raise errors[0]
