"""What certificates rest on whose samples end where more are not worth it (`statistics.stopping`). No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..core.certificate import MADE_BY, Claim
from .evidence import SequentialVotes, fixed_lower
from .noise import Noise, less
from .statistics.stopping import Stopping, best_stopping


@dataclass(frozen=True)
class StoppedVotes(SequentialVotes):
    """Of samples that go on only with enough votes: Clopper-Pearson bounds at the look where they ended."""

    go_on_at: tuple[int, ...]
    """At every look taken, the votes from which sampling goes on, chosen before any vote was seen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(type(least) is int for least in self.go_on_at) or len(self.go_on_at) != len(self.counts):
            raise ValueError(f"expected a number of votes to go on at for each of {len(self.counts)} looks")
        went_on = [count >= least for count, least in zip(self.counts, self.go_on_at, strict=True)]
        if not all(went_on[:-1]) or went_on[-1]:
            raise ValueError(
                f"the counts {self.counts} do not go on from {self.go_on_at} votes up to the last look, and end there"
            )

    @cached_property
    def p_lower(self) -> float:
        """A lower bound on the probability of the top class under ideal noise."""
        return less(fixed_lower(self.counts[-1], self.estimation, self.alpha), self.delta)

    def chosen(self) -> dict[tuple[Any, ...], Sequence[int]]:
        return super().chosen() | {("go_on_at",): self.go_on_at}

    def claim(self) -> Claim:
        return self._claim(self.noise.radius(self.p_lower, 1 - self.p_lower, self.sigma))

    def derived(self) -> dict[str, Any]:
        return super().derived() | {"p_lower": self.p_lower}


@lru_cache(maxsize=64)
def stopping(
    noise: Noise, sigma: float, delta: float, alpha: float, looks: tuple[int, ...], min_gain: float
) -> Stopping:
    """Where samples end, kept for the next example with the same settings; min_gain in units of the noise's scale."""

    def radii(shares: np.ndarray) -> np.ndarray:
        bounds = [less(share, delta) for share in shares.tolist()]
        return np.array([noise.radius(p, 1 - p, sigma) for p in bounds]) / noise.scale(sigma)

    return best_stopping(looks, alpha, min_gain, radii)


MADE_BY["Adaptive"] = (*MADE_BY["Adaptive"], StoppedVotes)
