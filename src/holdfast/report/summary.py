"""A report as a value: everything that its terminal, Markdown, CSV and page forms show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import tables
from .beside import beside, published_radii
from .compare import Pair, compare_all
from .curve import Curve, default_radii
from .halves import halves
from .load import load
from .notes import LETTERS, notes
from .published import published
from .slack import slack
from .table import Table


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


def summarise(paths: Sequence[Path], radii: Sequence[float] = ()) -> Report:
    """Load runs and logs and compare them.

    Args:
        paths: run folders, certify folders, published logs.
        radii: where to report certified accuracy, in pixel units; by default where the literature does.

    Raises:
        ValueError: nothing to report, too many runs, runs in different norms, or a path that is no run (see `load`).
    """
    curves = load(paths)
    _check(curves, radii)
    rows = published()
    at = tuple(sorted(set(radii) or {*default_radii(curves), *published_radii(curves, rows)}))
    pairs, apart = compare_all(curves, at)
    unpaired = [f"{LETTERS[i]} and {LETTERS[j]} are not compared by example: {reason}." for i, j, reason in apart]
    shown = [tables.runs(curves), tables.results(curves, at)]
    shown += [tables.differences(pairs, at)] if pairs else []
    shown += beside(curves, rows, at) + slack(curves, at) + halves(curves)
    return Report(curves, at, pairs, unpaired + notes(curves), shown)


def _check(curves: Sequence[Curve], radii: Sequence[float]) -> None:
    if not curves:
        raise ValueError("nothing to report; name a run folder, a certify folder or a log")
    if len(curves) > len(LETTERS):
        raise ValueError(f"{len(curves)} runs are too many for one report, {len(LETTERS)} fit; name certify folders")
    norms = sorted({curve.norm for curve in curves})
    if len(norms) > 1:
        raise ValueError(f"radii in {' and '.join(norms)} cannot share a table; report these runs apart")
    if any(not radius >= 0 for radius in radii):
        raise ValueError(f"radii must not be negative, got {', '.join(map(str, radii))}")


def measurements(report: Report) -> Iterator[dict[str, Any]]:
    """Every number of the report in long form, one row each: the lines of report.csv."""
    for letter, curve in zip(LETTERS, report.curves, strict=False):
        subject = {"run": letter, "name": curve.label, "examples": len(curve)}
        for quantity, estimate in (("acr", curve.acr), ("abstained", curve.abstentions)):
            yield subject | {"quantity": quantity} | vars(estimate)
        if curve.samples is not None:
            yield subject | {"quantity": "samples", "value": curve.samples}
        for radius in report.radii:
            yield subject | {"quantity": "certified_accuracy", "radius": radius} | vars(curve.accuracy(radius))
    for pair in report.pairs:
        names = f"{report.curves[pair.second].label} minus {report.curves[pair.first].label}"
        subject = {"run": f"{LETTERS[pair.second]}-{LETTERS[pair.first]}", "name": names, "examples": pair.shared}
        yield subject | {"quantity": "acr_difference", "p": pair.acr.p} | vars(pair.acr.estimate)
        for radius, change in zip(report.radii, pair.accuracy, strict=True):
            point = {"quantity": "certified_accuracy_difference", "radius": radius, "p": change.p}
            yield subject | point | vars(change.estimate)
