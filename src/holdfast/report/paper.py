"""A report for a paper: one table of chosen radii, in LaTeX or Markdown, and all numbers for other programs.

Methods with several training seeds are one row each, mean ± standard deviation; other runs a row each; then the
published results that stand beside them. The best value of a column is bold, with all whose 95 % interval reaches it.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.threat import THREATS
from ..runs.store import write_whole
from .curve import Curve
from .groups import Group, spread
from .published import Published, published
from .statistics import Estimate
from .summary import COLUMNS, Report, measurements
from .table import markdown_text, printable
from .tables import matching, radius_text

Format = Literal["latex", "markdown", "csv", "json", "parquet"]

ENDINGS: dict[str, str] = {"latex": "tex", "markdown": "md", "csv": "csv", "json": "json", "parquet": "parquet"}

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
} | {char: f"\\{char}" for char in "&%$#_{}"}


@dataclass(frozen=True)
class Cell:
    """A number of the table."""

    value: float
    high: float
    """The end of its interval; the value itself where none is known."""
    deviation: float | None = None
    """Over training seeds."""

    def text(self, digits: int) -> str:
        """As it is printed."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.value:.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """A method, a run or a published result."""

    label: str
    cells: tuple[Cell | None, ...]
    """ACR, then certified accuracy in percent at each radius."""


def paper(report: Report, format: Format) -> bytes:
    """The content of the file.

    Args:
        format: `latex` and `markdown` are a table; `csv`, `json` and `parquet` hold every number of the report, one
            row each.
    """
    numbers = list(measurements(report))
    match format:
        case "latex":
            return _latex(report).encode()
        case "markdown":
            return _markdown(report).encode()
        case "csv":
            return _csv(numbers).encode()
        case "json":
            return (json.dumps(numbers, indent=1) + "\n").encode()
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in numbers]), content)
    return content.getvalue()


def write_paper(report: Report, format: Format, folder: Path) -> Path:
    """Write `table.tex`, `table.md`, `table.csv`, `table.json` or `table.parquet`."""
    path = folder / f"table.{ENDINGS[format]}"
    write_whole(path, paper(report, format))
    return path


def rows(report: Report) -> list[Row]:
    """The rows of the table."""
    members = {place for group in report.groups for place in group.members}
    alone = [curve for place, curve in enumerate(report.curves) if place not in members]
    known, met = published(), {}
    for curve in report.curves:
        met |= {id(row): row for row in matching(curve, known)}
    found = [_of_group(group, report) for group in report.groups]
    found += [_of_run(curve, report.radii) for curve in alone]
    beside = [_of_published(row, report.radii) for row in met.values()]
    return [row for row in found + beside if any(row.cells)]


def _of_run(curve: Curve, radii: Sequence[float]) -> Row:
    acr = _cell(curve.acr, 1) if curve.has_acr else None
    return Row(curve.label, (acr, *(_cell(curve.accuracy(at), 100) if curve.decides(at) else None for at in radii)))


def _cell(found: Estimate, factor: float) -> Cell:
    return Cell(factor * found.value, factor * found.high)


def _of_group(group: Group, report: Report) -> Row:
    runs = [report.curves[place] for place in group.members]
    acr = _over_seeds([run.acr.value for run in runs]) if all(run.has_acr for run in runs) else None
    shares = [
        _over_seeds([100 * run.accuracy(at).value for run in runs]) if all(run.decides(at) for run in runs) else None
        for at in report.radii
    ]
    return Row(f"{group.label} ({len(runs)} seeds)", (acr, *shares))


def _over_seeds(values: Sequence[float]) -> Cell:
    mean, deviation = spread(values)
    return Cell(mean, mean + deviation, deviation)


def _of_published(row: Published, radii: Sequence[float]) -> Row:
    shares = [next((v for at, v in row.accuracy.items() if abs(at - radius) < 1e-9), None) for radius in radii]
    cells = (None if value is None else Cell(value, value) for value in (row.acr, *shares))
    return Row(f"{row.title}{', claimed' if row.claimed else ''}", tuple(cells))


def _table(report: Report, escape: Callable[[str], str], bold: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, the best in bold; columns that nobody fills are left out."""
    found = rows(report)
    header = ["", "ACR", *(radius_text(radius) for radius in report.radii)]
    best = [max((c.value for c in column if c), default=None) for column in zip(*(r.cells for r in found), strict=True)]
    lines = [[escape(row.label)] for row in found]
    for column, top in enumerate(best):
        for line, row in zip(lines, found, strict=True):
            cell = row.cells[column]
            text = escape(cell.text(3 if column == 0 else 1)) if cell else ""
            line.append(bold.format(text) if cell and top is not None and cell.high >= top else text)
    kept = [0, *(place for place, top in enumerate(best, 1) if top is not None)]
    return [escape(header[place]) for place in kept], [[line[place] for place in kept] for line in lines]


def _latex(report: Report) -> str:
    header, lines = _table(report, latex_text, r"\textbf{{{}}}")
    told = [f"% {printable(sentence)}" for sentence in _caption(report)]
    body = [" & ".join(line) + r" \\" for line in lines]
    top = [r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}", r"\toprule", " & ".join(header) + r" \\", r"\midrule"]
    return "\n".join([*told, *top, *body, r"\bottomrule", r"\end{tabular}", ""])


def _markdown(report: Report) -> str:
    header, lines = _table(report, markdown_text, "**{}**")
    table = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join([*("| " + " | ".join(line) + " |" for line in table), "", *_caption(report), ""])


def _csv(numbers: Sequence[dict]) -> str:
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, COLUMNS)
    writer.writeheader()
    writer.writerows(numbers)
    return content.getvalue()


def _caption(report: Report) -> list[str]:
    threat = THREATS[report.curves[0].norm]
    told = [
        f"Average certified radius (ACR) and certified accuracy in % by {threat.title} radius ({threat.unit}).",
        "Bold: the best of a column, and all whose 95 % interval over examples (or one standard deviation) reaches it.",
    ]
    return told + (["± is one standard deviation over training seeds."] if report.groups else [])


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(LATEX.get(char, char) for char in printable(text))
