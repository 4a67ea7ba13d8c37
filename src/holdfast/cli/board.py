"""Show the published record, and runs beside it, as one page: ranked by data set, threat model and radius."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclass
class Options:
    """Every published result that holdfast knows, with its source, and any runs, on one page."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Run folders, certify folders, exported tables, logs, or folders that hold such."""
    out: Path = Path("board.html")
    """The file to write."""
    data_dir: Path | None = None
    """Where pictures of named data sets are looked up; default $HOLDFAST_DATA, then ./data."""


def main(args: list[str]) -> None:
    """holdfast board [PATH...] [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast board")
    from ..report.command import board
    from ._pictures import pictures

    console = Console(soft_wrap=True, highlight=False)
    for sentence in board(options.paths, options.out, pictures(options.data_dir)):
        console.print(f"left out: {sentence}", markup=False)
    console.print(f"written: {options.out}", markup=False)
