"""The tables of a report: the runs and how they were certified, their results by radius, their paired differences."""

from collections.abc import Callable, Sequence

from ..core.threat import THREATS
from .compare import Change, Pair
from .curve import Curve
from .estimate import Estimate, most_wrong
from .notes import LETTERS, RHO, plain
from .table import Table


def radius_text(radius: float) -> str:
    """A radius as the literature writes it: 0.25, 8/255."""
    pixels = radius * 255
    if radius > 0 and abs(pixels - round(pixels)) < 1e-9 and len(f"{radius:g}") > 4:
        return f"{round(pixels)}/255"
    return f"{radius:g}"


def percent(share: Estimate) -> str:
    """A share in percent with its interval."""
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _acr(acr: Estimate | None) -> str:
    return f"{acr.value:.4f} [{acr.low:.4f}, {acr.high:.4f}]" if acr else ""


def runs(curves: Sequence[Curve]) -> Table:
    """The name of each run and how it was certified."""
    told = [(letter, c.label, _training(c), _settings(c)) for letter, c in zip(LETTERS, curves, strict=False)]
    table = Table("Runs", ("", "run", "trained with", "certified with"), tuple(told))
    return table if any(training for _, _, training, _ in told) else table.columns([0, 1, 3])


def _training(curve: Curve) -> str:
    """How the classifier was trained, as far as runs of one recipe can differ; empty where unknown."""
    names = {"epochs": "epochs", "seed": "training seed"}
    return ", ".join(f"{name}={plain(curve.recipe[key])}" for key, name in names.items() if key in curve.recipe)


def _settings(curve: Curve) -> str:
    if not curve.settings:
        return "not recorded in the log: sigma, n, alpha"
    chosen = {key: value for key, value in curve.settings.items() if value is not None and value is not False}
    names = {"seed": "noise seed"}
    told = [f"{names.get(key, key)}={plain(value)}" for key, value in chosen.items() if key != "model"]
    best = [] if curve.cap is None else [f"largest radius possible {curve.cap:.4g}"]
    return ", ".join(told + best)


def results(curves: Sequence[Curve], radii: Sequence[float]) -> Table:
    """Quantities and radii down, runs across; shares in percent."""
    rows: list[tuple[str, Callable[[Curve], str]]] = [
        ("examples", lambda curve: f"{len(curve):,}"),
        ("ACR", lambda curve: _acr(curve.acr if curve.has_acr else None)),
        ("ACR, one-class", lambda curve: _acr(curve.one_class_acr)),
        ("abstained %", lambda curve: percent(curve.abstentions)),
        ("wrong at most", _wrong),
        ("samples per example", lambda curve: f"{curve.samples / len(curve):,.0f}" if curve.samples else ""),
        ("samples in all", lambda curve: f"{curve.samples:,}" if curve.samples else ""),
        ("samples saved %", _saved),
        *((f"% at {radius_text(at)}", lambda curve, at=at: _accuracy(curve, at)) for at in radii),
    ]
    cells = ((name, *map(show, curves)) for name, show in rows)
    threat = THREATS[curves[0].norm]
    title = f"Certified accuracy by {threat.title} radius ({threat.unit}), with 95 % intervals"
    return Table(title, ("", *LETTERS[: len(curves)]), tuple(row for row in cells if any(row[1:])), splits=True)


def _accuracy(curve: Curve, radius: float) -> str:
    return percent(curve.accuracy(radius)) if curve.decides(radius) else ""


def _wrong(curve: Curve) -> str:
    """Empty for an unfinished run: alpha holds for every example, not for those that happen to be done first."""
    if curve.alpha is None or curve.unfinished:
        return ""
    wrong = most_wrong(len(curve), curve.alpha, RHO)
    return f"{wrong:,} ({100 * wrong / len(curve):.2f} points)"


def _saved(curve: Curve) -> str:
    """Against taking the most samples for every example; empty for a fixed number of samples."""
    if not curve.samples or not curve.most_samples or curve.samples == len(curve) * curve.most_samples:
        return ""
    return f"{100 * (1 - curve.samples / (len(curve) * curve.most_samples)):.1f}"


def differences(pairs: Sequence[Pair], radii: Sequence[float]) -> Table:
    """ACR and radii down, pairs across; certified accuracy in percentage points."""
    header = ("", *(f"{LETTERS[pair.second]} - {LETTERS[pair.first]}" for pair in pairs))
    rows = [
        ("shared examples", *(f"{pair.shared:,}" for pair in pairs)),
        ("ACR", *(_signed(pair.acr, 1, 4) for pair in pairs)),
        ("p-value of ACR", *(p_text(pair.acr.p) if pair.acr else "" for pair in pairs)),
        *(
            (f"% at {radius_text(radius)}", *(_signed(pair.accuracy[row], 100, 1) for pair in pairs))
            for row, radius in enumerate(radii)
        ),
    ]
    title = "Differences on exactly the shared examples, with paired 95 % intervals"
    return Table(title, header, tuple(row for row in rows if any(row[1:])), splits=True)


def _signed(change: Change | None, factor: float, digits: int) -> str:
    if change is None:
        return ""
    found = change.estimate
    rounded = (round(factor * number, digits) + 0.0 for number in (found.value, found.low, found.high))
    value, low, high = (f"{number:+.{digits}f}" if number else f"{0:.{digits}f}" for number in rounded)
    return f"{value} [{low}, {high}]"


def p_text(p: float) -> str:
    """A p-value with two digits."""
    return "< 1e-6" if p < 1e-6 else f"{p:.2g}"
