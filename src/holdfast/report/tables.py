"""The tables of a report: the runs and how they were certified, their results by radius, their paired differences, each
run beside published ones, and what is known of the network behind a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.threat import THREATS
from .curve import Change, Curve, Pair
from .facts import attacks_of
from .groups import Group, GroupPair, spread
from .labels import LETTERS, RHO, differing, plain, shared, told
from .published import Published, find
from .statistics import Estimate, most_wrong
from .table import Table

Number = Callable[[Mapping[str, Any]], float]


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
    """What each run is called and what differs between runs, a column each; what all share stands below."""
    facts, keys = [told(curve) for curve in curves], differing(curves)
    rows = [
        (letter, curve.label, *(plain(fact[key]) if key in fact else "" for key in keys), _cap(curve), curve.name)
        for letter, curve, fact in zip(LETTERS, curves, facts, strict=False)
    ]
    same = ", ".join(f"{key} {plain(value)}" for key, value in sorted(shared(curves).items()))
    header = ("", "run", *keys, "largest radius possible", "name")
    below = (f"{'All runs' if len(curves) > 1 else 'The run'}: {same}.",) if same else ()
    table = Table("Runs", header, tuple(rows), below, splits=True)
    wanted = [at for at, cells in enumerate(zip(*table.rows, strict=True)) if any(cells) and not _repeats(at, table)]
    return table.columns(wanted)


def _repeats(at: int, table: Table) -> bool:
    """Whether a column is that of the names, and says what the labels say already."""
    return table.header[at] == "name" and all(row[at] == row[1] for row in table.rows)


def _cap(curve: Curve) -> str:
    if not curve.settings:
        return "sigma, n and alpha not recorded"
    return "" if curve.cap is None else f"{curve.cap:.4g}"


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
        *_attacked(curves),
    ]
    cells = ((name, *map(show, curves)) for name, show in rows)
    threat = THREATS[curves[0].norm]
    title = f"Certified accuracy by {threat.title} radius ({threat.unit}), with 95 % intervals"
    return Table(title, ("", *LETTERS[: len(curves)]), tuple(row for row in cells if any(row[1:])), splits=True)


def _accuracy(curve: Curve, radius: float) -> str:
    return percent(curve.accuracy(radius)) if curve.decides(radius) else ""


def _attacked(curves: Sequence[Curve]) -> Iterator[tuple[str, Callable[[Curve], str]]]:
    """A row for every radius of an attack."""
    found = {id(curve): {attack.epsilon: attack for attack in attacks_of(curve)} for curve in curves}
    for at in sorted({epsilon for attacks in found.values() for epsilon in attacks}):

        def cell(curve: Curve, at: float = at) -> str:
            attack = found[id(curve)].get(at)
            return f"{percent(attack.accuracy)} of {attack.examples:,}" if attack else ""

        yield f"% under attack at {radius_text(at)}, upper bound", cell


def _wrong(curve: Curve) -> str:
    """Empty for an unfinished run: alpha holds for every example, not for those that happen to be done first."""
    if curve.alpha_spent is None or curve.unfinished:
        return ""
    wrong = most_wrong(len(curve), curve.alpha_spent, RHO)
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


def methods(curves: Sequence[Curve], found: Sequence[Group], radii: Sequence[float]) -> Table:
    """Methods across, quantities down: mean and standard deviation over training seeds."""
    runs = [[curves[place] for place in group.members] for group in found]
    rows = [
        ("runs", *(", ".join(LETTERS[place] for place in group.members) for group in found)),
        ("ACR", *(_over_seeds([c.acr.value for c in part if c.has_acr], part, 1, 4) for part in runs)),
        *(
            (f"% at {radius_text(at)}", *(_over_seeds(_values_at(part, at), part, 100, 2) for part in runs))
            for at in radii
        ),
    ]
    title = "Methods: mean ± standard deviation over training seeds"
    return Table(
        title, ("", *(group.label for group in found)), tuple(row for row in rows if any(row[1:])), splits=True
    )


def _values_at(runs: Sequence[Curve], radius: float) -> list[float]:
    return [run.accuracy(radius).value for run in runs if run.decides(radius)]


def _over_seeds(values: Sequence[float], runs: Sequence[Curve], factor: float, digits: int) -> str:
    if len(values) < len(runs):
        return ""
    mean, deviation = spread([factor * value for value in values])
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def method_differences(found: Sequence[Group], pairs: Sequence[GroupPair], radii: Sequence[float]) -> Table:
    """ACR and radii down, pairs of methods across; certified accuracy in percentage points."""
    header = ("", *(f"{found[pair.second].label} - {found[pair.first].label}" for pair in pairs))
    rows = [
        ("ACR", *(_with_p(pair.acr, 1, 4) for pair in pairs)),
        *(
            (f"% at {radius_text(at)}", *(_with_p(p.accuracy[row], 100, 1) for p in pairs))
            for row, at in enumerate(radii)
        ),
    ]
    title = "Differences of methods over training seeds and images, with 95 % bootstrap intervals"
    return Table(title, header, tuple(row for row in rows if any(row[1:])), splits=True)


def _with_p(change: Change | None, factor: float, digits: int) -> str:
    return "" if change is None else f"{_signed(change, factor, digits)}, p = {p_text(change.p)}"


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


def beside(curves: Sequence[Curve], rows: Sequence[Published], radii: Sequence[float]) -> list[Table]:
    """A table for every run whose recipe has published rows: the run, each row, and the difference to it."""
    lettered = zip(LETTERS, curves, strict=False)
    matched = [(letter, curve, _meeting(curve, matching(curve, rows), radii)) for letter, curve in lettered]
    return [_beside(letter, curve, found, radii) for letter, curve, found in matched if found]


def _meeting(curve: Curve, rows: Sequence[Published], radii: Sequence[float]) -> list[Published]:
    """Those with an ACR if the run has one, or an accuracy at a radius that is shown and that the run decided."""
    within = [radius for radius in radii if radius <= curve.largest and curve.decides(radius)]
    return [
        row for row in rows if (row.acr and curve.has_acr) or any(_published_at(row, at) is not None for at in within)
    ]


def published_radii(curves: Sequence[Curve], rows: Sequence[Published]) -> set[float]:
    """The radii of the rows beside deterministic runs, where each field has its own; as far as these runs reach."""
    certain = [curve for curve in curves if curve.alpha is None]
    return {at for curve in certain for row in matching(curve, rows) for at in row.accuracy if at <= curve.largest}


def matching(curve: Curve, rows: Sequence[Published]) -> list[Published]:
    """Published rows of the method, data set, architecture, norm and sigma of a run; none if it has no recipe."""
    recipe = curve.recipe
    if not {"dataset", "arch", "method"} <= recipe.keys():
        return []
    return find(rows, recipe["method"]["kind"], recipe["dataset"], recipe["arch"], curve.norm, curve.sigma)


def _beside(letter: str, curve: Curve, found: Sequence[Published], radii: Sequence[float]) -> Table:
    published = {radius for row in found for radius in row.accuracy}
    decided = filter(curve.decides, radii)
    at = sorted({radius for radius in decided if any(abs(radius - other) < 1e-9 for other in published)})
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
    return [_number(row.acr, "{:.4f}"), *(_number(_published_at(row, radius), "{:.1f}") for radius in at)]


def _difference(curve: Curve, row: Published, at: Sequence[float]) -> list[str]:
    acr = None if row.acr is None or not curve.has_acr else curve.acr.value - row.acr
    theirs = [(radius, _published_at(row, radius) if curve.decides(radius) else None) for radius in at]
    points = [None if other is None else 100 * curve.accuracy(radius).value - other for radius, other in theirs]
    return [_number(acr, "{:+.4f}"), *(_number(value, "{:+.1f}") for value in points)]


def _published_at(row: Published, radius: float) -> float | None:
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


def looseness(curves: Sequence[Curve], radii: Sequence[float]) -> list[Table]:
    """Where the proven constant of a Lipschitz network is loose, and what an unproven one would have claimed.

    Two tables for every run whose certifier has explained its constant. Hu et al., NeurIPS 2023,
    https://arxiv.org/abs/2301.12549, compare an upper and a lower bound of the whole network.
    """
    lettered = zip(LETTERS, curves, strict=False)
    explained = [(letter, curve) for letter, curve in lettered if "power_iteration" in curve.explanation]
    return [table for letter, curve in explained for table in (_bounds(letter, curve), _claims(letter, curve, radii))]


def _bounds(letter: str, curve: Curve) -> Table:
    found = curve.explanation
    rows = [(name, f"{bound:.6g}") for name, bound in found["layers"].items() if f"{bound:.6g}" != "1"]
    rows += [
        ("all layers together, proven", f"{found['upper']:.6g}"),
        ("power iteration, not proven", f"{found['power_iteration']:.6g}"),
        ("reached by a pair of images", f"{found['lower']:.6g}"),
        ("reached / proven", f"{found['lower'] / found['upper']:.3f}"),
    ]
    title = f"{letter}: Lipschitz constants of the layers before the last; the others have 1"
    return Table(title, ("layer", "constant"), tuple(rows))


def _claims(letter: str, curve: Curve, radii: Sequence[float]) -> Table:
    """Radii are margins over constants, so those of another constant are a multiple of the proven ones."""
    shrink = curve.explanation["power_iteration"] / curve.explanation["upper"]
    accuracies = [(at, 100 * curve.accuracy(at).value, 100 * curve.accuracy(at * shrink).value) for at in radii]
    rows = [(radius_text(at), f"{ours:.2f}", f"{claim:.2f}", f"{claim - ours:.2f}") for at, ours, claim in accuracies]
    header = ("radius", "proven", "power iteration", "not proven")
    title = f"{letter}: certified accuracy in %, proven and as power iteration would claim it"
    return Table(title, header, tuple(rows))


def halves(curves: Sequence[Curve]) -> list[Table]:
    """How far the left half of a classifier can move layer by layer, and which radius each part gives.

    A table for every run that was certified through two halves. Zhong & Tandon, "SPLITZ", IEEE TIFS 2025,
    https://arxiv.org/abs/2407.02811, look at layers to choose where to split.
    """
    found = [
        _halves(letter, evidence)
        for letter, curve in zip(LETTERS, curves, strict=False)
        if (evidence := [r.certificate.evidence for r in curve.records if r.certificate.evidence.get("profile")])
    ]
    return found


def _halves(letter: str, evidence: Sequence[Mapping[str, Any]]) -> Table:
    """Over the certified images."""
    names = list(evidence[0]["profile"])
    rows: list[tuple[str, Number]] = [
        ("largest movement of the image / radius", lambda _: 1.0),
        *((f"after layer {name}", lambda found, name=name: found["profile"][name]) for name in names),
        ("left half, anywhere", lambda found: found["global_constant"]),
        ("radius of the features", lambda found: found["feature_radius"]),
        ("radius in pixels", lambda found: found["gamma"]),
        ("radius by the constant that holds anywhere", _by_constant),
    ]
    cells = tuple((name, *_quartiles([number(found) for found in evidence])) for name, number in rows)
    title = f"{letter}: the left half layer by layer, and the radii of the parts, over {len(evidence):,} images"
    return Table(title, ("", "mean", "lower quartile", "median", "upper quartile"), cells)


def _by_constant(found: Mapping[str, Any]) -> float:
    constant = found["global_constant"]
    return found["feature_radius"] / constant if constant else found["gamma"]


def _quartiles(numbers: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{value:.4g}" for value in (np.mean(numbers), *np.quantile(numbers, (0.25, 0.5, 0.75))))
