"""A curve: what was proven about the examples of one run, and what that says about the classifier.

Of the examples, some are looked at one by one; of all others a part of the evidence is kept.
"""

import gc
import heapq
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from ..core.certificate import Certificate, Record
from ..runs.certified import CertifiedRun
from ..runs.find import find
from .statistics import Estimate, mean, mean_is_zero, paired_difference, share, shares_are_equal


@dataclass(frozen=True)
class Curve(CertifiedRun):
    """A certified run with what it says about the distribution that its examples were drawn from."""

    title: str = ""
    """What a report calls it; its name where empty."""
    source: Path | None = field(default=None, compare=False)
    """Where it was read: a certify folder, an exported table or a log."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.records:
            raise ValueError(f"{self.name} holds no records; certify it first")

    @classmethod
    def open(cls, source: Path | str) -> Self:
        """See `CertifiedRun.open`. Of the evidence it keeps what a report shows: 50 runs fit into memory."""
        run = super().open(source)
        return replace(run, records=thinned(run.records), source=Path(source))

    @property
    def label(self) -> str:
        """What the report calls it, and how much of the run is there if not all of it."""
        named = self.title or self.name
        return f"{named} ({len(self):,} of {self.total:,} examples)" if self.unfinished else named

    @cached_property
    def indices(self) -> Int[NDArray, " example"]:
        """Positions of the examples in their data set."""
        return np.array([record.index for record in self.records])

    @cached_property
    def classes(self) -> Int[NDArray, " example"]:
        """Labels of the examples."""
        return np.array([record.label for record in self.records])

    def accuracy(self, radius: float) -> Estimate:
        """Certified accuracy at a radius, as a share, with its exact interval."""
        return share(int(self.reaches(radius).sum()), len(self))

    @cached_property
    def acr(self) -> Estimate:
        """Average certified radius, in pixel units, with Student's interval."""
        return mean(self.radii)

    @cached_property
    def abstentions(self) -> Estimate:
        """Share of examples without a prediction."""
        return share([record.certificate.prediction for record in self.records].count(None), len(self))

    @cached_property
    def one_class_acr(self) -> Estimate | None:
        """ACR by the one-class bound of the literature, where a two-class certificate records it; otherwise None."""
        found = [record.certificate.evidence.get("one_class_radius") for record in self.records]
        radii = [float(radius) for radius in found if radius is not None]
        return mean(np.where(self.correct, radii, 0.0)) if len(radii) == len(found) else None


def default_radii(curves: Sequence[Curve]) -> tuple[float, ...]:
    """The radii at which the literature reports such runs, as far as these curves reach, and those that were given."""
    given = {radius for curve in curves for radius in curve.given_radii}
    if all(curve.given_radii for curve in curves):
        return tuple(sorted(given))
    top = max(curve.largest for curve in curves)
    if curves[0].norm == "linf":
        usual = {0.0, 2 / 255, 8 / 255, 16 / 255, 0.1, 0.2, 0.3}
    elif all(curve.alpha is None for curve in curves):
        usual = {0.0, 36 / 255, 72 / 255, 108 / 255, 1.0}
    else:
        step = _step(top)
        usual = {step * i for i in range(math.floor(top / step) + 1)}
    return tuple(sorted({radius for radius in usual if radius <= top} | given)) or (0.0,)


def _step(top: float) -> float:
    """0.25 as in the literature; finer where that shows nothing, coarser where it would fill pages."""
    if top < 0.25:
        return 0.05
    return 0.25 * 2 ** max(0, math.ceil(math.log2(top / 4)))


class Loaded(NamedTuple):
    """What could be read, and a sentence for everything that could not."""

    curves: list[Curve]
    left_out: list[str]


