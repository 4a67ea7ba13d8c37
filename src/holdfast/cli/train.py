"""Train a model by a named recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from ..core.recipe import Recipe

USAGE = """usage: holdfast train RECIPE [options]

Every field of a recipe is an option: holdfast train RECIPE --help
"""


def main(args: list[str]) -> None:
    """holdfast train RECIPE [options]; every field of the recipe is an option."""
    from ..core.registry import RECIPES
    from ..training.loop import Machine, train

    if not args or args[0] in ("-h", "--help"):
        Console(soft_wrap=True).print(USAGE, markup=False, highlight=False)
        show_recipes()
        return

    @dataclass
    class Options:
        recipe: Annotated[Recipe, tyro.conf.arg(name="")]
        machine: Annotated[Machine, tyro.conf.arg(name="")] = field(default_factory=Machine)
        runs: Path = Path("runs")
        """Folder of all runs."""

    name, *rest = args
    options = tyro.cli(
        Options,
        default=Options(RECIPES[name]),
        args=rest,
        prog=f"holdfast train {name}",
        description=f"Train {name}; killed and started again, it continues.",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    folder = train(options.recipe, name, options.runs, options.machine)
    Console().print(f"trained: {folder}\nnext:    holdfast certify {folder}", highlight=False, soft_wrap=True)


def show_recipes() -> None:
    """A table of all recipes."""
    from ..core.registry import RECIPES

    table = Table("recipe", "method", "data set", "architecture", "epochs", box=None)
    for name, recipe in RECIPES.items():
        table.add_row(name, type(recipe.method).__name__, recipe.dataset, recipe.arch, str(recipe.epochs))
    console = Console()
    if not console.is_terminal:  # into a pipe or a file goes every name whole
        console.width = 200
    console.print(table)
