"""Evidence: the numbers that a certificate rests on, and the claim that follows from them.

The certifier and everybody who checks it later call the same `claim`: a radius is never stored without what it follows
from, and one that does not follow is found on reading.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

from .certificate import Certificate
from .config import Config
from .registry import KINDS, unknown

TOLERANCE = 1e-9
"""Relative difference that another version of a special function may make."""


class Claim(NamedTuple):
    """What evidence proves."""

    prediction: int | None
    radius: float


@dataclass(frozen=True)
class Evidence(Config):
    """Base: counts or margins, with the settings that turn them into a radius."""

    @abstractmethod
    def claim(self) -> Claim | None:
        """The class and the radius that follow; None where that cannot be told without the model."""

    def derived(self) -> dict[str, Any]:
        """Numbers on the way to the radius that a reader wants to see; recomputed and compared on reading."""
        return {}

    def to_record(self) -> dict[str, Any]:
        """What a certificate stores; values that JSON can hold."""
        return self.to_dict() | self.derived()

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_record`.

        Raises:
            ValueError: a derived number does not follow from the others, or a field is unknown, missing or impossible.
        """
        kind = KINDS[data.get("kind", cls.kind())]
        known = {field.name for field in fields(kind)} | {"kind"}  # pyright: ignore[reportArgumentType]
        found = cls.from_dict({name: value for name, value in data.items() if name in known})
        derived = found.derived()
        for name in data.keys() - known:
            if name not in derived:
                raise unknown(f"number of {type(found).__name__}", name, known | derived.keys())
            if not _close(data[name], derived[name]):
                raise ValueError(f"{name} is {data[name]!r}, but {derived[name]!r} follows from the other numbers")
        return found


@dataclass(frozen=True)
class MarginEvidence(Evidence):
    """Of a classifier with proven constants: by how much its top class leads, and how fast that can change."""

    prediction: int
    rival: int
    """The class that could overtake first."""
    margin: float | None
    """logit_prediction - logit_rival, in float64; None where a logit is not finite."""
    error: float
    """How far rounding can take the comparison of that margin at two images from the truth."""
    constant: float
    """A proven Lipschitz constant of the margin."""
    diameter: float
    """The largest distance between two images: no radius exceeds it."""
    program: str
    """Identity of the float64 network that was bounded and run. Its constants cannot be checked without it."""

    def claim(self) -> Claim:
        if self.margin is None or not self.margin > self.error:
            return Claim(None, 0.0)
        radius = (self.margin - self.error) / self.constant * (1 - 2**-50) if self.constant else math.inf
        return Claim(self.prediction, min(radius, self.diameter))


@dataclass(frozen=True)
class BoxEvidence(Evidence):
    """Of interval bounds: the radius that bisection found. It cannot be checked without the model."""

    margin: MarginEvidence
    """Where bisection started."""
    steps: int

    def claim(self) -> Claim | None:
        start = self.margin.claim()
        return start if start.prediction is None else None


OLD: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Evidence | None]] = {}
"""By the kind of certifier: from its settings and the evidence that versions before 0.2 stored, the evidence of today;
None where these did not keep enough."""

CONTEXT = {"seed", "index"}
"""What `certify` notes beside evidence, and no radius depends on."""


def evidence_of(certifier: Mapping[str, Any], data: Mapping[str, Any]) -> Evidence | None:
    """The evidence that a certificate stores; None where an older version did not store enough.

    Args:
        certifier: settings of the certifier of the run; needed for older records only.
        data: as in the certificate.

    Raises:
        ValueError: the numbers contradict each other, or are none.
    """
    kept = {name: value for name, value in data.items() if name not in CONTEXT}
    try:
        if "kind" in kept:
            return Evidence.from_record(kept)
        reader = OLD.get(str(certifier.get("kind")))
        return reader(certifier, kept) if reader and kept else None
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"the evidence is none ({error!r}); was it edited?") from error


def check(certificate: Certificate, evidence: Evidence) -> bool:
    """Whether a certificate follows from its evidence; False where that cannot be told without the model.

    Raises:
        ValueError: it does not follow; both claims are named.
    """
    claim = evidence.claim()
    if claim is None:
        return False
    if claim.prediction != certificate.prediction or not _close(claim.radius, certificate.radius):
        raise ValueError(
            f"it claims class {certificate.prediction} with radius {certificate.radius!r}, but from its evidence "
            f"follows class {claim.prediction} with radius {claim.radius!r}"
        )
    return True


def _close(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=1e-15)
    return type(found) is type(expected) and found == expected
