"""Randomized smoothing at given radii: "is it certified at r?", answered with as few samples as possible.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, decided by
exact group-sequential boundaries (Lan & DeMets, "Discrete sequential boundaries for clinical trials", 1983; see
`holdfast.smoothing.sequential`). Most images are far from the boundary in question and need a few hundred samples.

    holdfast certify RUN at-radius --r 0.5
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..smoothing.radius_grid import RadiusBoundaries
from ..smoothing.sampling import Procedure, sample
from ..smoothing.sequential import looks
from ..smoothing.walk import boundaries, check, evidence, select, walk
from ..types import Certificate, Certifier, Classifier


@dataclass(frozen=True)
class AtRadius(Certifier):
    """l2 certificates at one radius, or at the largest that holds of several."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    r: tuple[float, ...] = (0.25,)
    """Increasing radii to decide, in pixel units; the certificate holds the largest that is certified."""
    n0: int = 100
    """Samples that select the class; never those that decide."""
    first: int = 100
    """Samples at the first look."""
    growth: float = 1.15
    """Factor between the samples of one look and the next."""
    n_max: int = 100_000
    """Samples after which an undecided example is given up."""
    alpha: float = 0.001
    """Probability that the certificate of an example is wrong, over all looks and radii together."""
    beta: float = 0.05
    """Probability, at most, that an image just at the radius is given up early; costs power, never soundness."""

    def __post_init__(self) -> None:
        check(self)
        self._boundaries()

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[int], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        return sample(classifier, x, seeds, self.sigma, self._procedure, batch_size)

    def cap(self) -> float:
        return max(self.r)

    def samples(self) -> int:
        return self.n0 + self.n_max

    def _procedure(self, seed: int) -> Procedure:
        selection = yield from select(self.n0)
        found = yield from walk(self._boundaries(), selection.top, lambda now: now.certified >= now.possible)
        return Certificate(
            prediction=selection.top if found.certified else None,
            radius=self.r[found.certified - 1] if found.certified else 0.0,
            norm="l2",
            confidence=1 - self.alpha,
            evidence=evidence(self, selection, found.votes, found.looks),
        )

    def _boundaries(self) -> RadiusBoundaries:
        radii = tuple(radius / self.sigma for radius in self.r)
        return boundaries(radii, self.alpha, looks(self.first, self.n_max, self.growth), self.beta)


DEFAULT = AtRadius()
