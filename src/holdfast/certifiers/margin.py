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

from ..lipschitz import LipschitzNet
from ..lipschitz.compose import materialise, weights_hash
from ..lipschitz.tightness import tightness
from ..types import Certificate, Certifier, Classifier, LipschitzClassifier, Norm


@dataclass(frozen=True)
class Margin(Certifier):
    """The distance below which no logit can catch up with the largest, for classifiers with proven constants.

    Serves every `LipschitzClassifier`, in its own norm. The classifier is copied to float64 with its weights made
    plain; that copy is bounded and run, and its hash is in the certificate. A classifier that also has a method
    `difference_errors() -> (class, class)`, the float64 error of comparing logit_i - logit_j at two images, has it
    subtracted from its margins.

    Kernels of a processor may sum in another order for another batch size: margins then differ, by at most that error.
    """

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[int], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        proof = _Proof.of(classifier)
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size].to(torch.float64, copy=True)  # the network may change its input
            logits = proof.network(part).cpu()
            yield from enumerate(proof.certificates(logits, diameter(part[0], proof.norm)), start)

    def cap(self) -> float:
        return math.inf

    def samples(self) -> int:
        return 1

    def explain(self, classifier: Classifier, x: Tensor) -> dict[str, Any]:
        """Where the bound of a `LipschitzNet` is slack; see `Tightness`."""
        return asdict(tightness(classifier, x)) if isinstance(classifier, LipschitzNet) else {}


def diameter(image: Tensor, norm: Norm) -> float:
    """The largest distance between two images: no radius beyond it means anything."""
    return {"linf": 1.0, "l2": math.sqrt(image.numel()), "l1": float(image.numel())}[norm]


@dataclass(frozen=True)
class _Proof:
    """A float64 classifier and all that is proven about it, (class, class) each."""

    network: nn.Module
    norm: Norm
    constants: Tensor
    errors: Tensor
    weights: str

    @classmethod
    def of(cls, classifier: Classifier) -> "_Proof":
        if not isinstance(classifier, LipschitzClassifier) or not isinstance(classifier, nn.Module):
            raise ValueError(
                "margin needs a classifier with proven constants (norm and difference_constants), such as "
                f"liresnet-small or gloro-2c2f, got {type(classifier).__name__}; it computes in float64 whatever the "
                "precision is, so leave that at 32-true"
            )
        network = materialise(classifier)
        constants = network.difference_constants().double().cpu()
        errors = getattr(network, "difference_errors", lambda: torch.zeros_like(constants))()
        return cls(network, network.norm, constants, errors.double().cpu(), weights_hash(network))

    def certificates(self, logits: Tensor, largest: float) -> Iterator[Certificate]:
        """From float64 logits (batch, class); no radius exceeds `largest`."""
        top = logits.argmax(1)
        margins = logits.gather(1, top[:, None]) - logits
        proven = margins - self.errors[top]
        radii = torch.where(proven > 0, proven / self.constants[top], 0.0)
        radii[~torch.isfinite(logits).all(1)] = 0.0
        radii.scatter_(1, top[:, None], math.inf)  # that class alone: an equal logit of another is a tie
        radius, rival = radii.min(1)
        radius = (radius * (1 - 2**-50)).clamp(max=largest)
        for row in range(len(logits)):
            yield self._certificate(int(top[row]), int(rival[row]), float(radius[row]), margins[row])

    def _certificate(self, top: int, rival: int, radius: float, margins: Tensor) -> Certificate:
        if not radius > 0:  # NaN is not
            return Certificate(None, 0.0, self.norm, 1.0, {"weights": self.weights})
        evidence = {
            "rival": rival,
            "margin": float(margins[rival]),
            "error": float(self.errors[top, rival]),
            "constant": float(self.constants[top, rival]),
            "weights": self.weights,
        }
        return Certificate(top, radius, self.norm, 1.0, evidence)


DEFAULT = Margin()
