"""Two runs on exactly the examples that they share: paired differences, which are far sharper than two intervals.

Radii of two runs on the same images rise and fall together, so the difference of their means is known much better than
either mean. A difference is always the second run minus the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .curve import Curve
from .estimate import Estimate, mean, mean_is_zero, paired_difference, shares_are_equal


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
    here, there = ({record.index: record.label for record in curve.records} for curve in (first, second))
    shared = here.keys() & there.keys()
    if len(shared) < 2:
        return f"they share {len(shared)} examples"
    disagree = sum(here[index] != there[index] for index in shared)
    if disagree:
        return f"of {len(shared):,} common indices {disagree:,} have another label, so these are not the same examples"
    return None


def _compare(curves: Sequence[Curve], first: int, second: int, radii: Sequence[float]) -> Pair:
    both = (curves[first], curves[second])
    a, b = _aligned(*both)
    acr = _acr_change(a, b) if all(curve.has_acr for curve in both) else None
    decided = [all(curve.decides(radius) for curve in both) for radius in radii]
    changes = [_accuracy_change(a, b, radius) if is_in else None for radius, is_in in zip(radii, decided, strict=True)]
    return Pair(first, second, len(a), acr, tuple(changes))


def _aligned(first: Curve, second: Curve) -> tuple[Curve, Curve]:
    """Both curves on their common examples, in the same order."""
    here, there = ({record.index: record for record in curve.records} for curve in (first, second))
    shared = sorted(here.keys() & there.keys())
    return (
        Curve(first.name, [here[index] for index in shared]),
        Curve(second.name, [there[index] for index in shared]),
    )


def _acr_change(a: Curve, b: Curve) -> Change:
    return Change(mean(b.radii - a.radii), mean_is_zero(b.radii - a.radii))


def _accuracy_change(a: Curve, b: Curve, radius: float) -> Change:
    in_a, in_b = a.reaches(radius), b.reaches(radius)
    gained, lost = int(np.sum(in_b & ~in_a)), int(np.sum(in_a & ~in_b))
    return Change(paired_difference(gained, lost, len(a)), shares_are_equal(gained, lost))
