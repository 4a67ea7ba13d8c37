"""Randomized smoothing at given radii: "is it certified at r?", answered with as few samples as possible.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, decided by
the interim analyses that take the fewest samples (`holdfast.smoothing.statistics.optimal`), which the votes that select
the class choose (`selection`); several radii share their samples (`decision`). For comparison: exact group-sequential
boundaries (Lan & DeMets, "Discrete sequential boundaries for clinical trials", 1983; `holdfast.smoothing.sequential`).
Most images are far from the boundary in question and need a few hundred samples.

    holdfast certify RUN at-radius --r 0.25 0.5 0.75
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..smoothing.binomial import share_needed
from ..smoothing.radius_grid import RadiusBoundaries
from ..smoothing.sampling import Procedure, sample
from ..smoothing.sequential import looks
from ..smoothing.statistics.decision import Decision
from ..smoothing.statistics.design import Design
from ..smoothing.statistics.plans import plan, prior_from
from ..smoothing.statistics.selection import HOPELESS, MORE, Plan
from ..smoothing.walk import Selection, add, boundaries, check, evidence, select, walk
from ..types import Certificate, Certifier, Classifier


@dataclass(frozen=True)
class AtRadius(Certifier):
    """l2 certificates at one radius, or at the largest that holds of several."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    r: tuple[float, ...] = (0.25,)
    """Increasing radii to decide, in pixel units; the certificate holds the largest that is certified."""
    n0: int = 100
    """Samples, at most, that select the class; never those that decide."""
    first: int = 100
    """Samples at the first look; spending boundaries only."""
    growth: float = 1.15
    """Factor between the samples of one look and the next; spending boundaries only."""
    n_max: int = 100_000
    """Samples after which an undecided example is given up."""
    alpha: float = 0.001
    """Probability that the certificate of an example is wrong, over all looks and radii together."""
    beta: float = 0.05
    """Probability, at most, that an image just at the radius is given up early; spending boundaries only."""
    boundaries: Literal["optimal", "spending"] = "optimal"
    """optimal: the fewest samples for the loss. spending: alpha spread evenly over the looks."""
    loss: float = 0.1
    """Percentage points of certified accuracy that may be lost, at each radius, against n_max samples for every image.
    Expected under the prior."""
    prior: str = ""
    """A certified run or a published log of the same sigma, whose vote shares the optimal boundaries expect. Default:
    as many images near the radius as anywhere. A wrong prior costs samples, never soundness."""

    def __post_init__(self) -> None:
        check(self)
        self._spending()
        if self.boundaries not in ("optimal", "spending"):
            raise ValueError(f"boundaries must be optimal or spending, got {self.boundaries!r}")
        if not 0 < self.loss < 100:
            raise ValueError(f"loss must lie between 0 and 100 points of certified accuracy, got {self.loss}")

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[int], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        return sample(classifier, x, seeds, self.sigma, self._procedure, batch_size)

    def cap(self) -> float:
        return max(self.r)

    def samples(self) -> int:
        return self.n0 + self.n_max

    def _procedure(self, seed: int) -> Procedure:
        return self._optimally() if self.boundaries == "optimal" else self._by_spending()

    def _optimally(self) -> Procedure:
        """Select, then sample from look to look of the designs that the selection chose."""
        selection, decision = yield from self._select()
        votes, taken = [0] * len(selection.votes), 0
        while (n := decision.next_look()) is not None:
            votes, taken = add(votes, (yield n - taken)), n
            decision.look(n, votes[selection.top])
        path = {"samples_at": decision.samples, "counts": decision.counts, "boundaries_used": decision.boundaries()}
        return self._certificate(selection, decision.certified, votes, len(decision.samples), path)

    def _select(self) -> Generator[int, list[int], tuple[Selection, Decision]]:
        """Ask for votes until each radius has its design, or is hopeless."""
        plans, votes = self._plans(), list[int]()
        actions = [MORE]
        for stage in range(len(plans[0].stages)):
            votes = add(votes, (yield plans[0].stages[stage] - sum(votes)))
            actions = [plan.actions[stage][max(votes[:-1])] for plan in plans]
            tried = actions[: actions.index(HOPELESS)] if HOPELESS in actions else actions
            if MORE not in tried:
                break
        selection = Selection(votes.index(max(votes[:-1])), votes)
        return selection, Decision([_chosen(plan, action) for plan, action in zip(plans, actions, strict=True)])

    def _by_spending(self) -> Procedure:
        selection = yield from select(self.n0)
        found = yield from walk(self._spending(), selection.top, lambda now: now.certified >= now.possible)
        return self._certificate(selection, found.certified, found.votes, found.looks, {})

    def _certificate(
        self, selection: Selection, certified: int, votes: list[int], looks: int, path: dict[str, Any]
    ) -> Certificate:
        return Certificate(
            prediction=selection.top if certified else None,
            radius=self.r[certified - 1] if certified else 0.0,
            norm="l2",
            confidence=1 - self.alpha,
            evidence=evidence(self, selection, votes, looks) | path,
        )

    def _spending(self) -> RadiusBoundaries:
        radii = tuple(radius / self.sigma for radius in self.r)
        return boundaries(radii, self.alpha, looks(self.first, self.n_max, self.growth), self.beta)

    def _plans(self) -> list[Plan]:
        """A plan for each radius; all look at the selection votes at the same numbers."""
        prior = prior_from(self.prior, self.sigma) if self.prior else None
        shares = [share_needed(radius, self.sigma) for radius in self.r]
        return [plan(share, self.alpha, self.n_max, self.n0, self.loss, prior) for share in shares]


def _chosen(plan: Plan, action: int) -> Design | None:
    return None if action == HOPELESS else plan.designs[action]


DEFAULT = AtRadius()
