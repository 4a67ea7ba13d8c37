"""Runs that differ in nothing but their training seed, as one method: mean, standard deviation, differences.

Differences of two methods rest on a paired hierarchical bootstrap (Davison & Hinkley, "Bootstrap Methods and their
Application", 1997, section 3.8): training seeds are drawn again within each method, images are drawn again for both at
once. Of S seeds S - 1 are drawn, so that the variance of their mean is not underestimated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from .curve import Change, Curve, why_not
from .labels import titles, told
from .statistics import Estimate

DRAWS = 2000
"""Bootstrap samples; a p-value is no smaller than 1 / (DRAWS + 1)."""

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
            examples = hash(tuple((record.index, record.label) for record in curve.records))
            found.setdefault((tuple(same), examples), {}).setdefault(facts["training seed"], place)
    several = [tuple(seeds.values()) for seeds in found.values() if len(seeds) > 1]
    labels = titles([curves[members[0]] for members in several], {"method", *SEEDS}) if several else []
    return [Group(label, members) for label, members in zip(labels, several, strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over training seeds."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


def compare_groups(curves: Sequence[Curve], found: Sequence[Group], radii: Sequence[float]) -> list[GroupPair]:
    """Each group with the first one, as far as they certified the same examples."""
    pairs = []
    for second in range(1, len(found)):
        ours, theirs = ([curves[place] for place in found[i].members] for i in (0, second))
        if why_not(ours[0], theirs[0]) is None:
            pairs.append(_compare(ours, theirs, second, radii))
    return pairs


def _compare(ours: Sequence[Curve], theirs: Sequence[Curve], second: int, radii: Sequence[float]) -> GroupPair:
    both = (*ours, *theirs)
    common = sorted(set.intersection(*({record.index for record in run.records} for run in both)))
    first, other = (np.stack([_quantities(run, common, radii) for run in runs]) for runs in (ours, theirs))
    changes = hierarchical_bootstrap(first, other)
    acr = changes[0] if all(run.has_acr for run in both) else None
    decided = (all(run.decides(radius) for run in both) for radius in radii)
    return GroupPair(0, second, acr, tuple(c if is_in else None for c, is_in in zip(changes[1:], decided, strict=True)))


def _quantities(curve: Curve, common: Sequence[int], radii: Sequence[float]) -> Float[NDArray, "quantity example"]:
    """The radius of every common example, and whether it reaches each radius."""
    place = {record.index: row for row, record in enumerate(curve.records)}
    rows = [place[index] for index in common]
    return np.stack([curve.radii[rows], *(curve.reaches(radius)[rows].astype(float) for radius in radii)])


def hierarchical_bootstrap(
    first: Float[NDArray, "seed quantity example"], second: Float[NDArray, "other quantity example"]
) -> list[Change]:
    """Second minus first for every quantity, with a 95 % percentile interval and a two-sided p-value.

    Args:
        first: values of the runs of one method, at least two; examples in the order of those of `second`.
    """
    rng, m = np.random.default_rng(0), first.shape[2]
    draws = np.empty((DRAWS, first.shape[1]))
    for start in range(0, DRAWS, 100):
        weights = rng.multinomial(m, np.full(m, 1 / m), 100).T / m
        means = [part @ weights for part in (first, second)]
        picked = [_again(part, rng) for part in means]
        draws[start : start + 100] = (picked[1] - picked[0]).T
    value = second.mean((0, 2)) - first.mean((0, 2))
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    tails = np.minimum((draws <= 0).sum(0), (draws >= 0).sum(0))
    p = np.minimum(1, 2 * (tails + 1) / (DRAWS + 1))
    return [Change(Estimate(*map(float, row[:3])), float(row[3])) for row in zip(value, low, high, p, strict=True)]


def _again(means: Float[NDArray, "seed quantity draw"], rng: np.random.Generator) -> Float[NDArray, "quantity draw"]:
    """The mean over seeds drawn again, all but one of them."""
    seeds, _, draws = means.shape
    chosen = rng.integers(0, seeds, (seeds - 1, draws))
    return means[chosen, :, np.arange(draws)].mean(0).T
