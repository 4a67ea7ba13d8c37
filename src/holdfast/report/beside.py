"""Our runs beside the published rows for the same data, architecture, noise and method."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from .curve import Curve
from .notes import LETTERS
from .published import Published, find
from .table import Table
from .tables import radius_text


def beside(curves: Sequence[Curve], rows: Sequence[Published], radii: Sequence[float]) -> list[Table]:
    """A table for every run whose recipe has published rows: the run, each row, and the difference to it."""
    matched = [(letter, curve, matching(curve, rows)) for letter, curve in zip(LETTERS, curves, strict=False)]
    return [_table(letter, curve, found, radii) for letter, curve, found in matched if found]


def published_radii(curves: Sequence[Curve], rows: Sequence[Published]) -> set[float]:
    """The radii of the rows beside deterministic runs, where each field has its own; as far as these runs reach."""
    certain = [curve for curve in curves if curve.alpha is None]
    return {at for curve in certain for row in matching(curve, rows) for at in row.accuracy if at <= curve.largest}


def matching(curve: Curve, rows: Sequence[Published]) -> list[Published]:
    """Published rows for the data set, architecture, norm, sigma and method of a run; none if it has no recipe.

    The architecture of a row may be a pattern: linf-dist-* shows small nets beside the published large ones.
    """
    recipe = curve.recipe
    if not {"dataset", "arch", "method"} <= recipe.keys():
        return []
    alike = find(rows, recipe["dataset"], method=method_of(recipe, rows))
    fitting = [row for row in alike if fnmatchcase(recipe["arch"], row.arch)]
    return [row for row in fitting if (row.norm, row.sigma) == (curve.norm, curve.settings.get("sigma"))]


def method_of(recipe: Mapping[str, Any], rows: Sequence[Published]) -> str:
    """The published name of a recipe's method: the longest one that its kind begins with (GaussianNoise: gaussian)."""
    kind = recipe["method"]["kind"].lower()
    names = {row.method for row in rows if kind.startswith(row.method.replace("-", ""))}
    return max(names, key=len, default=kind)


def _table(letter: str, curve: Curve, found: Sequence[Published], radii: Sequence[float]) -> Table:
    published = {radius for row in found for radius in row.accuracy}
    at = sorted({radius for radius in radii if any(abs(radius - other) < 1e-9 for other in published)})
    header = ["", letter]
    columns = [["ACR", *(radius_text(radius) for radius in at)], _ours(curve, at)]
    for number, row in enumerate(found, 1):
        header += [f"{row.label} [{number}]", f"{letter} - [{number}]"]
        columns += [_theirs(row, at), _difference(curve, row, at)]
    sources = [_source(number, row, curve) for number, row in enumerate(found, 1)]
    title = f"{letter} beside published results: ACR, and certified accuracy in % by radius"
    return Table(title, tuple(header), tuple(zip(*columns, strict=True)), tuple(sources), splits=True)


def _ours(curve: Curve, at: Sequence[float]) -> list[str]:
    points = [100 * curve.accuracy(radius).value if curve.decides(radius) else None for radius in at]
    return [_number(curve.acr.value if curve.has_acr else None, "{:.4f}"), *(_number(v, "{:.1f}") for v in points)]


def _theirs(row: Published, at: Sequence[float]) -> list[str]:
    return [_number(row.acr, "{:.4f}"), *(_number(_accuracy(row, radius), "{:.1f}") for radius in at)]


def _difference(curve: Curve, row: Published, at: Sequence[float]) -> list[str]:
    acr = None if row.acr is None or not curve.has_acr else curve.acr.value - row.acr
    theirs = [(radius, _accuracy(row, radius) if curve.decides(radius) else None) for radius in at]
    points = [None if other is None else 100 * curve.accuracy(radius).value - other for radius, other in theirs]
    return [_number(acr, "{:+.4f}"), *(_number(value, "{:+.1f}") for value in points)]


def _accuracy(row: Published, radius: float) -> float | None:
    return next((value for at, value in row.accuracy.items() if abs(at - radius) < 1e-9), None)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _source(number: int, row: Published, curve: Curve) -> str:
    images = f"{row.examples:,} images" if row.examples else "number of images not stated"
    spread = f"; sd of ACR over seeds {row.acr_sd}" if row.acr_sd else ""
    note = f"; {row.note}" if row.note else ""
    ours = curve.settings.get("n")
    caps = f"; n = {row.n:,} there and {ours:,} here, so the caps differ" if row.n and ours and row.n != ours else ""
    return f"[{number}] {row.paper}: {row.table} ({row.how}; {images}{spread}{note}{caps}). {row.url}"
