"""A curve: what was proven about the examples of one run, and what that says about the classifier.

certified accuracy(r) = share of examples that are classified correctly with a proven radius of at least r
ACR, the average certified radius = mean of the radius, counted as 0 where the prediction is wrong or missing

Cohen, Rosenfeld & Kolter, ICML 2019 (certified accuracy); Zhai et al., "MACER", ICLR 2020 (ACR).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from ..core.certificate import Record
from .estimate import Estimate, mean, share

SAMPLED = {"votes", "samples"}
"""Evidence that only sampling leaves."""

LEAST_DOUBT = 2.0**-53
"""What alpha is at most where it is not told and 1 - alpha is 1.0."""


@dataclass(frozen=True)
class Curve:
    """One certified run: its records and what is known about how they were made."""

    name: str
    records: Sequence[Record]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was certified, flat: sigma, n, alpha, dataset, every, ... Empty for a log, which does not say."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How the classifier was trained, as in run.json; empty where unknown."""
    explanation: Mapping[str, Any] = field(default_factory=dict)
    """What its certifier says about the classifier as a whole, such as the bounds of its layers; often empty."""
    total: int | None = None
    """Examples that the finished run has; None where unknown."""
    cap: float | None = None
    """The largest radius that the settings can prove; None where unknown or unlimited."""
    most_samples: int | None = None
    """The most samples that one example can take; None where unknown."""

    def __post_init__(self) -> None:
        if not self.records:
            raise ValueError(f"{self.name} holds no records; certify it first")
        norms = sorted({record.certificate.norm for record in self.records})
        if len(norms) > 1:
            raise ValueError(f"{self.name} mixes radii in the norms {' and '.join(norms)}; certify them apart")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def norm(self) -> str:
        """The norm of all its radii."""
        return self.records[0].certificate.norm

    @property
    def label(self) -> str:
        """The name, and how much of the run is there if not all of it."""
        return f"{self.name} ({len(self):,} of {self.total:,} examples)" if self.unfinished else self.name

    @cached_property
    def alpha(self) -> float | None:
        """The largest probability with which a certificate is wrong; None for deterministic proofs.

        What was sampled tells its alpha or its votes. Confidence alone does not: 1 - 1e-17 is 1.0.
        """
        proofs = [record.certificate for record in self.records]
        told = [float(value) for value in _values("alpha", [self.settings, *(proof.evidence for proof in proofs)])]
        doubt = max(1 - proof.confidence for proof in proofs)
        if not told and doubt == 0 and not any(SAMPLED & proof.evidence.keys() for proof in proofs):
            return None
        return max([doubt, *told]) or LEAST_DOUBT

    @cached_property
    def correct(self) -> Bool[NDArray, " example"]:
        """Whether each example is predicted correctly."""
        return np.array([record.correct for record in self.records])

    @cached_property
    def radii(self) -> Float[NDArray, " example"]:
        """Certified radius of each example, 0 where the prediction is wrong or missing."""
        return np.array([record.certificate.radius if record.correct else 0.0 for record in self.records])

    @cached_property
    def largest(self) -> float:
        """The largest radius with a correct prediction."""
        return float(self.radii.max())

    def reaches(self, radius: float) -> Bool[NDArray, " example"]:
        """Whether each example is predicted correctly with at least this radius."""
        return self.correct & (self.radii >= radius)

    def counts(self, radii: Float[NDArray, " radius"]) -> Int[NDArray, " radius"]:
        """Number of examples that reach each radius."""
        reached = np.sort(self.radii[self.correct])
        return len(reached) - np.searchsorted(reached, radii, side="left")

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

    @cached_property
    def given_radii(self) -> tuple[float, ...]:
        """The radii at which the run was decided, if only at given ones; empty if it has the largest proven radii."""
        return tuple(self.settings.get("r", ())) if self.settings.get("certifier") == "AtRadius" else ()

    @property
    def has_acr(self) -> bool:
        """Whether its radii are the largest proven ones, so that their mean says something."""
        kinds = [self.settings.get("certifier"), *_values("kind", [self.settings])]
        return "AtRadius" not in kinds

    def decides(self, radius: float) -> bool:
        """Whether certified accuracy at this radius was looked at; between given radii it was not."""
        return not self.given_radii or radius in self.given_radii

    @property
    def unfinished(self) -> bool:
        """Whether examples are missing. Which are there can depend on their votes: the easy ones are done first."""
        return self.total is not None and len(self) < self.total

    @property
    def samples(self) -> int | None:
        """Samples taken in all; None where the certificates do not count them."""
        taken = [record.certificate.evidence.get("samples") for record in self.records]
        counted = [int(count) for count in taken if count is not None]
        return sum(counted) if len(counted) == len(taken) else None

    @property
    def one_class_acr(self) -> Estimate | None:
        """ACR by the one-class bound of the literature, where a two-class certificate records it; otherwise None."""
        found = [record.certificate.evidence.get("one_class_radius") for record in self.records]
        radii = [float(radius) for radius in found if radius is not None]
        return mean(np.where(self.correct, radii, 0.0)) if len(radii) == len(found) else None

    @property
    def invalid(self) -> int:
        """Examples in which some noisy copies had logits that were NaN or infinite."""
        return sum(bool(record.certificate.evidence.get("invalid")) for record in self.records)


def _values(name: str, settings: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    """The values under a name, in settings that may hold settings of their own."""
    for part in settings:
        if part.get(name) is not None:
            yield part[name]
        yield from _values(name, (value for value in part.values() if isinstance(value, Mapping)))


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
