"""Train a model by a named recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..core.recipe import Recipe

USAGE = """usage: holdfast train RECIPE [options]

Every field of a recipe is an option, with the recipe's default: holdfast train RECIPE --help
Recipes there are: holdfast list recipes; those of a method for a data set: holdfast list recipes smoothmix mnist
"""


def main(args: list[str]) -> None:
    """holdfast train RECIPE [options]; every field of the recipe is an option."""
    from ..core.registry import RECIPES
    from ..training.launch import Machine
    from ..training.loop import train

    if not args or args[0] in ("-h", "--help"):
        Console(soft_wrap=True).print(USAGE, markup=False, highlight=False)
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
