"""Certificates of l-inf-distance nets from interval bounds, over the box clipped to images in [0, 1].

Zhang, Jiang, He & Wang, "Boosting the Certified Robustness of L-infinity Distance Nets", ICLR 2022,
https://arxiv.org/abs/2110.06850: the protocol of their published numbers, at every radius instead of one. Clipping
makes it slightly better than `margin`; for a net with a perceptron on top it is much better. It is never worse.

    holdfast certify RUN linf-box
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linf import LInfDistNet
from ..lipschitz.compose import materialise
from ..types import Certificate, Certifier, Classifier
from .margin import Margin


@dataclass(frozen=True)
class LInfBox(Certifier):
    """The largest radius whose box has bounds that separate the predicted class from all others, by bisection."""

    steps: int = 20
    """Halvings of the interval from the radius of `margin` to 1; the radius is found to within 2^-steps."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[int], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        if not isinstance(classifier, LInfDistNet):
            raise ValueError(
                "linf-box needs a network of l-inf-distance neurons, such as linf-dist-1024x3, "
                f"got {type(classifier).__name__}; it computes in float64 whatever the precision is, so leave that at "
                "32-true"
            )
        network = materialise(classifier)
        errors = network.difference_errors()
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size]
            found = dict(Margin().certify_batch(network, part, seeds, batch_size))
            rows = [row for row, certificate in found.items() if certificate.prediction is not None]
            yield from ((start + row, found[row]) for row in found.keys() - set(rows))
            if rows:
                improved = self._improved(network, part[rows].double(), [found[row] for row in rows], errors)
                yield from ((start + row, better) for row, better in zip(rows, improved, strict=True))

    def cap(self) -> float:
        return 1.0

    def samples(self) -> int:
        return 1 + self.steps

    def _improved(
        self, network: LInfDistNet, x: Tensor, found: list[Certificate], errors: Tensor
    ) -> Iterator[Certificate]:
        label = torch.tensor([certificate.prediction for certificate in found], device=x.device)
        allowed = errors.to(x.device)[label].scatter(1, label[:, None], -math.inf)
        low = torch.tensor([certificate.radius for certificate in found], dtype=x.dtype, device=x.device)
        high = torch.ones_like(low)
        for _ in range(self.steps):
            middle = (low + high) / 2
            proven = _separated(network, x, middle, label, allowed)
            low, high = torch.where(proven, middle, low), torch.where(proven, high, middle)
        for certificate, radius in zip(found, (low * (1 - 2**-50)).tolist(), strict=True):
            yield self._certificate(certificate, max(certificate.radius, radius))

    def _certificate(self, start: Certificate, radius: float) -> Certificate:
        evidence = {"margin_radius": start.radius, "steps": self.steps, "weights": start.evidence["weights"]}
        return Certificate(start.prediction, radius, "linf", 1.0, evidence)


def _separated(network: LInfDistNet, x: Tensor, epsilon: Tensor, label: Tensor, allowed: Tensor) -> Tensor:
    """(batch,): the label's logit is above all others, by more than the rounding error, in the whole box."""
    shift = epsilon.view(-1, 1, 1, 1)
    margins = network.lower_margins((x - shift).clamp(0, 1), (x + shift).clamp(0, 1), label)
    return (margins > allowed).all(1)  # NaN is not


DEFAULT = LInfBox()
