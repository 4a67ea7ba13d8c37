"""Train a model by a named recipe, from random weights or from those you have."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..core.recipe import Recipe, with_batches_for_copies
from ..training.launch import Machine

USAGE = """usage: holdfast train RECIPE [options]
       holdfast train package.module:recipe [options]

RECIPE is a name, or says where a recipe of your own is imported from. Every field of a recipe is an option, with the
recipe's default: holdfast train RECIPE --help shows those, too.
Recipes there are: holdfast list recipes; those of a method for a data set: holdfast list recipes smoothmix mnist
"""


@dataclass
class Common:
    """Options of every training."""

    machine: Annotated[Machine, tyro.conf.arg(name="")] = field(default_factory=Machine)
    init: Path | None = None
    """Weights to start from instead of random ones: the folder of a run, or a file (.safetensors, .pt, .pth, .ckpt)."""
    runs: Path = Path("runs")
    """Folder of all runs."""


@dataclass
class Options:
    """What to train, and on what."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)


def main(args: list[str]) -> None:
    """holdfast train RECIPE [options]; every field of the recipe is an option."""
    if not args or args[0] in ("-h", "--help"):
        Console(soft_wrap=True).print(USAGE, markup=False, highlight=False)
        with suppress(SystemExit):
            tyro.cli(Common, args=["--help"], prog="holdfast train RECIPE", config=(tyro.conf.OmitArgPrefixes,))
        return
    from ..training.loop import train

    name, *rest = args
    options = parse(name, rest, "train")
    folder = train(options.recipe, name, options.common.runs, options.common.machine, options.common.init)
    denoiser = not options.recipe.method.classifies
    then = f"--model NAME --denoiser {folder} --dataset {options.recipe.dataset}" if denoiser else folder
    Console().print(f"trained: {folder}\nnext:    holdfast certify {then}", highlight=False, soft_wrap=True)


def parse(name: str, args: list[str], command: str) -> Options:
    """The recipe of that name with the fields that are given, and the options of every training.

    Where the copies of an image change and the size of a batch is not given, it follows from them.
    """
    from ..core.registry import RECIPES
    from ._words import given

    base = RECIPES[name]
    options = tyro.cli(
        Options,
        default=Options(base),
        args=args,
        prog=f"holdfast {command} {name}",
        description=f"Train {name}; killed and started again, it continues.",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if not (given("--batch-size", args) or given("--batch_size", args)):
        options.recipe = with_batches_for_copies(options.recipe, base)
    return options
