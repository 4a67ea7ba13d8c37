"""The tables of a report: the runs, how they were certified, certified accuracy by radius, paired differences."""

from collections.abc import Callable, Sequence

from .compare import Pair
from .curve import Curve
from .estimate import Estimate
from .notes import LETTERS, plain
from .table import Table

NORM = {"l1": "l1", "l2": "l2", "linf": "l-inf"}


def radius_text(radius: float) -> str:
    """A radius as the literature writes it: 0.25, 8/255."""
    pixels = radius * 255
    if radius > 0 and abs(pixels - round(pixels)) < 1e-9 and len(f"{radius:g}") > 4:
        return f"{round(pixels)}/255"
    return f"{radius:g}"


def percent(share: Estimate) -> str:
    """A share in percent with its interval."""
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def acr_text(acr: Estimate) -> str:
    """An average radius with its interval."""
    return f"{acr.value:.4f} [{acr.low:.4f}, {acr.high:.4f}]"


def runs(curves: Sequence[Curve]) -> Table:
    """One row per run: how much there is, average certified radius, abstentions, samples."""
    columns: list[tuple[str, Callable[[Curve], str]]] = [
        ("run", lambda curve: curve.label),
        ("examples", lambda curve: f"{len(curve):,}"),
        ("ACR", lambda curve: acr_text(curve.acr)),
    ]
    if any(curve.one_class_acr is not None for curve in curves):
        columns += [("ACR, one-class", lambda curve: acr_text(curve.one_class_acr) if curve.one_class_acr else "")]
    columns += [("abstained %", lambda curve: percent(curve.abstentions))]
    if any(curve.samples is not None for curve in curves):
        columns += [("samples per example", _samples), ("in all", _samples_in_all), ("saved %", _saved)]
    rows = [(letter, *(show(curve) for _, show in columns)) for letter, curve in zip(LETTERS, curves, strict=False)]
    return Table("Runs", ("", *(name for name, _ in columns)), tuple(rows))


def _samples(curve: Curve) -> str:
    return "" if curve.samples is None else f"{curve.samples / len(curve):,.0f}"


def _samples_in_all(curve: Curve) -> str:
    return "" if curve.samples is None else f"{curve.samples:,}"


def _saved(curve: Curve) -> str:
    """Against taking the most samples for every example."""
    if curve.samples is None or not curve.most_samples:
        return ""
    return f"{100 * (1 - curve.samples / (len(curve) * curve.most_samples)):.1f}"


def settings(curves: Sequence[Curve]) -> Table:
    """How each run was certified, in one line."""
    rows = tuple((letter, _settings_text(curve)) for letter, curve in zip(LETTERS, curves, strict=False))
    return Table("How they were certified", ("", "settings"), rows)


def _settings_text(curve: Curve) -> str:
    if not curve.settings:
        return "published log: sigma, n and alpha are not recorded in the file"
    told = [f"{key}={plain(value)}" for key, value in curve.settings.items() if value not in (None, False)]
    best = [] if curve.cap is None else [f"largest radius possible {curve.cap:.4g}"]
    return ", ".join(told + best)


def accuracy(curves: Sequence[Curve], radii: Sequence[float]) -> Table:
    """Certified accuracy: radii down, runs across."""
    letters = LETTERS[: len(curves)]
    rows = [(radius_text(radius), *(percent(curve.accuracy(radius)) for curve in curves)) for radius in radii]
    title = f"Certified accuracy in % by {NORM[curves[0].norm]} radius (pixels in [0, 1]), with 95 % intervals"
    return Table(title, ("radius", *letters), tuple(rows), splits=True)


def differences(pairs: Sequence[Pair], radii: Sequence[float]) -> Table:
    """Paired differences: ACR and radii down, pairs across; certified accuracy in percentage points."""
    header = ("", *(f"{LETTERS[pair.second]} - {LETTERS[pair.first]}" for pair in pairs))
    rows = [
        ("shared examples", *(f"{pair.shared:,}" for pair in pairs)),
        ("ACR", *(_signed(pair.acr.estimate, 1, 4) for pair in pairs)),
        ("  p-value", *(p_text(pair.acr.p) for pair in pairs)),
        *(
            (f"points at {radius_text(radius)}", *(_signed(pair.accuracy[row].estimate, 100, 1) for pair in pairs))
            for row, radius in enumerate(radii)
        ),
    ]
    return Table("Differences on exactly the shared examples, paired 95 % intervals", header, tuple(rows), splits=True)


def _signed(change: Estimate, factor: float, digits: int) -> str:
    rounded = (round(factor * number, digits) + 0.0 for number in (change.value, change.low, change.high))
    value, low, high = (f"{number:+.{digits}f}" if number else f"{0:.{digits}f}" for number in rounded)
    return f"{value} [{low}, {high}]"


def p_text(p: float) -> str:
    """A p-value with two digits."""
    return "< 1e-6" if p < 1e-6 else f"{p:.2g}"
