"""Write the records of runs as one file each, for other people's tools."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console


@dataclass
class Options:
    """The records of a run as Cohen's tab-separated log (radius rounded down), or as a table with all evidence."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(at least one)")]
    """Run folders, certify folders, logs, or folders that hold such."""
    format: Literal["tsv", "parquet"] = "tsv"
    """tsv, with the settings in a file beside it, or parquet, which holds everything."""
    out: Path | None = None
    """Folder for the files; default: the run folder."""


def main(args: list[str]) -> None:
    """holdfast export PATH... [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast export")
    from ..report.command import export

    written, left_out = export(options.paths, options.format, options.out)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for path in written:
        console.print(f"written: {path}")
    for sentence in left_out:
        console.print(f"left out: {sentence}", style="yellow")
