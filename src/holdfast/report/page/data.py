"""What the page of a report or of the board shows, as plain JSON: curves on a grid of radii, no records.

How sure a smoothed classifier is, too: the proven lower bounds on the probability of its top class, over examples.
"""

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from ...core.config import rich
from ...core.threat import THREATS
from ...smoothing.noise import Noise
from ..curve import Curve, default_radii, gallery, votes
from ..facts import Facts, attacks_of, facts_of
from ..groups import Group, groups, spread
from ..labels import LETTERS, differing, plain, told
from ..published import Published
from ..statistics import Estimate, clopper_pearson
from ..table import printable
from ..tables import matching, radius_text

STEPS = 1000
"""Radii of a grid, besides those at which somebody reports."""

PICTURES = 700_000
"""Bytes of pictures that a page may hold; the examples beyond are shown without."""

Thumbnails = Callable[[str, str, Sequence[int]], Mapping[int, bytes]]
"""From a data set, a split and indices to small PNG or WebP images, as far as they are at hand."""

SYMBOLS = {"l2": "\N{SCRIPT SMALL L}\u2082", "linf": "\N{SCRIPT SMALL L}\u221e", "l1": "\N{SCRIPT SMALL L}\u2081"}


@dataclass(frozen=True)
class Panel:
    """What can stand in one chart."""

    dataset: str
    norm: str
    curves: list[Curve]
    letters: list[str]
    published: list[Published]

    @property
    def radii(self) -> Float[NDArray, " radius"]:
        """The grid: all radii at which anything is published, was decided or attacked, and steps between."""
        curves = self.curves
        stated = {
            0.0,
            *(at for row in self.published for at in row.accuracy),
            *(at for c in curves for at in c.given_radii),
            *self.attacked,
        }
        stated |= set(default_radii(curves)) if curves else set()
        top = max([*stated, *(curve.largest for curve in curves)])
        return np.unique([*np.linspace(0, top, STEPS + 1), *stated])

    @property
    def marks(self) -> list[float]:
        """Radii to choose from."""
        usual = set(default_radii(self.curves)) if self.curves else set()
        return sorted(usual | {at for row in self.published for at in row.accuracy} | self.attacked)

    @cached_property
    def attacked(self) -> set[float]:
        """Radii of attacks."""
        return {attack.epsilon for curve in self.curves for attack in attacks_of(curve)}


def page_data(
    curves: Sequence[Curve], rows: Sequence[Published], *, board: bool = False, thumbnails: Thumbnails | None = None
) -> dict[str, Any]:
    """Everything that the page shows besides the tables and notes.

    Args:
        curves: the runs, with their labels.
        rows: published results; a report shows those that runs meet and offers the others of the same data, a board
            shows all.
        thumbnails: where pictures of examples come from; none without.
    """
    panels = _panels(curves, rows, board)
    return {
        "board": board,
        "columns": differing(curves) if curves else [],
        "panels": [_panel(panel) for panel in panels],
        "rows": [row for place, panel in enumerate(panels) for row in _rows(panel, place, board)],
        "bins": BINS,
        "images": _images(curves, thumbnails) if thumbnails else {},
    }


def dataset_of(curve: Curve) -> str | None:
    """The data set that a run was certified on; None for a log, which does not say."""
    return curve.settings.get("dataset") or curve.recipe.get("dataset")


def _panels(curves: Sequence[Curve], rows: Sequence[Published], board: bool) -> list[Panel]:
    """One for each data set and threat model that there are runs of, on a board also those of published rows alone."""
    known = [name for curve in curves if (name := dataset_of(curve))]
    usual = max(known, key=known.count, default="not recorded")
    found: dict[tuple[str, str], Panel] = {}
    for letter, curve in zip(LETTERS, curves, strict=False):
        key = (dataset_of(curve) or usual, curve.norm)
        panel = found.setdefault(key, Panel(*key, [], [], []))
        panel.curves.append(curve)
        panel.letters.append(letter)
    for row in rows:
        key = (row.dataset, row.norm)
        if board or key in found:
            found.setdefault(key, Panel(*key, [], [], [])).published.append(row)
    return sorted(found.values(), key=lambda panel: -len(panel.curves) - len(panel.published))


def _panel(panel: Panel) -> dict[str, Any]:
    threat = THREATS[panel.norm]
    return {
        "dataset": printable(panel.dataset.removeprefix("hub:")),
        "norm": panel.norm,
        "symbol": SYMBOLS.get(panel.norm, threat.title),
        "unit": threat.unit,
        "radii": [float(f"{radius:.10g}") for radius in panel.radii],
        "marks": [{"radius": float(f"{radius:.10g}"), "text": radius_text(radius)} for radius in panel.marks],
        "start": _start(panel),
    }


