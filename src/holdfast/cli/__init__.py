"""The command line: `holdfast COMMAND`. A command is a function in a file here; the table COMMANDS names all."""

import importlib
import os
import sys

from rich.console import Console

from ..core.registry import unknown

COMMANDS = {
    "demo": ("demo:main", "Train, certify and report on real digits in a few minutes, without a network or a GPU."),
    "train": ("train:main", "Train a model by a named recipe, from random weights or from those you have."),
    "certify": ("certify:main", "Prove a radius for every image of a data set, with a trained run or any classifier."),
    "submit": ("certify:submit", "Certify on a SLURM cluster: one job for each share of the examples."),
    "predict": ("predict:main", "Classify images from files: the class with a proven radius, or an abstention."),
    "sweep": (
        "train:sweep",
        "Train and certify recipes over seeds and other values of their fields; only what is missing is done.",
    ),
    "report": ("report:main", "Show runs and published logs side by side: table, report.md, CSV, figure, page."),
    "board": (
        "report:board",
        "Show the published record, and runs beside it, as one page: ranked by data set, threat model and radius.",
    ),
    "dossier": (
        "dossier:main",
        "Pack a certified run into one file that a stranger can check, signed if you have a key.",
    ),
    "verify": (
        "dossier:verify",
        "Check dossiers, certified runs and published logs: every radius, total, sum and signature, computed again.",
    ),
    "recertify": (
        "dossier:recertify",
        "Judge the votes of a finished run by another alpha, or bound its runner-up too; no new samples.",
    ),
    "export": ("report:export", "Write the records of runs as one file each, for other people's tools."),
    "export-model": (
        "inspect:export_model",
        "Write the model of a run for other tools: ONNX, .pt2, or a folder for the Hugging Face hub with its card.",
    ),
    "plan": ("plan:main", "Tell how many samples are worth it, before certifying."),
    "attack": (
        "predict:attack",
        "Attack a run: inside its certified balls, where nothing may be found, and at a radius of choice.",
    ),
    "inspect": (
        "inspect:main",
        "Show a classifier as the graph that is proven and run: operations, source lines, and where its constant is "
        "lost.",
    ),
    "list": (
        "list:main",
        "Show the recipes, certifiers, architectures and data sets there are, and where an architecture can be cut.",
    ),
}
"""By name, in the order of the help: `file:function` here, called with the arguments, and what the help says of it."""


def _broken_pipe(self: Console) -> None:
    """What rich does ends with status 1, which `verify` and `attack` have for a claim that does not hold."""
    raise BrokenPipeError


Console.on_broken_pipe = _broken_pipe


def main(args: list[str] | None = None) -> None:
    """Run a command; a user's mistake becomes one clear line and the exit status 2."""
    args = sys.argv[1:] if args is None else args
    try:
        _dispatch(args)
    except BrokenPipeError:  # what reads our output has seen enough, as in `holdfast list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        Console(stderr=True).print(f"holdfast: {told}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("\nholdfast: stopped; the same command continues where it was\n")
        sys.exit(130)


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        _help()
        return
    if args[0] == "--version":
        from .. import __version__

        Console().print(f"holdfast {__version__}", highlight=False)
        return
    name, *rest = args
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    from ._common import asked, in_words, show

    file, _, function = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(f"{__name__}.{file}"), function)
    with in_words():
        show(name, rest, command) if asked(rest) else command(rest)


def _help() -> None:
    console = Console(soft_wrap=True)
    console.print("usage: holdfast COMMAND ...\n")
    console.print("Train image classifiers whose predictions provably hold inside a ball, prove the radius, compare.\n")
    for name, (_, text) in COMMANDS.items():
        console.print(f"  [bold]{name:12}[/bold] {text}", highlight=False)
    console.print("\nEach command has its own --help; --version tells the version. To begin: holdfast demo")