@contextmanager
def without_collection() -> Iterator[None]:
    """Records are many and hold no cycles: looking for some again and again takes a third of the time of reading."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@without_collection()
def load(paths: Sequence[Path]) -> Loaded:
    """One curve for every run that the paths stand for (see `find`); what cannot be read is left out, and told."""
    sources, left_out = find(paths)
    found = list(_opened(sources))
    left_out += [reason for reason in found if isinstance(reason, str)]
    return Loaded([curve for curve in found if not isinstance(curve, str)], left_out)


MANY = 2**26
"""Bytes of records from which on several processes read them."""


def _opened(sources: Sequence[Path]) -> Iterator[Curve | str]:
    """Every run, or why it could not be read, in the order of the sources.

    Processes are forks: they begin at once, and need no main module that can be imported again. Where torch is loaded,
    whose threads a fork does not have, there is one.
    """
    size = sum(part.stat().st_size for path in sources for part in ([path] if path.is_file() else path.glob("*.*")))
    workers = min(len(sources), 8, os.cpu_count() or 1)
    if workers < 2 or size < MANY or "torch" in sys.modules or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(_open, sources)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_open, sources)


def _open(source: Path) -> Curve | str:
    try:
        return Curve.open(source)
    except (ValueError, OSError) as error:
        return str(error) if str(source) in str(error) else f"{source}: {error}"


@dataclass(frozen=True)
class Change:
    """A difference with its interval and the p-value of 'there is none'."""

    estimate: Estimate
    p: float


@dataclass(frozen=True)
class Pair:
    """Second run minus first, on the examples that both certified."""

    first: int
    """Position of the first run in the report."""
    second: int
    """Position of the second run in the report."""
    shared: int
    """Number of examples compared."""
    acr: Change | None
    """Difference in average certified radius, in pixel units; None where one has none."""
    accuracy: tuple[Change | None, ...]
    """Difference in certified accuracy, as a share, at each radius of the report; None where one did not decide it."""


def compare_all(curves: Sequence[Curve], radii: Sequence[float]) -> tuple[list[Pair], list[tuple[int, int, str]]]:
    """The pairs that can be compared, and (first, second, reason) of those that cannot.

    Every run with every other; of more than four runs each with the first, because nobody reads 36 columns.
    """
    pairs, apart = [], []
    for first, second in combinations(range(len(curves)), 2):
        if len(curves) > 4 and first > 0:
            break
        if reason := why_not(curves[first], curves[second]):
            apart.append((first, second, reason))
        else:
            pairs.append(_compare(curves, first, second, radii))
    return pairs, apart


def why_not(first: Curve, second: Curve) -> str | None:
    """Why two runs cannot be compared example by example; None if they can."""
    if first.unfinished or second.unfinished:
        return "not every example is certified yet"
    for key in ("dataset", "split"):
        names = {curve.settings.get(key) for curve in (first, second)} - {None}
        if len(names) > 1:
            return f"they are on {' and '.join(sorted(map(str, names)))}"
    here, there = common(first, second)
    if len(here) < 2:
        return f"they share {len(here)} examples"
    if disagree := int(np.sum(first.classes[here] != second.classes[there])):
        return f"of {len(here):,} common indices {disagree:,} have another label, so these are not the same examples"
    return None


def _compare(curves: Sequence[Curve], first: int, second: int, radii: Sequence[float]) -> Pair:
    both = (curves[first], curves[second])
    rows = common(*both)
    a, b = (curve.radii[part] for curve, part in zip(both, rows, strict=True))
    change = Change(mean(b - a), mean_is_zero(b - a)) if all(curve.has_acr for curve in both) else None
    changes = []
    for radius in radii:
        reached = [curve.reaches(radius)[part] for curve, part in zip(both, rows, strict=True)]
        changes.append(_accuracy_change(*reached) if all(curve.decides(radius) for curve in both) else None)
    return Pair(first, second, len(a), change, tuple(changes))


def common(first: Curve, second: Curve) -> tuple[Int[NDArray, " row"], Int[NDArray, " row"]]:
    """Rows of the examples that both hold, in the same order."""
    _, here, there = np.intersect1d(first.indices, second.indices, assume_unique=True, return_indices=True)
    return here, there


def _accuracy_change(in_a: Bool[NDArray, " example"], in_b: Bool[NDArray, " example"]) -> Change:
    gained, lost = int(np.sum(in_b & ~in_a)), int(np.sum(in_a & ~in_b))
    return Change(paired_difference(gained, lost, len(in_a)), shares_are_equal(gained, lost))


SHOWN = 8
"""Examples of each kind."""

KEPT = ("alpha", "samples", "p_lower", "one_class_radius", "invalid", "ends")
"""Numbers of every example that a report counts or averages."""

WHOLE = {"profile", "inner"}
"""What certificates through two halves hold, of which the report has a table."""

RADIUS = attrgetter("certificate.radius")


def gallery(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Examples of four kinds, at most `SHOWN` each, the most telling ones first, and of equal ones
    those that stand first; kinds without any are left out."""
    right = [record for record in records if record.correct]
    silent = [record for record in records if record.certificate.prediction is None]
    wrong = [record for record in records if not record.correct and record.certificate.prediction is not None]
    found = {
        "smallest certified radii": heapq.nsmallest(SHOWN, right, RADIUS),
        "certified as another class": heapq.nlargest(SHOWN, wrong, RADIUS),
        "abstentions": silent[:SHOWN],
        "largest radii": heapq.nlargest(SHOWN, right, RADIUS),
    }
    return {kind: shown for kind, shown in found.items() if shown}


def thinned(records: Sequence[Record]) -> list[Record]:
    """The same records; those outside of the gallery with the part of their evidence that a report reads."""
    whole = {record.index for shown in gallery(records).values() for record in shown}
    kept: dict[Any, Any] = {}  # equal numbers of many examples are one object
    return [record if record.index in whole else _thin(record, kept) for record in records]


def _thin(record: Record, kept: dict[Any, Any]) -> Record:
    proof = record.certificate
    if not WHOLE.isdisjoint(proof.evidence):
        return record
    told = {name: _one(proof.evidence[name], kept) for name in KEPT if name in proof.evidence}
    norm = kept.setdefault(proof.norm, proof.norm)
    thin = Certificate(proof.prediction, proof.radius, norm, _one(proof.confidence, kept), told)
    return Record(record.index, record.label, thin)


def _one(value: Any, kept: dict[Any, Any]) -> Any:
    return value if isinstance(value, list) else kept.setdefault((type(value), value), value)


def votes(evidence: Mapping[str, Any]) -> dict[str, int]:
    """How the noise samples voted, by class, most votes first; empty for a proof without sampling."""
    found = evidence.get("votes") or evidence.get("selection") or {}
    return dict(sorted(found.items(), key=lambda item: (-item[1], int(item[0]))))