def _start(panel: Panel) -> float:
    """The radius that the slider begins at: the smallest above 0 at which most rows say something."""
    said = [at for row in panel.published for at in row.accuracy if at > 0]
    said += [at for curve in panel.curves for at in default_radii([curve]) if at > 0 and curve.decides(at)]
    return float(f"{max(sorted(set(said)), key=said.count):.10g}") if said else 0.0


def _rows(panel: Panel, place: int, board: bool) -> Iterable[dict[str, Any]]:
    met = {id(row) for curve in panel.curves for row in matching(curve, panel.published)}
    radii, few = panel.radii, len(panel.curves) <= 8
    for letter, curve in zip(panel.letters, panel.curves, strict=True):
        yield {"panel": place, "id": letter, "on": True} | _run(curve, radii)
    for number, group in enumerate(groups(panel.curves), 1):
        yield {"panel": place, "id": f"method {number}", "on": False} | _method(group, panel.curves, radii)
    for number, row in enumerate(panel.published, 1):
        yield {"panel": place, "id": f"[{number}]", "on": board or (id(row) in met and few)} | _published(row)


def _run(curve: Curve, radii: Float[NDArray, " radius"]) -> dict[str, Any]:
    facts, settings = facts_of(curve), told(curve)
    shares = proven_shares(curve)
    method = settings.get("method")
    return {
        "kind": "run",
        "label": printable(curve.label),
        "name": printable(curve.name),
        "method": printable(str(method)) if method else "not recorded",
        "year": None,
        "extra": printable(str(curve.recipe.get("extra_data") or "none")),
        "status": "proven" if curve.alpha is None else f"proven, alpha {curve.alpha_spent:g}",
        "examples": len(curve),
        "acr": _acr(curve.acr) if curve.has_acr else None,
        "abstained": _percent(curve.abstentions),
        "columns": {key: printable(plain(value)) for key, value in settings.items() if key != "model"},
        **(_points(curve) if curve.given_radii else _steps(curve, radii)),
        "shares": None if shares is None else shares.tolist(),
        "gallery": _gallery(curve),
        **_beside(curve, facts),
    }


def _steps(curve: Curve, radii: Float[NDArray, " radius"]) -> dict[str, Any]:
    """As far as the curve reaches; beyond, the last number stays."""
    counts = curve.counts(radii[: np.searchsorted(radii, curve.largest, side="right") + 1])
    low, high = clopper_pearson(counts, len(curve))
    return {
        "value": _rounded(100 * counts / len(curve)),
        "low": _rounded(100 * low, 1),
        "high": _rounded(100 * high, 1),
    }


def _points(curve: Curve) -> dict[str, Any]:
    found = [(radius, curve.accuracy(radius)) for radius in curve.given_radii]
    return {"points": [[float(f"{radius:.10g}"), *_percent(share)] for radius, share in found]}


def _beside(curve: Curve, facts: Facts) -> dict[str, Any]:
    """Cost, training curve, attacks, source."""
    return {
        "samples": curve.samples / len(curve) if curve.samples else None,
        "seconds": facts.seconds,
        "device": printable(", ".join(facts.devices)),
        "trained": facts.training_seconds,
        "training": {printable(name): [_finite(v) for v in values] for name, values in facts.training.items()},
        "attacks": [[found.epsilon, *_percent(found.accuracy), found.examples] for found in facts.attacks],
        "source": _source(str(curve.source or curve.name), curve.source.name if curve.source else "this run"),
    }


def _method(group: Group, curves: Sequence[Curve], radii: Float[NDArray, " radius"]) -> dict[str, Any]:
    """Mean over training seeds, and a band of one standard deviation."""
    runs = [curves[place] for place in group.members]
    row: dict[str, Any] = {
        "kind": "method",
        "label": printable(f"{group.label}: {len(runs)} training seeds"),
        "method": printable(str(told(runs[0]).get("method"))),
        "year": None,
        "extra": printable(str(runs[0].recipe.get("extra_data") or "none")),
        "status": "mean ± standard deviation",
        "examples": len(runs[0]),
        "columns": {},
        "source": _source("mean of " + "; ".join(run.label for run in runs), "these runs"),
    }
    if runs[0].given_radii:
        at = np.array(runs[0].given_radii)
        bands = _spread(np.array([[run.accuracy(radius).value for radius in at] for run in runs]))
        return row | {"points": [[float(f"{r:.10g}"), *found] for r, *found in zip(at, *bands, strict=True)]}
    value, low, high = _spread(np.array([run.counts(radii) / len(run) for run in runs]))
    mean, deviation = spread([run.acr.value for run in runs])
    acr = [round(part, 4) for part in (mean, mean - deviation, mean + deviation)]
    acr = acr if all(run.has_acr for run in runs) else None
    return row | {"value": value, "low": low, "high": high, "acr": acr}


def _spread(shares: Float[NDArray, "seed radius"]) -> tuple[list[float], list[float], list[float]]:
    mean, deviation = 100 * shares.mean(0), 100 * shares.std(0, ddof=1)
    low, high = np.maximum(mean - deviation, 0), np.minimum(mean + deviation, 100)
    return _rounded(mean), _rounded(low, 1), _rounded(high, 1)


