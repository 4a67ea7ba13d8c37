"""What `holdfast report`, `board` and `export` do: runs and logs side by side, on the terminal and as files.

The board has all published results, and any runs beside them, ranked by data set, threat model and radius. An export is
the records of a run as one file, for other people's tools and to be read back.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import rich.console

from ..runs.certified import read
from ..runs.find import find, name_of, read_facts
from ..runs.logs import write_log, write_parquet
from .curve import Curve, load, without_collection
from .figure import USUAL, Frame, curve_figure
from .labels import labeled
from .page import write_page
from .page.data import Thumbnails, page_data
from .published import Published, published
from .summary import COLUMNS, Format, Report, measurements, summarise, write_paper
from .table import markdown, markdown_text, printable, rich_table


@without_collection()
def report(
    paths: Path | str | Iterable[Path | str],
    out: Path | str | None = None,
    radii: Sequence[float] = (),
    *,
    labels: Sequence[str] = (),
    format: Format | None = None,
    frame: Frame = USUAL,
    thumbnails: Thumbnails | None = None,
) -> Report:
    """Print runs and logs side by side, write report.md, report.csv, report.html, curve.png and curve.pdf; as values.

    With a format, print and write one table in it instead (`paper.write_paper`), curve.png and curve.pdf.

    Args:
        paths: run folders (all their certify folders), certify folders, exported tables, logs in Cohen's tab-separated
            format, or folders that hold such. What cannot be reported is left out, and the notes say so.
        out: folder for the files; by default the run or certify folder itself if one is named alone, else ./report.
        radii: where to report certified accuracy, in pixel units; by default where the literature does.
        labels: what to call the runs, in their order; by default by what differs between them.
        format: of the one table.
        frame: size and title of the figure.
        thumbnails: pictures of examples for the page; none without.

    Raises:
        ValueError: nothing of this can be reported; nothing is written then.
    """
    named = [_path(one) for one in (paths if isinstance(paths, Iterable) and not isinstance(paths, str) else [paths])]
    result = summarise(named, radii, labels)
    alone = named[0] if len(named) == 1 and (named[0] / "run.json").is_file() else None
    folder = Path(out) if out else alone or Path("report")
    folder.mkdir(parents=True, exist_ok=True)
    curve_figure(result.curves, [folder / "curve.png", folder / "curve.pdf"], frame)
    if format:
        _show_paper(result, format, folder)
    else:
        _write(result, folder, thumbnails)
    return result


def _path(one: object) -> Path:
    if not isinstance(one, Path | str):
        raise ValueError(f"expected paths of runs and logs, got {one!r:.80}")
    return Path(one)


def _show_paper(result: Report, format: Format, folder: Path) -> None:
    """The table alone on the standard output, as far as it is text; what was written and left out beside it."""
    path = write_paper(result, format, folder)
    if format != "parquet":
        print(path.read_text(encoding="utf-8"), end="")
    console = rich.console.Console(stderr=True)
    for note in (note for note in result.notes if note.startswith("Left out: ")):
        console.print(printable(note), markup=False, highlight=False)
    told = f"written to {printable(str(folder))}: {path.name}, curve.png, curve.pdf"
    console.print(told, markup=False, highlight=False, soft_wrap=True)


def _write(result: Report, folder: Path, thumbnails: Thumbnails | None) -> None:
    (folder / "report.md").write_text(_markdown(result), encoding="utf-8")
    _write_csv(result, folder / "report.csv")
    data = page_data(result.curves, published(), thumbnails=thumbnails)
    write_page(folder / "report.html", "Certified robustness", data, result.tables, result.notes)
    console = rich.console.Console()
    _show(result, console)
    files = "report.md, report.csv, report.html, curve.png, curve.pdf"
    console.print(f"\nwritten to {printable(str(folder))}: {files}", markup=False, highlight=False)


def _show(result: Report, console: rich.console.Console) -> None:
    for table in result.tables:
        console.print(printable(table.title), style="bold", markup=False, highlight=False)
        for part in table.split(console.width):
            console.print(rich_table(part))
        for source in table.sources:
            console.print(printable(source), style="dim", markup=False, highlight=False)
    console.print("\nNotes", style="bold")
    for note in result.notes:
        console.print(f"- {printable(note)}", markup=False, highlight=False)


def _markdown(result: Report) -> str:
    notes = "\n".join(f"- {markdown_text(note)}" for note in result.notes)
    tables = "\n".join(markdown(table) for table in result.tables)
    return f"# Certified robustness\n\n![Certified accuracy by radius](curve.png)\n\n{tables}\n## Notes\n\n{notes}\n"


def _write_csv(result: Report, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(measurements(result))


def board(
    paths: Sequence[Path] = (), out: Path = Path("board.html"), thumbnails: Thumbnails | None = None
) -> list[str]:
    """Write the page.

    Args:
        paths: run folders, certify folders, exported tables, logs, or folders that hold such; none are needed.
        out: the file.
        thumbnails: pictures of examples; none without.

    Returns:
        a sentence for everything that was left out.
    """
    loaded = load(paths)
    done = [curve for curve in loaded.curves if not curve.unfinished]
    left_out = [*loaded.left_out, *(f"{curve.label} is not finished" for curve in loaded.curves if curve.unfinished)]
    rows = published()
    data = page_data(labeled(done), rows, board=True, thumbnails=thumbnails)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(out, "Certified robustness: the published record", data, [], [*_notes(rows, done), *_missing(left_out)])
    return left_out


def _notes(rows: Sequence[Published], curves: Sequence[Curve]) -> list[str]:
    claimed = sum(bool(row.claimed) for row in rows)
    return [
        f"{len(rows)} published results, each with its source, and {len(curves)} runs.",
        f"{claimed} of the published results are claimed, not proven: their Lipschitz constants come from power "
        "iteration, which approaches the true constant from below.",
        "A rank counts those that say something at the chosen radius; results of other architectures, numbers of "
        "samples and extra data stand side by side, so filter before comparing.",
        "A result of sampling holds for each image with probability 1 - alpha; a run says its alpha.",
    ]


def _missing(left_out: Sequence[str]) -> list[str]:
    return [f"Left out: {sentence}." for sentence in left_out]


ExportFormat = Literal["tsv", "parquet"]


class Exported(NamedTuple):
    """The files written, and a sentence for everything that was not."""

    written: list[Path]
    left_out: list[str]


def export(paths: Sequence[Path], format: ExportFormat = "tsv", out: Path | None = None) -> Exported:
    """Write one file per certify folder, with what is known of the run.

    Args:
        paths: run folders, certify folders, exported tables or logs, or folders that hold such.
        format: Cohen's tab-separated log with a file of settings beside it (`tsv`), or a table with all evidence and
            the settings in its metadata (`parquet`).
        out: folder for the files; by default a named certify folder itself, the run folder, or the folder of a log.

    Raises:
        ValueError: nothing of this can be exported.
    """
    sources, left_out = find(paths)
    named = {Path(path).resolve() for path in paths}
    written: dict[Path, Path] = {}
    for source in sources:
        folder = out or (source if source.is_dir() and source.resolve() in named else source.parent)
        try:
            target = folder / f"{name_of(source)}.{format}"
            if target in written:
                raise ValueError(f"{source} would overwrite the export of {written[target]}; export it apart")
            _export(source, target, format)
            written[target] = source
        except (ValueError, OSError) as error:
            left_out.append(str(error))
    if not written:
        raise ValueError("; ".join(left_out) or "nothing to export; name a run folder, a certify folder or a log")
    return Exported(list(written), left_out)


def _export(source: Path, target: Path, format: ExportFormat) -> None:
    records = read(source)
    if not records:
        raise ValueError(f"{source} holds no records yet; certify it first")
    if target.resolve() == source.resolve():
        raise ValueError(f"{source} would be overwritten; choose another folder")
    if format == "tsv" and (norm := records[0].certificate.norm) != "l2":
        raise ValueError(f"{source}: the tsv format holds l2 radii only, found {norm}; export as parquet instead")
    target.parent.mkdir(parents=True, exist_ok=True)
    {"tsv": write_log, "parquet": write_parquet}[format](records, target, read_facts(source))
