"""`holdfast report`: runs and logs side by side, on the terminal and as files.

The page is one HTML file that needs nothing else.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import rich.console

from .curve import without_collection
from .figure import USUAL, Frame, curve_figure
from .page import write_page
from .page.data import Thumbnails, page_data
from .paper import Format, write_paper
from .published import published
from .summary import COLUMNS, Report, measurements, summarise
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
    named = [Path(path) for path in ([paths] if isinstance(paths, Path | str) else paths)]
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
