"""Show runs and published logs side by side, show the published record, and write records for other tools."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console


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

    if not options.paths:
        raise ValueError("expected at least one run folder or log, as in: holdfast report runs/NAME")
    frame = Frame(options.width, options.height, options.title)
    told = {"labels": options.labels, "format": options.format, "frame": frame}
    report(options.paths, options.out, options.radii, **told, thumbnails=pictures(options.data_dir))


@dataclass
class BoardOptions:
    """Every published result that holdfast knows, with its source, and any runs, on one page."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Run folders, certify folders, exported tables, logs, or folders that hold such."""
    out: Path = Path("board.html")
    """The file to write."""
    data_dir: Path | None = None
    """Where pictures of named data sets are looked up; default $HOLDFAST_DATA, then ./data."""


def board(args: list[str]) -> None:
    """holdfast board [PATH...] [options]."""
    options = tyro.cli(BoardOptions, args=args, prog="holdfast board")
    from ..report import command

    console = Console(soft_wrap=True, highlight=False)
    for sentence in command.board(options.paths, options.out, pictures(options.data_dir)):
        console.print(f"left out: {sentence}", markup=False)
    console.print(f"written: {options.out}", markup=False)


@dataclass
class ExportOptions:
    """The records of a run as Cohen's tab-separated log (radius rounded down), or as a table with all evidence."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(at least one)")]
    """Run folders, certify folders, logs, or folders that hold such."""
    format: Literal["tsv", "parquet"] = "tsv"
    """tsv, with the settings in a file beside it, or parquet, which holds everything."""
    out: Path | None = None
    """Folder for the files; default: the run folder."""


def export(args: list[str]) -> None:
    """holdfast export PATH... [options]."""
    options = tyro.cli(ExportOptions, args=args, prog="holdfast export")
    from ..report import command

    written, left_out = command.export(options.paths, options.format, options.out)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for path in written:
        console.print(f"written: {path}")
    for sentence in left_out:
        console.print(f"left out: {sentence}", style="yellow")


def pictures(data_dir: Path | None) -> Callable[[str, str, Sequence[int]], Mapping[int, bytes]]:
    """What a page asks for pictures; the machinery of data sets is imported when some can be had."""
    where = data_dir or Path(os.environ.get("HOLDFAST_DATA", "data"))

    def read(dataset: str, split: str, indices: Sequence[int]) -> Mapping[int, bytes]:
        inside = dataset in ("digits", "mnist-5k") or dataset.startswith("folder:")
        if not inside and not (where / dataset.partition("@")[0]).is_dir():
            return {}  # nothing is downloaded for a report
        from ..data.pictures import thumbnails

        return thumbnails(dataset, split, indices, where)

    return read
