"""`holdfast report`: runs and logs side by side, on the terminal and as files."""

import csv
from collections.abc import Sequence
from pathlib import Path

import rich.console

from .figure import curve_figure
from .page import write_page
from .summary import Report, measurements, summarise
from .table import markdown, rich_table
from .text import markdown_text, printable

COLUMNS: tuple[str, ...] = ("run", "name", "examples", "quantity", "radius", "value", "low", "high", "p")


def report(paths: Sequence[Path], out: Path | None = None, radii: Sequence[float] = ()) -> Report:
    """Print runs and logs side by side, and write report.md, report.csv, report.html, curve.png and curve.pdf.

    Args:
        paths: run folders (all their certify folders), certify folders, exported tables, logs in Cohen's tab-separated
            format, or folders that hold such. What cannot be reported is left out, and the notes say so.
        out: folder for the files; by default the run or certify folder itself if one is named alone, else ./report.
        radii: where to report certified accuracy, in pixel units; by default where the literature does.

    Raises:
        ValueError: nothing of this can be reported; nothing is written then.
    """
    result = summarise(paths, radii)
    alone = Path(paths[0]) if len(paths) == 1 and (Path(paths[0]) / "run.json").is_file() else None
    folder = out or alone or Path("report")
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
