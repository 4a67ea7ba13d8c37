"""Classifiers in two halves: how far the left half can move layer by layer, and which radius each part gives.

Zhong & Tandon, "SPLITZ", IEEE TIFS 2025, https://arxiv.org/abs/2407.02811, look at layers to choose where to split.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .curve import Curve
from .notes import LETTERS
from .table import Table

Number = Callable[[Mapping[str, Any]], float]


def halves(curves: Sequence[Curve]) -> list[Table]:
    """A table for every run that was certified through two halves."""
    found = [
        _table(letter, evidence)
        for letter, curve in zip(LETTERS, curves, strict=False)
        if (evidence := [r.certificate.evidence for r in curve.records if "profile" in r.certificate.evidence])
    ]
    return found


def _table(letter: str, evidence: Sequence[Mapping[str, Any]]) -> Table:
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
