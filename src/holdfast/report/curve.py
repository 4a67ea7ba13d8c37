"""A curve: what was proven about the examples of one run, and what that says about the classifier.

certified accuracy(r) = share of examples that are classified correctly with a proven radius of at least r
ACR, the average certified radius = mean of the radius, counted as 0 where the prediction is wrong or missing

Cohen, Rosenfeld & Kolter, ICML 2019 (certified accuracy); Zhai et al., "MACER", ICLR 2020 (ACR).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runs.certified import CertifiedRun
from .estimate import Estimate, mean, share


@dataclass(frozen=True)
class Curve(CertifiedRun):
    """A certified run with what it says about the distribution that its examples were drawn from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.records:
            raise ValueError(f"{self.name} holds no records; certify it first")

    def accuracy(self, radius: float) -> Estimate:
        """Certified accuracy at a radius, as a share, with its exact interval."""
        return share(int(self.reaches(radius).sum()), len(self))

    @property
    def acr(self) -> Estimate:
        """Average certified radius, in pixel units, with Student's interval."""
        return mean(self.radii)

    @property
    def abstentions(self) -> Estimate:
        """Share of examples without a prediction."""
        return share(sum(record.certificate.prediction is None for record in self.records), len(self))

    @property
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
