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
from torch import Tensor

from ..core.certificate import Certificate
from ..core.certifier import Certifier, Seed
from ..core.classifier import Classifier
from ..nn.lipschitz.compose import materialise, network_bound
from ..nn.lipschitz.local import local_bound
from ..nn.split import SplitClassifier
from ..smoothing.certifier import SamplingCertifier
from ..smoothing.engine import sample
from ..smoothing.evidence import SamplingEvidence, SplitEvidence
from .gaussian import Gaussian


@dataclass(frozen=True)
class Split(Certifier):
    """l2 certificates in pixel units, from noise on the features between two halves of a classifier.

    The left half is copied to float64 and runs once per image; the samples cost what the right half costs.
    """

    inner: SamplingCertifier = field(default_factory=Gaussian)
    """The sampling certifier of the right half; its sigma and radii are in units of the features."""
    form: Literal["reach", "ratio"] = "reach"
    """How the left half is bounded: how far it can move, or the local Lipschitz constant of the paper."""
    bisections: int = 12
    """Halvings of the interval in which the largest gamma lies; its lower end is the radius."""

    def __post_init__(self) -> None:
        if not isinstance(self.inner, SamplingCertifier):
            raise ValueError(f"split needs a certifier that samples, such as Gaussian(sigma=0.5), got {self.inner}")
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
        _halves(classifier)

    def smoothed_part(self, model: Classifier, x: Tensor) -> tuple[Tensor, Classifier]:
        model = _halves(model)
        return model.features(x), lambda z: model(z, "right")

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        proof = _Proof.of(_halves(classifier), x, self.form)
        features = torch.cat([proof.features(part) for part in x.split(batch_size)])
        right = partial(_halves(classifier), part="right")
        noise, sigma = self.drawing.noise, self.inner.sigma
        for row, evidence in sample(right, features, seeds, noise, sigma, self.inner.procedure, batch_size):
            yield row, self._in_pixels(evidence, proof, x[row], features[row])

    def cap(self) -> float:
        return math.inf

    def samples(self) -> int:
        return self.inner.samples()

    def _in_pixels(self, inner: SamplingEvidence, proof: "_Proof", x: Tensor, z: Tensor) -> Certificate:
        """The certificate of an image, from the votes on its features."""
        rounding = proof.rounding(x, z) if z.isfinite().all() else 0.0  # without votes nothing is claimed
        evidence = SplitEvidence(inner, rounding, self.form, global_constant=proof.constant)
        if evidence.allowed > 0:
            gamma, bound = proof.radius(x, evidence.allowed, self.bisections)
            evidence = evidence.replace(gamma=gamma, local_bound=bound, profile=proof.profile(x, gamma))
        claim = evidence.claim()
        return Certificate(claim.prediction, claim.radius, evidence.norm, evidence.confidence, evidence.to_record())


def _halves(classifier: Classifier) -> SplitClassifier:
    if not isinstance(classifier, SplitClassifier):
        raise ValueError(
            f"split needs a SplitClassifier, such as lenet@conv1, got {type(classifier).__name__}; its left half "
            "computes in float64 whatever the precision is, so leave that at 32-true"
        )
    return classifier


@dataclass(frozen=True)
class _Proof:
    """A left half in float64, and what is proven about it everywhere."""

    left: torch.nn.Module
    form: Literal["reach", "ratio"]
    constant: float
    error: float
    error_offset: float

    @classmethod
    def of(cls, classifier: SplitClassifier, x: Tensor, form: Literal["reach", "ratio"]) -> "_Proof":
        left = materialise(classifier.left)
        found = network_bound(left, tuple(x.shape[1:]))
        return cls(left, form, found.norm, found.error, found.error_offset)

    def features(self, x: Tensor) -> Tensor:
        """What the noise is added to, in the precision of x, which does not change."""
        return self.left(x.to(torch.float64, copy=True)).to(x.dtype)

    def rounding(self, x: Tensor, z: Tensor) -> float:
        """How far apart computed features of two images can be beyond the true ones.

        For images of up to twice the diagonal of the pixel cube; z: the features, rounded to the precision of x.
        """
        error = 2 * diagonal(x) * self.error + self.error_offset
        farthest = float(z.double().norm()) + 2 * diagonal(x) * self.constant
        return 2 * (error + farthest * torch.finfo(z.dtype).eps) * (1 + 1e-6)

    def radius(self, x: Tensor, allowed: float, bisections: int) -> tuple[float, float]:
        """The largest gamma found whose ball moves the features by less than allowed, and the bound on that move.

        The constant that holds everywhere gives the lower end to start from; a gamma replaces it once its own bound is
        proven. The bounds grow with gamma, so that bisection finds the largest; soundness does not rest on it.
        """
        most = diagonal(x)
        low = min(most, allowed / self.constant * (1 - 2**-50)) if self.constant else most
        bound = allowed
        high = 2 * low
        while low < most and (found := self.bound(x, min(high, most))) < allowed:
            low, bound, high = min(high, most), found, 2 * high
        high = min(high, most)
        for _ in range(bisections if low < most else 0):
            middle = (low + high) / 2
            if (found := self.bound(x, middle)) < allowed:
                low, bound = middle, found
            else:
                high = middle
        return low, bound

    def profile(self, x: Tensor, gamma: float) -> dict[str, float]:
        """How far the image can move after each layer of the left half, as a multiple of gamma."""
        names = [name for name, _ in self.left.named_children()]
        parts = [self.left[: count + 1] for count in range(len(names))]  # pyright: ignore[reportIndexIssue]
        reaches = [float(local_bound(part, x[None].to(torch.float64, copy=True), gamma).reach) for part in parts]
        return {name: reach / gamma for name, reach in zip(names, reaches, strict=True)}

    def bound(self, x: Tensor, gamma: float) -> float:
        """How far the features of one image can move within gamma."""
        region = local_bound(self.left, x[None].to(torch.float64, copy=True), gamma)
        return float(region.reach) if self.form == "reach" else float(region.constant) * gamma * (1 + 1e-12)


def diagonal(image: Tensor) -> float:
    """The largest distance between two images: no radius beyond it means anything."""
    return math.sqrt(image.numel())


DEFAULT = Split()
