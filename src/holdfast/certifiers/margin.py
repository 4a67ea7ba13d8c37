"""Certificates of a classifier whose Lipschitz constants are proven: a margin cannot close faster than they allow.

Tsuzuku, Sato & Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018, https://arxiv.org/abs/1802.04034, Proposition 1,
with the constant of every pair of classes: Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021,
https://arxiv.org/abs/2102.08452, section 3.

    holdfast certify RUN margin
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.certificate import Certificate
from ..core.certifier import Certifier, Seed
from ..core.classifier import Classifier, LipschitzClassifier
from ..core.evidence import MarginEvidence
from ..core.threat import THREATS, Threat
from ..nn.lipschitz import LipschitzNet
from ..nn.lipschitz.compose import materialise, weights_hash
from ..nn.lipschitz.tightness import tightness


@dataclass(frozen=True)
class Margin(Certifier):
    """The distance below which no logit can catch up with the largest, for classifiers with proven constants.

    Serves every `LipschitzClassifier`, in its own norm. The classifier is copied to float64 with its weights made
    plain; that copy is bounded and run, and its hash is in the certificate. The float64 error of comparing
    logit_i - logit_j at two images is subtracted from its margins.

    Kernels of a processor may sum in another order for another batch size: margins then differ, by at most that error.
    """

    def require(self, classifier: Classifier) -> None:
        _proven(classifier)

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        proof = Proof.of(classifier)
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size].to(torch.float64, copy=True)  # the network may change its input
            logits = proof.network(part).cpu()
            found = proof.evidence(logits, proof.threat.diameter(part[0].numel()))
            yield from enumerate(map(proof.certificate, found), start)

    def cap(self) -> float:
        return math.inf

    def samples(self) -> int:
        return 1

    def explain(self, classifier: Classifier, x: Tensor) -> dict[str, Any]:
        """Where the bound of a `LipschitzNet` is slack; see `Tightness`."""
        return asdict(tightness(classifier, x)) if isinstance(classifier, LipschitzNet) else {}


def _proven(classifier: Classifier):  # inferred: a module that is a LipschitzClassifier
    if not isinstance(classifier, LipschitzClassifier) or not isinstance(classifier, nn.Module):
        raise ValueError(
            "margin needs a classifier with proven constants and rounding errors (norm, difference_constants and "
            f"difference_errors), such as liresnet-small or gloro-2c2f, got {type(classifier).__name__}; it "
            "computes in float64 whatever the precision is, so leave that at 32-true"
        )
    return classifier


@dataclass(frozen=True)
class Proof:
    """A float64 classifier and all that is proven about it, (class, class) each."""

    network: nn.Module
    threat: Threat
    constants: Tensor
    errors: Tensor
    program: str

    @classmethod
    def of(cls, classifier: Classifier) -> "Proof":
        network = materialise(_proven(classifier))
        constants = network.difference_constants().double().cpu()
        errors = network.difference_errors().double().cpu()
        for name, found in (("difference_constants", constants), ("difference_errors", errors)):
            if found.shape != constants.shape or not (found >= 0).all():
                raise ValueError(f"{name}() must return numbers >= 0 (class, class), got {found}")
        return cls(network, THREATS[network.norm], constants, errors, weights_hash(network))

    def evidence(self, logits: Tensor, largest: float) -> Iterator[MarginEvidence]:
        """From float64 logits (batch, class); no radius exceeds `largest`."""
        top = logits.argmax(1)
        margins = logits.gather(1, top[:, None]) - logits
        radii = (margins - self.errors[top]) / self.constants[top]
        radii.scatter_(1, top[:, None], math.inf)  # that class alone: an equal logit of another is a tie
        rival = radii.argmin(1)
        finite = torch.isfinite(logits).all(1)
        for row in range(len(logits)):
            i, j = int(top[row]), int(rival[row])
            yield MarginEvidence(
                threat=self.threat.name,
                prediction=i,
                rival=j,
                margin=float(margins[row, j]) if finite[row] else None,
                error=float(self.errors[i, j]),
                constant=float(self.constants[i, j]),
                diameter=largest,
                program=self.program,
            )

    def certificate(self, evidence: MarginEvidence) -> Certificate:
        """What follows from it."""
        claim = evidence.claim()
        return Certificate(claim.prediction, claim.radius, self.threat.name, 1.0, evidence.to_record())


DEFAULT = Margin()
