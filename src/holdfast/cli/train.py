"""Train a model by a named recipe; or train and certify recipes over seeds and other values of their fields."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from ..core.recipe import Recipe, with_batches_for_copies
from ..training.launch import Machine

if TYPE_CHECKING:
    from ..core.certifier import Certifier
    from ..sweep import Cell

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
    from ..training.launch import first_process
    from ..training.loop import train
    from ._common import quoted

    name, *rest = args
    options = parse(name, rest, "train")
    folder = train(options.recipe, name, options.common.runs, options.common.machine, options.common.init)
    if not first_process():
        return
    denoiser, named = not options.recipe.method.classifies, quoted(folder)
    then = f"--model NAME --denoiser {named} --dataset {options.recipe.dataset}" if denoiser else named
    told = f"trained: {folder}\nnext:    holdfast certify {then}"
    Console().print(told, highlight=False, soft_wrap=True, markup=False)


def parse(name: str, args: list[str], command: str) -> Options:
    """The recipe of that name with the fields that are given, and the options of every training.

    Where the copies of an image change and the size of a batch is not given, it follows from them.
    """
    from ..core.registry import RECIPES
    from ._common import given, parsed

    base = RECIPES[name]
    told = f"Train {name}; killed and started again, it continues."
    options = parsed(Options(base), args, f"holdfast {command} {name}", told)
    if not (given("--batch-size", args) or given("--batch_size", args)):
        options.recipe = with_batches_for_copies(options.recipe, base)
    return options


SWEEP = """usage: holdfast sweep RECIPE... [--sigma S...] [--seeds K] [--FIELD VALUE...] [options]

RECIPE is the name of a recipe, or that of several without the sigma at their end: smoothmix-mnist stands for
smoothmix-mnist-0.25, -0.50 and -1.00, or for those that --sigma names. Every field of a recipe is an option that takes
several values, and every combination is a run; a value of several numbers is written with commas: --drops 0.3,0.6

    holdfast sweep smoothmix-mnist smoothmix-eta1-mnist --sigma 0.25 0.5 1.0 --seeds 5 --certify adaptive
    holdfast sweep smoothmix-mnist-1.00 --maxnorm 0 2 4 6 8 --certify "gaussian --every 20 --n 10000"
"""


@dataclass
class SweepOptions:
    """Of all runs together."""

    machine: Annotated[Machine, tyro.conf.arg(name="")] = field(default_factory=Machine)
    seeds: int = 1
    """Train every recipe with so many seeds: 0, 1, ..."""
    certify: str = ""
    """How to certify, as for `holdfast certify`: a certifier and its options in one text, such as "adaptive --every
    20"; default: what each recipe is meant for."""
    at_once: int | None = None
    """Runs at a time, each in a process of its own; default: one for each GPU, one on a CPU."""
    dry_run: bool = False
    """Tell what would be done and what it would cost, and do nothing."""
    report: bool = True
    """Show a report of all runs at the end."""
    runs: Path = Path("runs")
    """Folder of all runs."""


def sweep(args: list[str]) -> None:
    """holdfast sweep RECIPE... [options]."""
    if not args or {"-h", "--help"} & set(args):
        Console(soft_wrap=True).print(SWEEP, markup=False, highlight=False)
        with suppress(SystemExit):
            tyro.cli(
                SweepOptions, args=["--help"], prog="holdfast sweep RECIPE...", config=(tyro.conf.OmitArgPrefixes,)
            )
        return
    words, values, own = _split(args)
    options = tyro.cli(SweepOptions, args=own, prog="holdfast sweep", config=(tyro.conf.OmitArgPrefixes,))
    if options.seeds < 1 or (options.at_once or 1) < 1:
        raise ValueError(f"expected seeds and at-once of 1 or more, got {options.seeds} and {options.at_once}")
    cells = _cells(words, values, options)
    _tell(cells, options)
    if options.dry_run:
        return
    _run(cells, options)
    if options.report and (there := [str(cell.folder) for cell in cells if cell.certified()]):
        from .report import main as report

        report(there)


