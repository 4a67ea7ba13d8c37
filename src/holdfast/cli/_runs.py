"""Commands that name several runs do what they can, and say what they left out and why."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console

Result = TypeVar("Result")


def expand(paths: Iterable[Path]) -> list[Path]:
    """Every folder once; a folder that is no run but holds some stands for the folders in it."""
    found: dict[Path, None] = {}
    for path in paths:
        inside = [] if (path / "run.json").exists() else sorted(path.glob("*/run.json"))
        folders = [child for child in sorted(path.iterdir()) if child.is_dir()] if inside else [path]
        found |= dict.fromkeys(folder for folder in folders if folder == path or not folder.name.startswith("."))
    return list(found)


def attempt(
    runs: Sequence[Path], work: Callable[[Path], Result]
) -> tuple[dict[Path, Result], dict[Path, ValueError | FileNotFoundError]]:
    """The outcome of the work for every run, and the mistakes that left some without."""
    done: dict[Path, Result] = {}
    left: dict[Path, ValueError | FileNotFoundError] = {}
    for run in runs:
        try:
            done[run] = work(run)
        except (ValueError, FileNotFoundError) as error:
            left[run] = error
    return done, left


def conclude(runs: Sequence[Path], left: dict[Path, ValueError | FileNotFoundError]) -> None:
    """Name the runs that were left out, and why.

    Raises:
        ValueError: nothing else was there.
    """
    if len(runs) == 1 and left:
        raise left[runs[0]]
    reasons = [str(why) if str(run) in str(why) else f"{run}: {why}" for run, why in left.items()]
    if len(left) == len(runs):
        raise ValueError(f"nothing was done for the {len(runs)} folders named: " + "; ".join(reasons))
    for reason in reasons:
        Console(stderr=True).print(f"left out: {reason}", highlight=False, markup=False, soft_wrap=True)