def _published(row: Published) -> dict[str, Any]:
    examples = f"{row.examples:,} images" if row.examples else "number of images not stated"
    note = f"; {row.note}" if row.note else ""
    text = f"{row.paper}: {row.table} ({row.how}; {examples}{note})"
    return {
        "kind": "published",
        "label": printable(row.title),
        "method": printable(row.method),
        "year": row.year,
        "extra": printable(row.extra_data or "none"),
        "status": printable(f"claimed: {row.claimed}" if row.claimed else "proven"),
        "examples": row.examples,
        "acr": None if row.acr is None else [row.acr, None, None],
        "columns": {"arch": printable(row.arch[0])} | ({"sigma": plain(row.sigma)} if row.sigma else {}),
        "points": [[float(f"{radius:.10g}"), percent, None, None] for radius, percent in sorted(row.accuracy.items())],
        "source": _source(text, row.citation or row.label, row.url),
    }


def _source(text: str, short: str, url: str | None = None) -> dict[str, str | None]:
    return {"text": printable(text), "short": printable(short), "url": url}


def _gallery(curve: Curve) -> dict[str, list[dict[str, Any]]]:
    return {
        kind: [
            {
                "image": _key(curve, record.index),
                "index": record.index,
                "label": record.label,
                "prediction": record.certificate.prediction,
                "radius": float(f"{record.certificate.radius:.6g}"),
                "votes": [[label, count] for label, count in list(votes(record.certificate.evidence).items())[:3]],
            }
            for record in shown
        ]
        for kind, shown in gallery(curve.records).items()
    }


def _key(curve: Curve, index: int) -> str:
    return printable(f"{dataset_of(curve)}/{curve.settings.get('split')}/{index}")


def _images(curves: Sequence[Curve], thumbnails: Thumbnails) -> dict[str, str]:
    """Pictures as data URLs, until there are enough."""
    wanted: dict[tuple[str, str], dict[int, str]] = {}
    for curve in curves:
        dataset, split = dataset_of(curve), curve.settings.get("split")
        if dataset and split:
            for shown in gallery(curve.records).values():
                keys = {record.index: _key(curve, record.index) for record in shown}
                wanted.setdefault((dataset, split), {}).update(keys)
    found: dict[str, str] = {}
    size = 0
    for (dataset, split), keys in wanted.items():
        for index, content in thumbnails(dataset, split, sorted(keys)).items():
            kind = "png" if content.startswith(b"\x89PNG") else "webp"
            url = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            if (size := size + len(url)) > PICTURES:
                return found
            found[keys[index]] = url
    return found


def _percent(found: Estimate) -> list[float]:
    """A share and its interval, with as many digits as are shown."""
    return [round(100 * found.value, 2), round(100 * found.low, 1), round(100 * found.high, 1)]


def _acr(found: Estimate) -> list[float | None]:
    return [_finite(round(part, 4)) for part in (found.value, found.low, found.high)]


def _rounded(values: Float[NDArray, " radius"], digits: int = 2) -> list[float]:
    return np.round(values, digits).tolist()


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


BINS = 50
"""Bins of equal width from 1/2 to 1."""


def proven_shares(curve: Curve) -> Int[NDArray, " bin"] | None:
    """Number of examples by the proven bound on the probability of their class; abstentions are in no bin.

    The bound that was stored counts; else the probability that the radius needs. None for deterministic proofs, runs
    that were decided at given radii, and logs, which do not tell their sigma.
    """
    if curve.alpha is None or curve.given_radii:
        return None
    settings = curve.settings.get("inner", curve.settings)
    found = [
        _bound(record.certificate.evidence, record.certificate.radius, settings)
        for record in curve.records
        if record.certificate.prediction is not None
    ]
    if any(bound is None for bound in found):
        return None
    return np.histogram(np.array(found, dtype=float), BINS, (0.5, 1.0))[0]


def _bound(evidence: Mapping[str, Any], radius: float, settings: Mapping[str, Any]) -> float | None:
    inner = evidence.get("inner")
    stored = (inner if isinstance(inner, Mapping) else evidence).get("p_lower")
    if isinstance(stored, int | float):
        return float(stored)
    if settings.get("two_class") or "sigma" not in settings:
        return None
    return _needed(_noise(settings), float(evidence.get("feature_radius", radius)), float(settings["sigma"]))


def _noise(settings: Mapping[str, Any]) -> Noise | None:
    """The noise of a run; None if it is not known here."""
    try:
        found = rich(settings.get("noise", {"kind": "Float32"}))
    except (ValueError, TypeError):
        return None
    return found if isinstance(found, Noise) else None


@lru_cache(maxsize=100_000)
def _needed(noise: Noise | None, radius: float, sigma: float) -> float | None:
    """Kept, because many examples have the same radius."""
    return None if noise is None else noise.share_needed(radius, sigma)
