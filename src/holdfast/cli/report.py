"""Show runs and published logs side by side: table, report.md, CSV, figure, page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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
    labels: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: what differs)")] = ()
    """What to call the runs, in the order in which they are reported."""
    format: Literal["latex", "markdown", "csv", "json", "parquet"] | None = None
    """Print and write one table for a paper or another program, and no page."""
    width: float = 5.6
    """Width of the figure in inches."""
    height: float = 3.4
    """Height of the chart in inches; its legend stands below."""
    title: str = ""
    """Title of the figure."""
    data_dir: Path | None = None
    """Where pictures of named data sets are looked up; default $HOLDFAST_DATA, then ./data."""


def main(args: list[str]) -> None:
    """holdfast report PATH... [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast report")
    from ..report.command import report  # seconds, which a help need not wait for
    from ..report.figure import Frame
    from ._pictures import pictures

    if not options.paths:
        raise ValueError("expected at least one run folder or log, as in: holdfast report runs/NAME")
    frame = Frame(options.width, options.height, options.title)
    told = {"labels": options.labels, "format": options.format, "frame": frame}
    report(options.paths, options.out, options.radii, **told, thumbnails=pictures(options.data_dir))
