"""Write the records of a run as one file, for other people's tools."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console


@dataclass
class Options:
    """The records of a run as Cohen's tab-separated log (radius rounded down), or as a table with all evidence."""

    path: tyro.conf.Positional[Path]
    """A run folder, a certify folder, or a log."""
    format: Literal["tsv", "parquet"] = "tsv"
    """tsv or parquet."""
    out: Path | None = None
    """Folder for the files; default: the run folder."""


def main(args: list[str]) -> None:
    """holdfast export PATH [options]."""
    from ..report.export import export

    options = tyro.cli(Options, args=args, prog="holdfast export")
    for path in export(options.path, options.format, options.out):
        Console().print(f"written: {path}", highlight=False, soft_wrap=True)
