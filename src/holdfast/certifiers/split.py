"""Certificates of a classifier in two halves: smoothed behind, with a proven bound on how far the front can move.

Zhong & Tandon, "SPLITZ: Certifiable Robustness via Split Lipschitz Randomized Smoothing", IEEE TIFS 20, 2025,
https://arxiv.org/abs/2407.02811, Theorem 1, in two forms. Noise is added to the features z = left(x), and a sampling
certifier proves that no features nearer to z than R change the prediction (Cohen et al., 2019). Let rho be at least
max |left(x') - left(x)| over all x' within gamma of x. If rho < R then no x' within gamma changes the prediction: the
certificate is the largest such gamma that is found. The paper divides by a local Lipschitz constant L of the left half
on the same ball: min(R / L, gamma), which is the same with rho = L gamma and a weaker bound.

    holdfast certify RUN split
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ..bounds import l2
from ..bounds.affine import Bound
from ..bounds.local import RULES, local_bound
from ..bounds.steps import Steps
from ..core.certificate import Certificate
from ..core.certifier import Certifier, Classifier, Seed
from ..nn.split import SplitClassifier
from ..nn.stored import SplitProgram, program_of
from ..program import Program, capture, refuse_difference
from ..program.cut import prefixes
from ..program.program import Runner, hooked
from ..smoothing.certifier import SamplingCertifier, sample
from ..smoothing.evidence import SamplingEvidence, SplitEvidence
from .gaussian import Gaussian
from .margin import refuse_another_precision, refuse_few_bits


@dataclass(frozen=True)
class Split(Certifier):
    """l2 certificates in pixel units, from noise on the features between two halves of a classifier.

    The left half is captured once as a program, whose float64 form is bounded and runs once per image; the samples cost
    what the right half costs.
    """

    inner: SamplingCertifier = field(default_factory=Gaussian)
    """The sampling certifier of the right half; its sigma and radii are in units of the features."""
    form: Literal["reach", "ratio"] = "reach"
    """How the left half is bounded: how far it can move, or the local Lipschitz constant of the paper."""
    bisections: int = 12
    """Halvings of the interval in which the largest gamma lies; its lower end is the radius."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inner, SamplingCertifier):
            raise ValueError(f"split needs a certifier that samples, such as Gaussian(sigma=0.5), got {self.inner}")
        if self.inner.noise.threat != "l2":
            raise ValueError(
                f"split bounds movements in l2, and {self.inner.noise} proves {self.inner.noise.threat} radii"
            )
        if self.bisections < 0:
            raise ValueError(f"bisections must not be negative, got {self.bisections}")
        _ = self.drawing  # a step that suits no features is refused before any work

    @property
    def sampling(self) -> SamplingCertifier:
        return self.inner

    @property
    def drawing(self) -> SamplingCertifier:
        return self.inner.replace(noise=self.inner.noise.on_features(self.inner.sigma))

    def with_sampling(self, inner: SamplingCertifier) -> "Split":
        return self.replace(inner=inner)

    def require(self, classifier: Classifier) -> None:
        _in_two(classifier)
        self.inner.require(classifier)

    def norm_of(self, classifier: Classifier) -> str:
        return "l2"

    def bind(self, classifier: Classifier, x: Tensor) -> "Halves":
        return Halves.of(classifier, x)

    def smoothed_part(self, model: Classifier, x: Tensor) -> tuple[Tensor, Classifier]:
        if isinstance(model, Halves):
            return model.features(x), model.right
        model = _in_two(model)
        return model.features(x), partial(model, part="right")

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        halves = self.bind(classifier, x)
        features = torch.cat([halves.features(part) for part in x.split(batch_size)])
        noise, sigma = self.drawing.noise, self.inner.sigma
        for row, evidence in sample(halves.right, features, seeds, noise, sigma, self.inner.procedure, batch_size):
            yield row, self._in_pixels(evidence, halves, x[row], features[row])

    def cap(self) -> float:
        return math.inf

    def samples(self) -> int:
        return self.inner.samples()

    def _in_pixels(self, inner: SamplingEvidence, halves: "Halves", x: Tensor, z: Tensor) -> Certificate:
        """The certificate of an image, from the votes on its features."""
        rounding = halves.rounding(x, z)
        told = rounding if math.isfinite(rounding) else None
        everywhere = halves.everywhere.norm
        evidence = SplitEvidence(inner, told, self.form, global_constant=everywhere, program=halves.program)
        if evidence.allowed > 0:
            gamma, bound = self._radius(halves, x, evidence.allowed)
            evidence = evidence.replace(gamma=gamma, local_bound=bound, profile=halves.profile(x, gamma))
        claim = evidence.claim()
        return Certificate(claim.prediction, claim.radius, evidence.norm, evidence.confidence, evidence.to_record())

    def _radius(self, halves: "Halves", x: Tensor, allowed: float) -> tuple[float, float]:
        """The largest gamma found whose ball moves the features by less than allowed, and the bound on that move.

        The constant that holds everywhere gives the lower end to start from; a gamma replaces it once its own bound is
        proven. The bounds grow with gamma, so that bisection finds the largest; soundness does not rest on it.
        """
        most, constant = diagonal(x), halves.everywhere.norm
        low = min(most, allowed / constant * (1 - 2**-50)) if constant else most
        bound = allowed
        high = 2 * low
        while low < most and (found := self._bound(halves, x, min(high, most))) < allowed:
            low, bound, high = min(high, most), found, 2 * high
        high = min(high, most)
        for _ in range(self.bisections if low < most else 0):
            middle = (low + high) / 2
            if (found := self._bound(halves, x, middle)) < allowed:
                low, bound = middle, found
            else:
                high = middle
        return low, bound

    def _bound(self, halves: "Halves", x: Tensor, gamma: float) -> float:
        """How far the features of one image can move within gamma."""
        with x.device:
            region = local_bound(halves.left, x[None], gamma)
        return float(region.reach) if self.form == "reach" else float(region.constant) * gamma * (1 + 1e-12)


