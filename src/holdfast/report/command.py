"""`holdfast report`: runs and logs side by side, on the terminal and as files.

The page is one HTML file that needs nothing else: the figure is inside, there are no scripts.
"""

import base64
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import rich.console
from jinja2 import Environment, PackageLoader, StrictUndefined

from .figure import curve_figure
from .summary import Report, measurements, summarise
from .table import markdown, markdown_text, printable, rich_table

COLUMNS: tuple[str, ...] = ("run", "name", "examples", "quantity", "radius", "value", "low", "high", "p")


def report(
    paths: Path | str | Iterable[Path | str], out: Path | str | None = None, radii: Sequence[float] = ()
) -> Report:
    """Print runs and logs side by side, and write report.md, report.csv, report.html, curve.png and curve.pdf.

    Args:
        paths: one path or several: run folders (all their certify folders), certify folders, exported tables, logs in
            Cohen's tab-separated format, or folders that hold such. What cannot be reported is left out, and the notes
            say so.
        out: folder for the files; by default the run or certify folder itself if one is named alone, else ./report.
        radii: where to report certified accuracy, in pixel units; by default where the literature does.

    Returns:
        what was printed, as values: curves, paired comparisons, tables, notes.

    Raises:
        ValueError: nothing of this can be reported; nothing is written then.
    """
    named = [Path(path) for path in ([paths] if isinstance(paths, Path | str) else paths)]
    result = summarise(named, radii)
    alone = named[0] if len(named) == 1 and (named[0] / "run.json").is_file() else None
    folder = Path(out) if out else alone or Path("report")
    folder.mkdir(parents=True, exist_ok=True)
    curve_figure(result.curves, [folder / "curve.png", folder / "curve.pdf"])
    (folder / "report.md").write_text(_markdown(result), encoding="utf-8")
    _write_csv(result, folder / "report.csv")
    write_page(result, folder / "curve.png", folder / "report.html")
    console = rich.console.Console()
    _show(result, console)
    files = "report.md, report.csv, report.html, curve.png, curve.pdf"
    console.print(f"\nwritten to {printable(str(folder))}: {files}", markup=False, highlight=False)
    return result


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


def write_page(report: Report, picture: Path, path: Path) -> None:
    """Write the page; `picture` is the PNG to put inside."""
    pages = Environment(loader=PackageLoader(__package__ or "", "pages"), autoescape=True, undefined=StrictUndefined)
    pages.filters["printable"] = printable
    image = base64.b64encode(picture.read_bytes()).decode()
    html = pages.get_template("report.html").render(report=report, image=image)
    path.write_text(html, encoding="utf-8")