def _split(args: list[str]) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Recipes, values of their fields by option, and options of the sweep."""
    from ._common import options as known

    mine = known(SweepOptions())
    words: list[str] = []
    values: dict[str, list[str]] = {}
    own: list[str] = []
    here: list[str] = words
    for arg in args:
        name, equals, told = arg.partition("=")
        if not arg.startswith("--"):
            here.append(arg)
            here = words if here is own else here
        elif name.replace("_", "-") in mine:
            own.append(arg)
            here = words if equals or mine[name.replace("_", "-")] == "nothing" else own
        else:
            here = values.setdefault(name.replace("_", "-"), [])
            here.extend([told] if equals else [])
    if empty := [name for name, given in values.items() if not given]:
        raise ValueError(f"expected one value or more after {', '.join(empty)}")
    return words, values, own


def _cells(words: Sequence[str], values: dict[str, list[str]], options: SweepOptions) -> "list[Cell]":
    """Every run, in the order of the command."""
    from ..sweep import grid, named

    if not words:
        raise ValueError("expected the name of a recipe, as in: holdfast sweep smoothmix-mnist --seeds 5")
    sigmas = [_number(text) for text in values.pop("--sigma", [])]
    names = [name for word in words for name in named(word, sigmas)]
    ones = [_cell(name, given, options) for name in names for given in grid(values)]
    seeds = [] if "--seed" in values else range(options.seeds)
    cells = [replace(one, recipe=one.recipe.replace(seed=seed)) for one in ones for seed in seeds or [one.recipe.seed]]
    return list({cell.folder: cell for cell in cells}.values())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected numbers after --sigma, got {text!r}") from None


def _cell(name: str, given: list[str], options: SweepOptions) -> "Cell":
    from ..sweep import Cell

    recipe = parse(name, given, "sweep").recipe
    certifier, settings = _certification(recipe, options)
    return Cell(name, recipe, certifier, options.runs, settings)


def _certification(recipe: "Recipe", options: SweepOptions) -> "tuple[Certifier, dict[str, Any]]":
    """What `--certify` says for a recipe."""
    from ..core.registry import CERTIFIERS
    from . import certify
    from ._common import certifier_among, certifiers_for, split
    from ._common import options as known

    try:
        args = shlex.split(options.certify)
    except ValueError as error:
        raise ValueError(f"--certify {options.certify}: {error}") from error
    words, rest = split(args, known(*(certify.Options(one, "") for one in certifiers_for(["", *args]))))
    name, others = certifier_among(words)
    if others:
        raise ValueError(f"--certify takes a certifier and its options, got {' '.join(others)}")
    meant = recipe.method.certifier()
    chosen = CERTIFIERS[name].meant_for(meant) if name else meant
    found = certify.parse(recipe.dataset, chosen, rest, "holdfast sweep --certify")
    taken = ("split", "every", "start", "limit", "seed", "precision", "batch_size")
    return found.certifier, {name: getattr(found, name) for name in taken}


def _tell(cells: "Sequence[Cell]", options: SweepOptions) -> None:
    """What is missing of every run, and what that takes."""
    from ..progress import clock
    from ..sweep import cost

    table = Table("run", "seed", "missing", "training", "certifying, at most", box=None)
    total, unknown = 0.0, False
    for cell in cells:
        missing = cell.missing()
        told = ["", ""]
        if missing:
            try:
                found = cost(cell, options.machine)
                total += found.training + found.certifying
                told = [clock(found.training), clock(found.certifying)]
            except (ValueError, FileNotFoundError) as error:
                unknown, told = True, [f"unknown: {error}", ""]
        table.add_row(cell.folder.name, str(cell.recipe.seed), missing or "nothing", *told)
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:  # into a pipe or a file goes every name whole
        console.width = 200
    console.print(table)
    more = ", and what could not be told" if unknown else ""
    console.print(f"in all {clock(total)} on one device, by a measured step{more}\n")


def _run(cells: "Sequence[Cell]", options: SweepOptions) -> None:
    """Do what is missing.

    Raises:
        ValueError: nothing could be done.
    """
    from ..sweep import devices_here, run

    todo = [cell for cell in cells if cell.missing()]
    at_once = min(options.at_once or devices_here(options.machine), max(1, len(todo)))
    console, failed = Console(stderr=True, soft_wrap=True, highlight=False), 0
    for cell, error in run(todo, options.machine, at_once):
        failed += error is not None
        console.print(f"left out: {cell.folder}: {error}" if error else f"done: {cell.folder}", markup=False)
    if todo and failed == len(todo):
        raise ValueError("none of the runs could be trained and certified; the reasons stand above")
