"""Certificates of a classifier whose Lipschitz constants are proven: a margin cannot close faster than they allow.

Tsuzuku, Sato & Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018, https://arxiv.org/abs/1802.04034, Proposition 1,
with the constant of every pair of classes: Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021,
https://arxiv.org/abs/2102.08452, section 3.

    holdfast certify RUN margin
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..bounds import l2, linf
from ..bounds.head import Head
from ..bounds.steps import Steps
from ..bounds.tightness import tightness
from ..core.certificate import OWN, Certificate, MarginEvidence
from ..core.certifier import Certifier, Classifier, Seed
from ..core.threat import THREATS, Threat
from ..nn.stored import captured, named_norm, program_of
from ..program import Program, capture_on_copy, refuse_difference
from ..program.program import Runner

DOMAINS = {"l2": l2, "linf": linf}
"""What proves constants, by the name of the threat."""


@dataclass(frozen=True)
class Margin(Certifier):
    """The distance below which no logit can catch up with the largest, for networks whose operations have a bound.

    The classifier is captured once as a program. Its float64 form is bounded and run, and its identity is in the
    certificate: hooks, layers used twice and code of one's own are in it as they run. The float64 error of comparing
    logit_i - logit_j at two images is subtracted from its margins.

    Kernels of a processor may sum in another order for another batch size: margins then differ, by at most that error.
    """

    threat: Literal["own", "l2", "linf"] = OWN
    """Norm of the radius; own: the `norm` that the network names, or l2."""

    def norm_of(self, classifier: Classifier) -> str:
        return (named_norm(classifier) or "l2") if self.threat == OWN else self.threat

    def bind(self, classifier: Classifier, x: Tensor) -> "Proof":
        return Proof.of(classifier, x, self.norm_of(classifier))

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        proof = self.bind(classifier, x)
        for start in range(0, len(x), batch_size):
            yield from enumerate(map(proof.certificate, proof.evidence(x[start : start + batch_size])), start)

    def cap(self) -> float:
        return math.inf

    def samples(self) -> int:
        return 1

    def explain(self, classifier: Classifier, x: Tensor) -> dict[str, Any]:
        """Where the constant of a network that is made for l2 is slack; see `Tightness`."""
        if named_norm(classifier) != "l2" or not isinstance(classifier, nn.Module):
            return {}
        return asdict(tightness(captured(classifier, tuple(x.shape[1:])), x))


@dataclass(frozen=True, eq=False)
class Proof:
    """A program in float64, as it runs, and all that is proven about it, (class, class) each."""

    head: Head
    network: Runner
    """Runs the program that `head` bounds."""
    threat: Threat
    program: str
    """Identity of the program as captured."""
    device: torch.device

    @classmethod
    @torch.inference_mode(False)
    def of(cls, classifier: Classifier, x: Tensor, norm: str) -> "Proof":
        """Capture a classifier for images like x; a proof is itself.

        Raises:
            ValueError: it cannot be captured, computes in few bits, or has an operation without a bound, which the
                message names with the line of code that it comes from.
        """
        if isinstance(classifier, Proof):
            return classifier
        if not isinstance(classifier, nn.Module):
            raise ValueError(f"expected a torch.nn.Module to bound, got {type(classifier).__name__}")
        if norm not in DOMAINS:
            raise ValueError(f"the network names its norm {norm!r}; constants are proven in {' and '.join(DOMAINS)}")
        own = program_of(classifier)
        program = own or capture_on_copy(classifier, tuple(x.shape[1:]))
        refuse_few_bits(program)
        if own is None:
            refuse_difference(program, classifier, x)
        with x.device:
            steps = Steps(program.to(x.device))
            steps.require(DOMAINS[norm].RULES)
            network = Runner(steps.program)
            refuse_another_precision(network, program, x)
            return cls(Head.of(steps), network, THREATS[norm], program.identity[:16], x.device)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits in float64, of images that stay as they are."""
        return self.network(x.double())

    @cached_property
    def constants(self) -> Tensor:
        """Lipschitz constants of differences of logits."""
        with self.device:
            return DOMAINS[self.threat.name].difference_constants(self.head).cpu()

    @cached_property
    def errors(self) -> Tensor:
        """How far float64 takes a comparison of such a difference at two images from the truth."""
        with self.device:
            return DOMAINS[self.threat.name].difference_errors(self.head).cpu()

    def evidence(self, x: Tensor) -> Iterator[MarginEvidence]:
        """Of images (batch, channel, height, width); no radius exceeds their largest distance.

        Raises:
            ValueError: what is proven of the network is beyond float64.
        """
        if not all(bounds.isfinite().all() for bounds in (self.constants, self.errors)):
            raise ValueError(
                "a number in the network is not finite, or becomes so in its bounds, which are too large for float64: "
                "nothing is proven"
            )
        logits = self(x).cpu()
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
                diameter=self.threat.diameter(x[row].numel()),
                program=self.program,
            )

    def certificate(self, evidence: MarginEvidence) -> Certificate:
        """What follows from it."""
        claim = evidence.claim()
        return Certificate(claim.prediction, claim.radius, self.threat.name, 1.0, evidence.to_record())


def refuse_few_bits(program: Program) -> None:
    """Its rounding is not in the bounds, which are about float64."""
    if program.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the network computes in {str(program.dtype).removeprefix('torch.')}, and its constants are proven for "
            "float64, in which it is certified whatever the precision is: leave that at 32-true, or call model.float()"
        )


@torch.no_grad()
def refuse_another_precision(network: Runner, program: Program, x: Tensor) -> None:
    """Refuse a program whose float64 form, which is proven, does not answer as it does itself: numbers overflow in it,
    or too few digits are left."""
    expected = program.to(torch.device("cpu"))(x.to("cpu", program.dtype)).double()
    finite = expected[expected.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    if not torch.allclose(network(x.double()).cpu(), expected, rtol=0, atol=1e-3 * scale, equal_nan=True):
        name = str(program.dtype).removeprefix("torch.")
        raise ValueError(
            f"in {name} the network answers otherwise than in float64, for which its constants are proven: a number "
            "in it overflows, vanishes or loses its digits"
        )


DEFAULT = Margin()
