"""Randomized smoothing at given radii: "is it certified at r?", answered with as few samples as possible.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1, decided by
the interim analyses that take the fewest samples (`holdfast.smoothing.statistics.optimal`), which the votes that select
the class choose (`selection`); several radii share their samples (`design.Decision`). For comparison: exact
group-sequential boundaries (Lan & DeMets, "Discrete sequential boundaries for clinical trials", 1983;
`statistics.sequential`). Most images are far from the boundary in question and need a few hundred samples.

    holdfast certify RUN at-radius --r 0.25 0.5 0.75
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from ..core.certificate import Record
from ..core.certifier import Classifier, Seed
from ..runs.certified import CertifiedRun
from ..runs.find import read_facts, sources
from ..smoothing.certifier import Selection, SequentialCertifier, Walk, select, walk
from ..smoothing.evidence import Procedure, sparse
from ..smoothing.radius_tests import DesignVotes, RadiusVotes, Reached, boundaries, share
from ..smoothing.statistics.binomial import radius_cap
from ..smoothing.statistics.design import Decision, Design
from ..smoothing.statistics.optimal import look_schedule
from ..smoothing.statistics.planning import ABSTAINED, shares_from_radii
from ..smoothing.statistics.selection import HOPELESS, MORE, Plan, Prior, plan
from ..smoothing.statistics.sequential import RadiusBoundaries


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
        elif not self.r or any(type(r) not in (int, float) for r in self.r) or any(b <= a for a, b in pairwise(self.r)):
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


def select_by(plans: Sequence[Plan]) -> Generator[int, list[int], tuple[Selection, list[Design | None]]]:
    """Ask for votes until each plan has chosen its design, or sees no hope (None).

    Args:
        plans: by increasing radius, all with the same stages. No radius is tried above a hopeless one.
    """
    votes, chosen = list[int](), list[int]()
    for stage, n in enumerate(plans[0].stages):
        new = yield n - sum(votes)
        votes = [a + b for a, b in zip(votes, new, strict=True)] if votes else new
        chosen = [plan.actions[stage][max(votes[:-1])] for plan in plans]
        if MORE not in chosen[: (*chosen, HOPELESS).index(HOPELESS)]:
            break
    designs = [None if choice < 0 else plan.designs[choice] for plan, choice in zip(plans, chosen, strict=True)]
    return Selection(int(np.argmax(votes[:-1])), sparse(votes), sum(votes)), designs


def follow(decision: Decision, top: int) -> Generator[int, list[int], Walk]:
    """Sample from look to look until every radius is decided."""
    votes = Walk(top)
    while (n := decision.next_look()) is not None:
        yield from votes.look(n)
        decision.look(n, votes.counts[-1])
    return votes


N, ALPHA = 100_000, 0.001
"""Samples and level of a log that does not tell its own."""


class Source(NamedTuple):
    """A prior, and what it was made with."""

    prior: Prior
    seeds: frozenset[int]
    """Of the noise; empty for a published log."""


@lru_cache(maxsize=16)
def read_prior(source: str, sigma: float) -> Source:
    """How the vote shares of a certified run or of a published log are spread.

    Args:
        source: a run folder, a certify folder, an exported table, or a log in the format of Cohen et al.
        sigma: standard deviation of the noise; where the source had another, the prior is off and costs samples.

    Raises:
        ValueError: the source is none of these, or was not certified by sampling; it is named.
    """
    shares, seeds = list[float](), set[int]()
    try:
        for path in sources(Path(source)):
            run = CertifiedRun.open(path)
            counted = list(_shares(run.records))
            logged = path.is_file() and run.records and not counted
            shares += _shares_of_log(run, sigma) if logged else counted
            seeds |= {int(asked["seed"]) for asked in [read_facts(path).get("certification", {})] if "seed" in asked}
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    if not shares:
        raise ValueError(f"no vote shares for a prior in {source}: expected a run certified by sampling, or a log")
    return Source(Prior.of(shares), frozenset(seeds))


def _shares(records: Iterable[Record]) -> Iterator[float]:
    """Of the top class; where a first sample left no hope, among the votes of that."""
    for record in records:
        evidence = record.certificate.evidence.get("inner", record.certificate.evidence)
        if "votes" in evidence:
            votes = (evidence["votes"] or evidence.get("selection") or {}).values()
            yield (max(votes) + 0.5) / (sum(votes) + 1) if votes else ABSTAINED


def _shares_of_log(run: CertifiedRun, sigma: float) -> list[float]:
    """By the settings of the log as far as they are known."""
    sigma, n, alpha = run.sigma or sigma, run.settings.get("n", N), run.alpha or ALPHA
    radii = np.array([record.certificate.radius for record in run.records])
    return shares_from_radii(np.minimum(radii, radius_cap(sigma, n, alpha)), sigma, n, alpha).tolist()


DEFAULT = AtRadius()
