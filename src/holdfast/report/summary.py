"""A report as a value: everything that its terminal, Markdown, CSV and page forms show; and its forms for a paper.

For a paper: one table of chosen radii, in LaTeX or Markdown, and all numbers for other programs.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.threat import THREATS
from ..runs.store import write_whole
from . import tables
from .curve import Curve, Pair, compare_all, default_radii, load
from .facts import attacks_of
from .groups import Group, GroupPair, compare_groups, groups, spread
from .labels import LETTERS, labeled, notes
from .published import Published, published
from .statistics import Estimate
from .table import Table, csv_text, markdown_text, printable
from .tables import matching, radius_text

COLUMNS: tuple[str, ...] = ("run", "name", "examples", "quantity", "radius", "value", "low", "high", "p")
"""Of `measurements`."""

NOTHING = "nothing to report; name a run folder, a certify folder or a log"


@dataclass(frozen=True)
class Report:
    """Runs side by side."""

    curves: list[Curve]
    radii: tuple[float, ...]
    """Radii of the tables, in pixel units."""
    pairs: list[Pair]
    """Paired comparisons of all runs that share examples."""
    notes: list[str]
    """Warnings and how to read the numbers, in words."""
    tables: list[Table]
    groups: list[Group]
    """Runs that differ in their training seed only."""
    group_pairs: list[GroupPair]
    """Comparisons of these with the first of them."""


def summarise(paths: Sequence[Path], radii: Sequence[float] = (), labels: Sequence[str] = ()) -> Report:
    """Load runs and logs and compare them.

    What cannot be read or cannot stand in one table is left out, and the notes say so.

    Args:
        paths: run folders, certify folders, exported tables, published logs, or folders that hold such.
        radii: where to report certified accuracy, in pixel units; by default where the literature does.
        labels: what to call the runs, in their order; by default by what differs between them.

    Raises:
        ValueError: nothing of this can be reported, radii are negative, or there are more or fewer labels than runs.
    """
    if any(not 0 <= radius < math.inf for radius in radii):
        raise ValueError(f"radii must not be negative or infinite, got {', '.join(map(str, radii))}")
    loaded = load(paths)
    finished, open_runs = _finished(loaded.curves)
    alike, apart_from = _together(finished)
    left_out = [*loaded.left_out, *open_runs, *apart_from]
    if not alike:
        raise ValueError("; ".join(["nothing to report", *left_out] if left_out else [NOTHING]))
    curves = labeled(alike, labels)
    rows = published()
    at = tuple(sorted(set(radii) or {*default_radii(curves), *tables.published_radii(curves, rows)}))
    pairs, apart = compare_all(curves, at)
    found = groups(curves)
    group_pairs = compare_groups(curves, found, at)
    unpaired = [f"{LETTERS[i]} and {LETTERS[j]} are not compared by example: {reason}." for i, j, reason in apart]
    shown = [tables.runs(curves), tables.results(curves, at)]
    shown += [tables.methods(curves, found, at)] if found else []
    shown += [tables.method_differences(found, group_pairs, at)] if group_pairs else []
    shown += [tables.differences(pairs, at)] if pairs else []
    shown += tables.beside(curves, rows, at) + tables.looseness(curves, at) + tables.halves(curves)
    told = [f"Left out: {sentence}." for sentence in left_out] + unpaired + notes(curves) + _seeds(found)
    return Report(curves, at, pairs, told, shown, found, group_pairs)


def _seeds(found: Sequence[Group]) -> list[str]:
    """How to read what is said of several training seeds."""
    if not found:
        return []
    return [
        "Methods with several training seeds are compared by a hierarchical bootstrap over seeds and images, paired "
        "over images: these p-values do contain training variance, as far as so few seeds show it."
    ]


def _finished(curves: Sequence[Curve]) -> tuple[list[Curve], list[str]]:
    """The finished runs, and a sentence for each of the others; all of them where none is finished."""
    done = [curve for curve in curves if not curve.unfinished]
    if not done:
        return list(curves), []
    return done, [f"{curve.label} is not finished" for curve in curves if curve.unfinished]


def _together(curves: Sequence[Curve]) -> tuple[list[Curve], list[str]]:
    """The runs that share a table, in the norm that most of them have, and a sentence for each of the others."""
    norms = Counter(curve.norm for curve in curves)
    norm = max(norms, key=lambda norm: norms[norm], default=None)
    alike = [curve for curve in curves if curve.norm == norm]
    other = [f"{c.label} has {c.norm} radii, the others {norm}: report it apart" for c in curves if c.norm != norm]
    full = f"{len(LETTERS)} runs are in the report already, and no more fit: name fewer"
    return alike[: len(LETTERS)], other + [f"{curve.label}: {full}" for curve in alike[len(LETTERS) :]]


def measurements(report: Report) -> Iterator[dict[str, Any]]:
    """Every number of the report in long form, one row each: the lines of report.csv."""
    for letter, curve in zip(LETTERS, report.curves, strict=False):
        subject = {"run": letter, "name": csv_text(curve.label), "examples": len(curve)}
        if curve.has_acr:
            yield subject | {"quantity": "acr"} | vars(curve.acr)
        yield subject | {"quantity": "abstained"} | vars(curve.abstentions)
        if curve.samples is not None:
            yield subject | {"quantity": "samples", "value": curve.samples}
        for radius in filter(curve.decides, report.radii):
            yield subject | {"quantity": "certified_accuracy", "radius": radius} | vars(curve.accuracy(radius))
        for found in attacks_of(curve):
            point = {"quantity": "accuracy_under_attack", "radius": found.epsilon, "examples": found.examples}
            yield subject | point | vars(found.accuracy)
    for group in report.groups:
        yield from _of_group(group, report)
    for pair in report.pairs:
        names = f"{report.curves[pair.second].label} minus {report.curves[pair.first].label}"
        subject = {
            "run": f"{LETTERS[pair.second]}-{LETTERS[pair.first]}",
            "name": csv_text(names),
            "examples": pair.shared,
        }
        if pair.acr:
            yield subject | {"quantity": "acr_difference", "p": pair.acr.p} | vars(pair.acr.estimate)
        for radius, change in zip(report.radii, pair.accuracy, strict=True):
            if change is None:
                continue
            point = {"quantity": "certified_accuracy_difference", "radius": radius, "p": change.p}
            yield subject | point | vars(change.estimate)


def _of_group(group: Group, report: Report) -> Iterator[dict[str, Any]]:
    """Mean and standard deviation over training seeds."""
    runs = [report.curves[place] for place in group.members]
    names = ", ".join(LETTERS[place] for place in group.members)
    subject = {"run": names, "name": csv_text(group.label), "examples": len(runs[0])}
    found: list[tuple[dict[str, Any], list[float]]] = []
    if all(run.has_acr for run in runs):
        found.append(({"quantity": "acr"}, [run.acr.value for run in runs]))
    for radius in report.radii:
        if all(run.decides(radius) for run in runs):
            values = [run.accuracy(radius).value for run in runs]
            found.append(({"quantity": "certified_accuracy", "radius": radius}, values))
    for point, values in found:
        for name, value in zip(("mean", "sd"), spread(values), strict=True):
            yield subject | point | {"quantity": f"{point['quantity']}_{name}", "value": value}


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
    found = [_row_of_group(group, report) for group in report.groups]
    found += [_of_run(curve, report.radii) for curve in alone]
    beside = [_of_published(row, report.radii) for row in met.values()]
    return [row for row in found + beside if any(row.cells)]


def _of_run(curve: Curve, radii: Sequence[float]) -> Row:
    acr = _cell(curve.acr, 1) if curve.has_acr else None
    return Row(curve.label, (acr, *(_cell(curve.accuracy(at), 100) if curve.decides(at) else None for at in radii)))


def _cell(found: Estimate, factor: float) -> Cell:
    return Cell(factor * found.value, factor * found.high)


def _row_of_group(group: Group, report: Report) -> Row:
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
