"""A sampling certifier: Hoeffding's bound, weaker than that of Clopper and Pearson and a line to write down.

W. Hoeffding, "Probability Inequalities for Sums of Bounded Random Variables", JASA 58, 1963, Theorem 1.

    holdfast certify RUN hoeffding --n 10000
"""

import math
from dataclasses import dataclass
from typing import Any

from holdfast import SamplingCertifier
from holdfast.core.certificate import Claim
from holdfast.core.certifier import Seed
from holdfast.smoothing.evidence import Procedure, SamplingEvidence, less, sparse


@dataclass(frozen=True)
class HoeffdingVotes(SamplingEvidence):
    """Votes of n samples, and the bound that follows from them."""

    n: int

    @property
    def p_lower(self) -> float:
        """At most the probability of the top class, but with probability alpha."""
        share = self.votes.get(str(self.top), 0) / self.n
        return less(max(0.0, share - math.sqrt(-math.log(self.alpha) / (2 * self.n)) - 1e-12), self.delta)

    def claim(self) -> Claim:
        return self._claim(self.noise.radius(self.p_lower, 1 - self.p_lower, self.sigma))

    def derived(self) -> dict[str, Any]:
        return super().derived() | {"p_lower": self.p_lower}


@dataclass(frozen=True)
class Hoeffding(SamplingCertifier):
    """Certificates from n samples by Hoeffding's inequality."""

    n: int = 100_000
    """Noise samples that bound the probability of the class."""

    def cap(self) -> float:
        return self.evidence({"0": self.n0}, {"0": self.n}, 0, 0).claim().radius

    def samples(self) -> int:
        return self.n0 + self.n

    def procedure(self, seed: Seed, numbers: int) -> Procedure:
        selection = yield self.n0
        votes = yield self.n
        return self.evidence(sparse(selection), sparse(votes), votes[-1], numbers)

    def evidence(self, selection: dict[str, int], votes: dict[str, int], invalid: int, numbers: int) -> HoeffdingVotes:
        settings = {"sigma": self.sigma, "noise": self.noise, "n0": self.n0, "alpha": self.alpha, "n": self.n}
        settings |= {"numbers": numbers, "delta": self.delta(numbers)}
        return HoeffdingVotes(**settings, selection=selection, votes=votes, invalid=invalid)


DEFAULT = Hoeffding()
