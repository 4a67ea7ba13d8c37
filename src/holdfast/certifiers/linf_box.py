"""l-inf certificates from interval bounds, over the box clipped to images in [0, 1].

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

from ..bounds import box
from ..core.certificate import BoxEvidence, Certificate, MarginEvidence
from ..core.certifier import Certifier, Classifier, Seed
from .margin import Proof


@dataclass(frozen=True)
class LInfBox(Certifier):
    """The largest radius whose box has bounds that separate the predicted class from all others, by bisection."""

    steps: int = 20
    """Halvings of the interval from the radius of `margin` to 1; the radius is found to within 2^-steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def norm_of(self, classifier: Classifier) -> str:
        return "linf"

    def bind(self, classifier: Classifier, x: Tensor) -> Proof:
        proof = Proof.of(classifier, x, self.norm_of(classifier))
        proof.head.steps.require(box.RULES)
        return proof

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        proof = self.bind(classifier, x)
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size].double()
            found = list(proof.evidence(part))
            rows = [row for row, evidence in enumerate(found) if evidence.claim().prediction is not None]
            radii = self._improved(proof, part[rows], [found[row] for row in rows]) if rows else []
            improved = dict(zip(rows, radii, strict=True))
            for row, evidence in enumerate(found):
                yield start + row, self._certificate(evidence, improved.get(row, 0.0))

    def cap(self) -> float:
        return 1.0

    def samples(self) -> int:
        return 1 + self.steps

    def _improved(self, proof: Proof, x: Tensor, found: list[MarginEvidence]) -> list[float]:
        """Radii from those of `margin` on, by bisection."""
        label = torch.tensor([evidence.prediction for evidence in found], device=x.device)
        low = torch.tensor([evidence.claim().radius for evidence in found], dtype=x.dtype, device=x.device)
        high = torch.ones_like(low)
        for _ in range(self.steps):
            middle = (low + high) / 2
            proven = _separated(proof, x, middle, label)
            low, high = torch.where(proven, middle, low), torch.where(proven, high, middle)
        return (low * (1 - 2**-50)).tolist()

    def _certificate(self, start: MarginEvidence, radius: float) -> Certificate:
        evidence = BoxEvidence(start, self.steps, radius)
        claim = evidence.claim()
        return Certificate(claim.prediction, claim.radius, evidence.norm, 1.0, evidence.to_record())


def _separated(proof: Proof, x: Tensor, epsilon: Tensor, label: Tensor) -> Tensor:
    """(batch,): the label's logit is above all others, true and computed, in the whole box."""
    shift = epsilon.view(-1, 1, 1, 1)
    with proof.device:
        margins = box.lower_margins(proof.head, (x - shift).clamp(0, 1), (x + shift).clamp(0, 1), label)
    return (margins.scatter(1, label[:, None], math.inf) > 0).all(1)  # NaN is not


DEFAULT = LInfBox()
