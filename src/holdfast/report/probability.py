"""How sure a smoothed classifier is: the proven lower bounds on the probability of its top class, over examples.

Sun et al., "Average Certified Radius is a Poor Metric for Randomized Smoothing", 2025,
https://arxiv.org/abs/2410.06895, ask for this distribution beside or instead of the average certified radius.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from ..core.config import rich
from ..smoothing.noise import Noise
from .curve import Curve

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
