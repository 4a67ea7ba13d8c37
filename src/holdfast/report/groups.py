"""Runs that differ in nothing but their training seed, as one method: mean, standard deviation, differences.

Differences of two methods rest on a paired hierarchical bootstrap (Davison & Hinkley, "Bootstrap Methods and their
Application", 1997, section 3.8): training seeds are drawn again within each method, images are drawn again for both at
once. Of S seeds S - 1 are drawn, so that the variance of their mean is not underestimated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from .curve import Change, Curve, why_not
from .labels import titles, told
from .statistics import Estimate

DRAWS = 2000
"""Bootstrap samples; a p-value is no smaller than 1 / (DRAWS + 1)."""

CHUNK = 100
"""Samples that are drawn at once."""

SEEDS = {"training seed", "noise seed", "model"}


@dataclass(frozen=True)
class Group:
    """Several training seeds of one setting."""

    label: str
    members: tuple[int, ...]
    """Positions of the runs in the report, one for each training seed."""


@dataclass(frozen=True)
class GroupPair:
    """Second method minus first, on the examples that all their runs certified."""

    first: int
    """Position of the first group in the report."""
    second: int
    """Position of the second group in the report."""
    acr: Change | None
    """Difference in average certified radius, in pixel units; None where one has none."""
    accuracy: tuple[Change | None, ...]
    """Difference in certified accuracy at each radius of the report; None where one did not decide it."""


def groups(curves: Sequence[Curve]) -> list[Group]:
    """The settings that were trained with two seeds or more, and certified on the same examples."""
    found: dict[object, dict[object, int]] = {}
    for place, curve in enumerate(curves):
        facts = told(curve)
        if curve.recipe and "training seed" in facts and not curve.unfinished:
            same = sorted((key, repr(value)) for key, value in facts.items() if key not in SEEDS)
            examples = curve.indices.tobytes() + curve.classes.tobytes()
            found.setdefault((tuple(same), examples), {}).setdefault(facts["training seed"], place)
    several = [tuple(seeds.values()) for seeds in found.values() if len(seeds) > 1]
    labels = titles([curves[members[0]] for members in several], {"method", *SEEDS}) if several else []
    return [Group(label, members) for label, members in zip(labels, several, strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over training seeds."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


def compare_groups(curves: Sequence[Curve], found: Sequence[Group], radii: Sequence[float]) -> list[GroupPair]:
    """Each group with the first one, as far as they certified the same examples."""
    firsts = [curves[group.members[0]] for group in found]
    alike = [place for place in range(len(found)) if place == 0 or why_not(firsts[0], firsts[place]) is None]
    if len(alike) < 2:
        return []
    runs = [[curves[member] for member in found[place].members] for place in alike]
    shared = reduce(np.intersect1d, (part[0].indices for part in runs))
    values = [np.stack([_quantities(run, shared, radii) for run in part]) for part in runs]
    drawn = hierarchical_bootstrap(values)
    return [
        GroupPair(0, alike[at], *_changes((runs[0], runs[at]), (values[0], values[at]), drawn[at] - drawn[0], radii))
        for at in range(1, len(alike))
    ]


def _changes(
    runs: tuple[Sequence[Curve], Sequence[Curve]],
    values: tuple[Float[NDArray, "seed quantity example"], Float[NDArray, "other quantity example"]],
    draws: Float[NDArray, "quantity draw"],
    radii: Sequence[float],
) -> tuple[Change | None, tuple[Change | None, ...]]:
    """What a pair of groups says of ACR and of certified accuracy at each radius, where both decided it."""
    acr, *accuracy = changes(values[1].mean((0, 2)) - values[0].mean((0, 2)), draws)
    both = [run for part in runs for run in part]
    decided = [all(run.decides(radius) for run in both) for radius in radii]
    kept = tuple(change if is_in else None for change, is_in in zip(accuracy, decided, strict=True))
    return acr if all(run.has_acr for run in both) else None, kept


def _quantities(
    curve: Curve, shared: Int[NDArray, " example"], radii: Sequence[float]
) -> Float[NDArray, "quantity example"]:
    """The radius of every shared example, and whether it reaches each radius."""
    rows = np.searchsorted(curve.indices, shared)  # records are sorted by index
    return np.stack([curve.radii[rows], *(curve.reaches(radius)[rows].astype(float) for radius in radii)])


def hierarchical_bootstrap(
    groups: Sequence[Float[NDArray, "seed quantity example"]],
) -> list[Float[NDArray, "quantity draw"]]:
    """Means of every group over seeds and examples that are drawn again; the examples are the same for all groups.

    Args:
        groups: values of the runs of each method, at least two; examples in the same order.
    """
    rng, m = np.random.default_rng(0), groups[0].shape[2]
    drawn = [np.empty((group.shape[1], DRAWS)) for group in groups]
    for start in range(0, DRAWS, CHUNK):
        weights = np.stack([np.bincount(rng.integers(0, m, m), minlength=m) for _ in range(CHUNK)], axis=1) / m
        for group, found in zip(groups, drawn, strict=True):
            found[:, start : start + CHUNK] = _again(group @ weights, rng)
    return drawn


def _again(means: Float[NDArray, "seed quantity draw"], rng: np.random.Generator) -> Float[NDArray, "quantity draw"]:
    """The mean over seeds drawn again, all but one of them."""
    seeds, _, draws = means.shape
    chosen = rng.integers(0, seeds, (seeds - 1, draws))
    return means[chosen, :, np.arange(draws)].mean(0).T


def changes(difference: Float[NDArray, " quantity"], draws: Float[NDArray, "quantity draw"]) -> list[Change]:
    """Differences with a 95 % percentile interval and a two-sided p-value."""
    low, high = np.quantile(draws, (0.025, 0.975), axis=1)
    tails = np.minimum((draws <= 0).sum(1), (draws >= 0).sum(1))
    p = np.minimum(1, 2 * (tails + 1) / (DRAWS + 1))
    rows = zip(difference, low, high, p, strict=True)
    return [Change(Estimate(float(d), float(lo), float(hi)), float(prob)) for d, lo, hi, prob in rows]
