"""Randomized smoothing at given radii: "is it certified at r?", answered with as few samples as possible.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, decided by
exact group-sequential boundaries (Lan & DeMets, "Discrete sequential boundaries for clinical trials", 1983; see
`holdfast.smoothing.statistics.sequential`). Most images are far from the boundary in question and need a few hundred
samples.

    holdfast certify RUN at-radius --r 0.5
"""

from dataclasses import dataclass

from ..core.certifier import Seed
from ..smoothing.certifier import SequentialCertifier
from ..smoothing.evidence import Procedure, RadiusVotes, boundaries
from ..smoothing.statistics.radius_grid import RadiusBoundaries
from ..smoothing.walk import select, walk


@dataclass(frozen=True)
class AtRadius(SequentialCertifier):
    """Certificates at one radius, or at the largest that holds of several."""

    r: tuple[float, ...] = (0.25,)
    """Increasing radii to decide, in pixel units; the certificate holds the largest that is certified."""
    beta: float = 0.05
    """Probability, at most, that an image just at the radius is given up early; costs power, never soundness."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tests(self.delta(0))

    def cap(self) -> float:
        return max(self.r)

    def procedure(self, seed: Seed, numbers: int) -> Procedure:
        selection, tests = (yield from select(self.n0)), self._tests(self.delta(numbers))
        votes = yield from walk(tests, selection.top, lambda now: now.certified >= now.possible)
        return RadiusVotes(**self.settings(selection, votes, numbers), beta=self.beta, r=self.r)

    def _tests(self, delta: float) -> RadiusBoundaries:
        return boundaries(self.noise, self.sigma, delta, self.r, self.alpha, self.looks(), self.beta)


DEFAULT = AtRadius()
