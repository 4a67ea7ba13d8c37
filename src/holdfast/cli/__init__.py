"""The command line: `holdfast COMMAND`. A command is one file here, with a `main(args)`; its first line is its help."""

import importlib
import os
import pkgutil
import sys
from types import ModuleType

from rich.console import Console

from ..core.registry import unknown

ORDER = ("demo", "train", "certify", "predict", "sweep", "report", "board", "dossier", "verify")
ORDER += ("recertify", "export", "export-model", "plan", "attack", "inspect", "list")
"""The order in which the help shows the commands."""


def main(args: list[str] | None = None) -> None:
    """Run a command; a user's mistake becomes one clear line and the exit status 2."""
    args = sys.argv[1:] if args is None else args
    try:
        _dispatch(args)
    except BrokenPipeError:  # what reads our output has seen enough, as in `holdfast list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"holdfast: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
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
    if name not in commands():
        raise unknown("command", name, commands())
    from ._manual import asked, show
    from ._metavars import in_words

    command = commands()[name].main
    with in_words():
        show(name, rest, command) if asked(rest) else command(rest)


def commands() -> dict[str, ModuleType]:
    """Every file of this folder that has a `main`, by name, in the order of the help; a file's _ is written as -."""
    files = [info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")]
    found = {file.replace("_", "-"): importlib.import_module(f"{__name__}.{file}") for file in files}
    return dict(sorted(found.items(), key=lambda one: (ORDER.index(one[0]) if one[0] in ORDER else len(ORDER), one[0])))


def _help() -> None:
    console = Console(soft_wrap=True)
    console.print("usage: holdfast COMMAND ...\n")
    console.print("Train image classifiers whose predictions provably hold inside a ball, prove the radius, compare.\n")
    for name, module in commands().items():
        console.print(f"  [bold]{name:12}[/bold] {(module.__doc__ or '').splitlines()[0]}", highlight=False)
    console.print("\nEach command has its own --help; --version tells the version. To begin: holdfast demo")
