"""What is proven about an image, and about an example of a data set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Context
from typing import Any

from .threat import THREATS


@dataclass(frozen=True)
class Certificate:
    """What is proven about one input: no perturbation smaller than `radius` changes `prediction`."""

    prediction: int | None
    """The class, or None when the certifier abstains."""
    radius: float
    """Proven radius in the unit of the threat model, for all of ours pixels of [0, 1] images; rounded down; 0.0 when
    abstaining."""
    norm: str
    """Name of the threat model: "l2", "linf", ... (`holdfast.core.threat`)."""
    confidence: float
    """Probability that the statement is true: 1.0 for a deterministic proof, 1 - alpha for sampling."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Every number needed to compute the radius again; values that JSON can hold."""

    def __str__(self) -> str:
        """In words, with the radius rounded down to four digits."""
        if self.prediction is None:
            return "abstains"
        radius = Context(prec=4, rounding=ROUND_FLOOR).create_decimal_from_float(self.radius)
        unit = THREATS[self.norm].unit
        return f"class {self.prediction}, radius {radius:f} in {self.norm} ({unit}), confidence {self.confidence!r}"

    def __post_init__(self) -> None:
        if not 0 <= self.radius < math.inf:
            raise ValueError(f"a radius is finite and not negative, got {self.radius}")
        if self.prediction is None and self.radius > 0:
            raise ValueError(f"an abstention has radius 0, got {self.radius}")
        if not 0 < self.confidence <= 1:
            raise ValueError(f"a confidence lies in (0, 1], got {self.confidence}")


@dataclass(frozen=True)
class Record:
    """One certified example of a data set."""

    index: int
    """Position of the example in its data set."""
    label: int
    certificate: Certificate

    @property
    def correct(self) -> bool:
        """The prediction is the label (an abstention is not)."""
        return self.certificate.prediction == self.label
