"""Show runs and published logs side by side: table, report.md, CSV, figure, page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Options:
    """Certified accuracy by radius, average certified radius, abstentions, with confidence intervals."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(at least one)")]
    """Run folders, certify folders, exported tables, logs in Cohen's tab-separated format (.tsv, .tsv.gz), or folders
    that hold such."""
    out: Path | None = None
    """Folder for the files; default: the run or certify folder itself if one is named alone, else ./report."""
    radii: Annotated[tuple[float, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Radii of the table, in pixel units; default: those of the literature."""


def main(args: list[str]) -> None:
    """holdfast report PATH... [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast report")
    from ..report.command import report  # seconds, which a help need not wait for

    if not options.paths:
        raise ValueError("expected at least one run folder or log, as in: holdfast report runs/NAME")
    report(options.paths, options.out, options.radii)