def _in_two(classifier: Classifier) -> SplitClassifier:
    if not isinstance(classifier, SplitClassifier):
        raise ValueError(
            f"split needs a SplitClassifier, such as lenet@conv1, got {type(classifier).__name__}; its left half "
            "computes in float64 whatever the precision is, so leave that at 32-true"
        )
    return classifier


class _Left(nn.Module):
    """What a classifier makes of images before the noise, with all that its call does to them."""

    def __init__(self, model: SplitClassifier) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.clone(), "left")


def _left_program(model: SplitClassifier, x: Tensor) -> tuple[Program, str]:
    """The left half as a program, which a classifier that was made of one has; and the path of its layers there."""
    if isinstance(model, SplitProgram) and not hooked(model) and (program := program_of(model.left)):
        refuse_few_bits(program)
        return program, "left."
    program = capture(left := _Left(model), tuple(x.shape[1:]))
    refuse_few_bits(program)
    refuse_difference(program, left, x)
    return program, "model.left."


@torch.no_grad()
@torch.no_grad()
def _refuse_another_whole(model: SplitClassifier, x: Tensor) -> None:
    whole, halves = model(x.clone()), model(model(x.clone(), "left"), "right")
    if whole.shape != halves.shape or not torch.allclose(whole, halves, 1e-2, 1e-2, equal_nan=True):
        raise ValueError("the classifier as a whole computes something else than its two halves, one after the other")


@dataclass(frozen=True, eq=False)
class Halves:
    """A left half as a program in float64, as it runs, and all that is proven about it; and the right half."""

    network: Runner
    """Runs the program that `left` bounds."""
    left: Steps
    parts: dict[str, Steps]
    """The left half up to each of its layers, by name."""
    everywhere: Bound
    """Of the left half, for all images."""
    right: Classifier
    program: str
    """Identity of the left half as captured."""

    @classmethod
    @torch.inference_mode(False)
    def of(cls, classifier: Classifier, x: Tensor) -> "Halves":
        """Capture the left half of a classifier for images like x; halves are themselves.

        Raises:
            ValueError: the classifier is not in two halves; or its left half cannot be captured, computes in few bits,
                or has an operation without a bound, which the message names with the line of code that it comes from.
                Or it computes something else than its right half does behind its left half.
        """
        if isinstance(classifier, Halves):
            return classifier
        model = _in_two(classifier)
        program, within = _left_program(model, x)
        with x.device:
            left = Steps(program.to(x.device))
            left.require(RULES.keys() | {"affine"})
            parts = {name: Steps(part) for name, part in prefixes(program.to(x.device), within).items()}
            everywhere = l2.network_bound(left)
            _refuse_another_whole(model, x)
            right = partial(model, part="right")
            network = Runner(left.program)
            refuse_another_precision(network, program, x)
            return cls(network, left, parts, everywhere, right, program.identity[:16])

    def __call__(self, x: Tensor) -> Tensor:
        return self.right(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the noise is added to, in the precision of x, which does not change."""
        return self.network(x.double()).to(x.dtype)

    def rounding(self, x: Tensor, z: Tensor) -> float:
        """How far apart computed features of two images can be beyond the true ones.

        For images of up to twice the diagonal of the pixel cube; z: the features, rounded to the precision of x.
        """
        error = 2 * diagonal(x) * self.everywhere.error + self.everywhere.error_offset
        farthest = float(z.double().norm()) + 2 * diagonal(x) * self.everywhere.norm
        return 2 * (error + farthest * torch.finfo(z.dtype).eps) * (1 + 1e-6)

    def profile(self, x: Tensor, gamma: float) -> dict[str, float]:
        """How far the image can move after each layer of the left half, as a multiple of gamma."""
        with x.device:
            return {name: float(local_bound(part, x[None], gamma).reach) / gamma for name, part in self.parts.items()}


def diagonal(image: Tensor) -> float:
    """The largest distance between two images: no radius beyond it means anything."""
    return math.sqrt(image.numel())


DEFAULT = Split()
