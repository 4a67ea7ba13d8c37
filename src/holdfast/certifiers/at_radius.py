"""Randomized smoothing at given radii: "is it certified at r?", answered with as few samples as possible.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, decided by
the interim analyses that take the fewest samples (`holdfast.smoothing.statistics.optimal`), which the votes that select
the class choose (`selection`); several radii share their samples (`decision`). For comparison: exact group-sequential
boundaries (Lan & DeMets, "Discrete sequential boundaries for clinical trials", 1983; `statistics.sequential`). Most
images are far from the boundary in question and need a few hundred samples.

    holdfast certify RUN at-radius --r 0.25 0.5 0.75
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, Literal

from ..core.certifier import Classifier, Seed
from ..smoothing.certifier import SequentialCertifier
from ..smoothing.design_votes import DesignVotes, Reached, share
from ..smoothing.evidence import Procedure, RadiusVotes, boundaries
from ..smoothing.statistics.decision import Decision
from ..smoothing.statistics.optimal import look_schedule
from ..smoothing.statistics.plans import plan
from ..smoothing.statistics.radius_grid import RadiusBoundaries
from ..smoothing.statistics.selection import Plan
from ..smoothing.walk import follow, select, select_by, walk
from ._prior import read_prior


@dataclass(frozen=True)
class AtRadius(SequentialCertifier):
    """Certificates at one radius, or at the largest that holds of several."""

    n0: int = 100
    """Noise samples, at most, that select the top class; never those that bound its probability."""
    first: int = 100
    """Noise samples at the first look; spending boundaries only."""
    growth: float = 1.15
    """Factor between the samples of one look and the next; spending boundaries only."""
    r: tuple[float, ...] = (0.25,)
    """Increasing radii to decide, in pixel units; the certificate holds the largest that is certified."""
    beta: float = 0.05
    """Probability, at most, that an image just at the radius is given up early; spending boundaries only."""
    boundaries: Literal["optimal", "spending"] = "optimal"
    """optimal: the fewest samples for the loss. spending: alpha spread evenly over the looks."""
    loss: float = 0.1
    """Percentage points of certified accuracy that may be lost, at each radius, against n_max samples for every image.
    Expected under the prior."""
    prior: str = ""
    """A certified run or a published log of the same sigma, whose vote shares the optimal boundaries expect; made with
    other noise than this run (another seed). Default: as many images near the radius as anywhere. A wrong prior costs
    samples, never soundness."""

    former_defaults: ClassVar[Mapping[str, Any]] = {**SequentialCertifier.former_defaults, "boundaries": "spending"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boundaries not in ("optimal", "spending"):
            raise ValueError(f"boundaries must be optimal or spending, got {self.boundaries!r}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie between 0 and 1, got {self.beta}")
        if not 0 < self.loss < 100:
            raise ValueError(f"loss must lie between 0 and 100 points of certified accuracy, got {self.loss}")
        if self.boundaries == "spending":
            self._tests(self.delta(0))
        elif not self.r or any(b <= a for a, b in pairwise(self.r)):
            raise ValueError(f"expected increasing radii, got {self.r}")
        else:
            self._looks(self.r[-1], self.delta(0))

    def cap(self) -> float:
        return max(self.r)

    def require(self, classifier: Classifier) -> None:
        if self.prior:
            read_prior(self.prior, self.sigma)  # a wrong path is told before any work

    def refuse_seed(self, seed: int) -> None:
        if self.prior and seed in read_prior(self.prior, self.sigma).seeds:
            raise ValueError(
                f"the prior {self.prior} was certified with the noise of seed {seed}, which this run would draw again: "
                "boundaries must not depend on the votes that they judge; choose another seed, as with --seed"
            )

    def procedure(self, seed: Seed, numbers: int) -> Procedure:
        delta = self.delta(numbers)
        if self.boundaries == "spending":
            selection = yield from select(self.n0)
            votes = yield from walk(self._tests(delta), selection.top, lambda now: now.certified >= now.possible)
            return RadiusVotes(**self.settings(selection, votes, numbers), beta=self.beta, r=self.r)
        self.refuse_seed(seed.seed)
        selection, designs = yield from select_by(_plans(self, delta))
        decision = Decision(designs)
        votes = yield from follow(decision, selection.top)
        shared = self.settings(selection, votes, numbers)
        return DesignVotes(
            **{name: value for name, value in shared.items() if name not in ("first", "growth")},
            r=self.r,
            selected=selection.samples,
            looks=tuple(decision.samples),
            tests=tuple(map(Reached.of, decision.designs, decision.reached())),
        )

    def plans(self, delta: float) -> list[Plan]:
        """A plan for each radius, when noise is off by delta; all look at the selection votes at the same numbers."""
        prior = read_prior(self.prior, self.sigma).prior if self.prior else None
        shares = [share(self.noise, radius, self.sigma, delta) for radius in self.r]
        return [plan(p0, self.alpha, self.n_max, self.n0, self.loss, prior) for p0 in shares]

    def _looks(self, radius: float, delta: float) -> tuple[int, ...]:
        return look_schedule(share(self.noise, radius, self.sigma, delta), self.alpha, self.n_max)

    def _tests(self, delta: float) -> RadiusBoundaries:
        return boundaries(self.noise, self.sigma, delta, self.r, self.alpha, self.looks(), self.beta)


_plans = lru_cache(maxsize=16)(AtRadius.plans)

DEFAULT = AtRadius()
