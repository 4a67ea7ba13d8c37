"""Randomized smoothing by betting: a radius that is valid whenever one stops, and bounds the best rival too.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, with the
confidence sequence of Voracek, "Treatment of statistical estimation problems in randomized smoothing", 2024,
Algorithm 2. n_max is a budget, not a part of the proof. `adaptive` needs fewer samples where n_max is fixed beforehand.

    holdfast certify RUN betting --two-class
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.special import ndtri
from torch import Tensor

from ..smoothing.betting import kt_lower, kt_upper
from ..smoothing.binomial import gaussian_radius, two_class_radius
from ..smoothing.sampling import Procedure, sample
from ..smoothing.sequential import looks
from ..smoothing.walk import Selection, add, check, evidence, select
from ..types import Certificate, Certifier, Classifier


@dataclass(frozen=True)
class Betting(Certifier):
    """l2 certificates by a confidence sequence, for the winner alone or for the winner and its best rival."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    tolerance: float = 0.05
    """Stop when the radius is known to this, in units of sigma."""
    n0: int = 100
    """Samples that select the class; never those that bound its probability."""
    first: int = 100
    """Samples at the first look."""
    growth: float = 1.15
    """Factor between the samples of one look and the next."""
    n_max: int = 100_000
    """Samples after which the radius proven so far is taken; may be anything, also raised later."""
    alpha: float = 0.001
    """Probability that the certificate of an example is wrong, over all looks together."""
    two_class: bool = False
    """Bound the best rival too, with alpha / 2 for either side: proves more where no class has half of the votes.
    Cohen et al., Theorem 1; Voracek (2024), appendix B."""

    def __post_init__(self) -> None:
        check(self)
        looks(self.first, self.n_max, self.growth)
        if not self.cap() > 0:
            raise ValueError(f"n_max = {self.n_max} samples at alpha = {self.alpha} can never certify anything")

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[int], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        return sample(classifier, x, seeds, self.sigma, self._procedure, batch_size)

    def cap(self) -> float:
        level, n = self._level(), self.n_max
        return self._radius(kt_lower(n, n, level), kt_upper(0, n, level))

    def samples(self) -> int:
        return self.n0 + self.n_max

    def _procedure(self, seed: int) -> Procedure:
        selection = yield from select(self.n0)
        votes: list[int] = []
        winner, rival, looked = (0.0, 1.0), (0.0, 1.0), 0
        while looked < len(self._looks()) and not self._known(winner, rival):
            votes = add(votes, (yield self._looks()[looked] - sum(votes)))
            winner = self._narrow(winner, votes[selection.top], sum(votes))
            others = votes[: selection.top] + votes[selection.top + 1 : -1]
            rival = self._narrow(rival, max(others), sum(votes))
            looked += 1
        return self._certificate(selection, winner[0], rival[1], evidence(self, selection, votes, looked))

    def _looks(self) -> tuple[int, ...]:
        return looks(self.first, self.n_max, self.growth)

    def _level(self) -> float:
        return self.alpha / 2 if self.two_class else self.alpha

    def _narrow(self, bounds: tuple[float, float], k: int, n: int) -> tuple[float, float]:
        """A bound that holds at every look at once may be taken at the best of them."""
        return max(bounds[0], kt_lower(k, n, self._level())), min(bounds[1], kt_upper(k, n, self._level()))

    def _radius(self, p_lower: float, p_upper: float) -> float:
        return (
            two_class_radius(p_lower, p_upper, self.sigma) if self.two_class else gaussian_radius(p_lower, self.sigma)
        )

    def _known(self, winner: tuple[float, float], rival: tuple[float, float]) -> bool:
        """No radius is possible, or the radius is known to the tolerance."""
        if not self.two_class:
            return winner[1] < 0.5 or (winner[0] > 0.5 and ndtri(winner[1]) - ndtri(winner[0]) <= self.tolerance)
        width = (ndtri(winner[1]) - ndtri(winner[0]) + ndtri(rival[1]) - ndtri(rival[0])) / 2
        return winner[1] < rival[0] or (winner[0] > rival[1] and width <= self.tolerance)

    def _certificate(self, selection: Selection, p_lower: float, p_upper: float, found: dict) -> Certificate:
        radius = self._radius(p_lower, p_upper)
        found["p_lower"] = p_lower
        if self.two_class:
            found |= {"p_upper": p_upper, "one_class_radius": gaussian_radius(p_lower, self.sigma)}
        return Certificate(
            prediction=selection.top if radius > 0 else None,
            radius=radius,
            norm="l2",
            confidence=1 - self.alpha,
            evidence=found,
        )


DEFAULT = Betting()
