"""A report as a value: everything that its terminal, Markdown, CSV and page forms show."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import tables
from .curve import Curve, Pair, compare_all, default_radii, load
from .facts import attacks_of
from .groups import Group, GroupPair, compare_groups, groups, spread
from .labels import labeled
from .notes import LETTERS, notes
from .published import published
from .table import Table, csv_text

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
    if any(not radius >= 0 for radius in radii):
        raise ValueError(f"radii must not be negative, got {', '.join(map(str, radii))}")
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
