"""Randomized smoothing by betting: a radius that is valid whenever one stops, and bounds the runner-up too.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, with the
confidence sequence of Voracek, "Treatment of statistical estimation problems in randomized smoothing", 2024,
Algorithm 2. n_max is a budget, not a part of the proof. `adaptive` needs fewer samples where n_max is fixed beforehand.

    holdfast certify RUN betting --two-class
"""

import math
from dataclasses import dataclass

from scipy.special import ndtri

from ..core.certifier import Seed
from ..smoothing.certifier import SequentialCertifier, Walk, select
from ..smoothing.evidence import BettingVotes, Procedure, betting_level, sequence_lower, sequence_upper
from ..smoothing.noise import less, more


@dataclass(frozen=True)
class Betting(SequentialCertifier):
    """Certificates by a confidence sequence, for the top class alone or for it and its runner-up."""

    tolerance: float = 0.05
    """Stop when the radius is known to this, in units of sigma."""
    two_class: bool = False
    """Bound the runner-up too, with alpha / 2 for either side: proves more where no class has half of the votes.
    Cohen et al., Theorem 1; Voracek (2024), appendix B."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be positive, in units of sigma, got {self.tolerance}")
        if not self.cap() > 0:
            raise ValueError(f"n_max = {self.n_max} samples at alpha = {self.alpha} can never certify anything")

    def cap(self) -> float:
        level, n, delta = betting_level(self.alpha, self.two_class), self.n_max, self.delta(0)
        p_lower = less(sequence_lower(n, n, level), delta)
        p_upper = more(sequence_upper(0, n, level), delta) if self.two_class else 1 - p_lower
        return self.noise.radius(p_lower, p_upper, self.sigma)

    def procedure(self, seed: Seed, numbers: int) -> Procedure:
        selection = yield from select(self.n0)
        votes, winner, rival = Walk(selection.top), (0.0, 1.0), (0.0, 1.0)
        for n in self.looks():
            yield from votes.look(n)
            winner, rival = self._narrow(winner, votes.counts[-1], n), self._narrow(rival, votes.rivals[-1], n)
            if self._known(winner, rival):
                break
        return BettingVotes(
            **self.settings(selection, votes, numbers), two_class=self.two_class, rivals=tuple(votes.rivals)
        )

    def _narrow(self, bounds: tuple[float, float], k: int, n: int) -> tuple[float, float]:
        """A bound that holds at every look at once may be taken at the best of them."""
        level = betting_level(self.alpha, self.two_class)
        return max(bounds[0], sequence_lower(k, n, level)), min(bounds[1], sequence_upper(k, n, level))

    def _known(self, winner: tuple[float, float], rival: tuple[float, float]) -> bool:
        """No radius is possible, or the radius is known to the tolerance."""
        if not self.two_class:
            return winner[1] < 0.5 or (winner[0] > 0.5 and ndtri(winner[1]) - ndtri(winner[0]) <= self.tolerance)
        width = (ndtri(winner[1]) - ndtri(winner[0]) + ndtri(rival[1]) - ndtri(rival[0])) / 2
        return winner[1] < rival[0] or (winner[0] > rival[1] and width <= self.tolerance)


DEFAULT = Betting()
