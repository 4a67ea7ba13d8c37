"""What certificates by sampling rest on: votes, and the settings that turn them into a radius. No torch in here.

One class per sampling certifier, but for tests of given radii (`radius_tests`): `selection` are the votes that chose
the top class, `votes` bound its probability.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..core.certificate import MADE_BY, OLD, TOLERANCE, UNSAID, Certificate, Claim, Evidence
from ..core.certifier import Seed
from .noise import Float32, Noise, less, more
from .statistics.binomial import fixed_lower, fixed_upper, randomized_lower_bound
from .statistics.sequential import kt_best_lower, kt_best_upper, kt_lower, kt_upper, looks

Votes = Mapping[str, int]
"""Counts above zero, by class."""


def sparse(votes: Sequence[int]) -> dict[str, int]:
    """The counts above zero by class, the last entry (samples without a class) left out."""
    return {str(label): count for label, count in enumerate(votes[:-1]) if count}


def top_class(votes: Votes) -> int:
    """The class with most votes; the first of several."""
    return min((-count, int(label)) for label, count in votes.items())[1] if votes else 0


def runner_up(votes: Votes, top: int) -> int:
    """The most votes of any other class than `top`."""
    return max((count for label, count in votes.items() if int(label) != top), default=0)


@dataclass(frozen=True)
class SamplingEvidence(Evidence):
    """What all certificates by sampling store."""

    sigma: float
    noise: Noise
    n0: int
    alpha: float
    numbers: int
    """How many numbers a noisy copy holds; 0 where an earlier version did not say."""
    delta: float
    """How far off the probability of any class can be because noise is drawn by a computer."""
    selection: Votes
    votes: Votes
    invalid: int
    """Noise samples whose logits were not finite; they vote for no class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = [*self.selection.values(), *self.votes.values(), self.invalid, self.n0]
        if strange := [
            label for label in (*self.selection, *self.votes) if not (label.isascii() and label.isdecimal())
        ]:
            raise ValueError(f"{strange[0]!r:.80} is no class, expected an integer, 0 or more")
        if set(map(type, counts)) != {int} or min(counts) < 0:
            raise ValueError(f"votes are numbers of samples, got {counts}")
        if sum(self.selection.values()) > self.n0:
            raise ValueError(f"{sum(self.selection.values())} votes selected the class, of n0 = {self.n0} samples")
        needed = self.noise.delta(self.sigma, self.numbers)
        if not (type(self.numbers) is int and self.numbers >= 0 and needed <= self.delta < 1):
            found = f"delta is {self.delta} and noise on {self.numbers} numbers"
            raise ValueError(f"{found}, expected a delta in [{needed}, 1) for 0 numbers or more; was it edited?")

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    @property
    def norm(self) -> str:
        return self.noise.threat

    @property
    def top(self) -> int:
        """The class that the certificate is about."""
        return top_class(self.selection if self.n0 else self.votes)

    @property
    def estimation(self) -> int:
        """Samples that bound the probability of the top class."""
        return sum(self.votes.values()) + self.invalid

    def chosen(self) -> dict[tuple[Any, ...], Sequence[float | str]]:
        return {("numbers",): (self.numbers,)} if self.numbers else {}

    def derived(self) -> dict[str, Any]:
        return {"samples": self.n0 + self.estimation}

    def _claim(self, radius: float) -> Claim:
        return Claim(self.top, radius) if radius > 0 else Claim(None, 0.0)


OPTIMAL, SPENDING = {"boundaries": "optimal"}, {"boundaries": "spending"}
"""Settings of certifiers that stop by either rule, and leave another kind of evidence by each: whoever has seen votes
could take the one that proves more of them."""

Procedure = Generator[int, list[int], SamplingEvidence]
"""What a certifier does with one example. Yields how many fresh noise samples it wants next; is sent their votes: one
count per class, and last the count of samples whose top logit is not finite, which vote for no class. Returns what it
has found."""


def uniform(seed: Seed) -> float:
    """The number in [0, 1) of an example for a randomized bound."""
    return float(np.random.default_rng([seed.derived(), 1]).random())


@dataclass(frozen=True)
class FixedVotes(SamplingEvidence):
    """Of a fixed number of samples: Clopper-Pearson bounds."""

    n: int
    two_class: bool = False
    w: float | None = None
    """The uniform number of a randomized bound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimation != self.n:
            raise ValueError(f"{self.estimation} votes were counted, of n = {self.n} samples")

    @property
    def level(self) -> float:
        """The part of alpha that each bound gets: half, if there are two bounds or the votes chose the class too."""
        return self.alpha / 2 if self.two_class or self.n0 == 0 else self.alpha

    @cached_property
    def p_lower(self) -> float:
        """A lower bound on the probability of the top class under ideal noise."""
        k = self.votes.get(str(self.top), 0)
        if self.w is None:
            return less(fixed_lower(k, self.n, self.level), self.delta)
        return less(randomized_lower_bound(k, self.n, self.level, self.w), self.delta)

    @cached_property
    def p_upper(self) -> float:
        """An upper bound on the probability of any other class."""
        if not self.two_class:
            return 1 - self.p_lower
        return more(fixed_upper(runner_up(self.votes, self.top), self.n, self.level), self.delta)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"randomized": self.w is not None}

    def of_seed(self, seed: Seed) -> bool:
        return self.w in (None, uniform(seed))

    def claim(self) -> Claim:
        return self._claim(self.noise.radius(self.p_lower, self.p_upper, self.sigma))

    def derived(self) -> dict[str, Any]:
        found = super().derived() | {"p_lower": self.p_lower}
        if not self.two_class:
            return found
        one = less(fixed_lower(self.votes.get(str(self.top), 0), self.n, self.alpha), self.delta)
        return found | {"p_upper": self.p_upper, "one_class_radius": self.noise.radius(one, 1 - one, self.sigma)}


@dataclass(frozen=True)
class SequentialVotes(SamplingEvidence):
    """Of samples that are looked at several times: the counts at every look."""

    first: int
    growth: float
    n_max: int
    counts: tuple[int, ...]
    """Votes of the top class at every look taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.counts or len(self.seen) < len(self.counts) or self.estimation != self.seen[-1]:
            raise ValueError(f"{len(self.counts)} looks at {self.estimation} votes do not fit looks at {self.looks}")
        check_path(self, self.seen, self.counts)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of samples of all looks."""
        return looks(self.first, self.n_max, self.growth)

    @property
    def seen(self) -> tuple[int, ...]:
        """Those of the looks taken."""
        return self.looks[: len(self.counts)]


@dataclass(frozen=True)
class StoppedVotes(SequentialVotes):
    """Of samples that go on only with enough votes: Clopper-Pearson bounds at the look where they ended."""

    made_with = OPTIMAL

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

    def chosen(self) -> dict[tuple[Any, ...], Sequence[float | str]]:
        return super().chosen() | {("go_on_at",): self.go_on_at}

    def claim(self) -> Claim:
        return self._claim(self.noise.radius(self.p_lower, 1 - self.p_lower, self.sigma))

    def derived(self) -> dict[str, Any]:
        return super().derived() | {"p_lower": self.p_lower}


@dataclass(frozen=True)
class BettingVotes(SequentialVotes):
    """Of a confidence sequence for the top class, and perhaps one for its runner-up."""

    two_class: bool = False
    rivals: tuple[int, ...] = ()
    """Most votes of any other class at every look taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.rivals) != len(self.counts) or self.rivals[-1] != runner_up(self.votes, self.top):
            raise ValueError(f"the rivals' counts {self.rivals} do not fit the votes {dict(self.votes)}")
        new, others = np.diff([0, *self.rivals]), np.diff([0, *self.seen]) - np.diff([0, *self.counts])
        if (new < 0).any() or (new > others).any():  # the most of several counts, which only grow
            raise ValueError(f"the rivals' counts {self.rivals} do not fit {self.counts} of {self.seen} samples")

    @cached_property
    def p_lower(self) -> float:
        """A lower bound on the probability of the top class, the best of all looks: they hold together."""
        level = betting_level(self.alpha, self.two_class)
        return less(kt_best_lower(self.counts, self.seen, level), self.delta)

    @cached_property
    def p_upper(self) -> float:
        """An upper bound on the probability of any other class."""
        if not self.two_class:
            return 1 - self.p_lower
        level = betting_level(self.alpha, self.two_class)
        return more(kt_best_upper(self.rivals, self.seen, level), self.delta)

    def claim(self) -> Claim:
        return self._claim(self.noise.radius(self.p_lower, self.p_upper, self.sigma))

    def derived(self) -> dict[str, Any]:
        found = super().derived() | {"p_lower": self.p_lower}
        if not self.two_class:
            return found
        one = self.noise.radius(self.p_lower, 1 - self.p_lower, self.sigma)
        return found | {"p_upper": self.p_upper, "one_class_radius": one}


@dataclass(frozen=True)
class SplitEvidence(Evidence):
    """Of a classifier in two halves: the votes on the features, and how far the left half can move them."""

    unseen = "the bounds on how far the left half of the network moves"

    inner: SamplingEvidence
    """Of the features, in their unit."""
    rounding: float | None
    """How far apart computed features of two images can be beyond the true ones; None where they are not finite."""
    form: str
    gamma: float = 0.0
    """Radius of the ball around the image whose features are bounded, in pixel units; 0.0 where nothing is proven."""
    local_bound: float = 0.0
    """How far the features can move within gamma."""
    global_constant: float = 0.0
    """A Lipschitz constant of the left half everywhere."""
    profile: Mapping[str, float] = field(default_factory=dict)
    """How far the image can move after each layer of the left half, as a multiple of gamma."""
    program: str = ""
    """Identity of the left half as captured; empty in records from before that was kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.gamma >= 0 and (self.rounding is None or self.rounding >= 0)):
            raise ValueError(f"gamma and rounding are not negative, got {self.gamma} and {self.rounding}")
        if self.gamma > 0 and not self.local_bound < self.allowed * (1 + TOLERANCE):
            raise ValueError(f"features that can move by {self.local_bound} are not within {self.allowed}")

    @property
    def allowed(self) -> float:
        """How far the true features may move."""
        claim = self.inner.claim()
        return 0.0 if claim.prediction is None or self.rounding is None else claim.radius - self.rounding

    @property
    def confidence(self) -> float:
        return self.inner.confidence

    @property
    def norm(self) -> str:
        return self.inner.norm

    def chosen(self) -> dict[tuple[Any, ...], Sequence[float | str]]:
        network = {("program",): (self.program,), ("global_constant",): (self.global_constant,)}
        return {**super().chosen(), **(network if self.program else {})}

    def claim(self) -> Claim:
        return Claim(self.inner.top, self.gamma) if self.gamma > 0 else Claim(None, 0.0)

    def derived(self) -> dict[str, Any]:
        return {"samples": self.inner.derived()["samples"], "feature_radius": self.inner.claim().radius}


def check_path(evidence: SamplingEvidence, looks: tuple[int, ...], counts: tuple[int, ...]) -> None:
    """Refuse counts of the top class at the looks taken that cannot have led to the votes."""
    steps, most = np.diff([0, *counts]), np.diff([0, *looks])
    if len(steps) != len(most) or (most < 1).any() or sum(most) != evidence.estimation:
        raise ValueError(f"{len(counts)} looks at {evidence.estimation} votes do not fit looks at {looks}")
    last = counts[-1] if counts else 0
    if last != evidence.votes.get(str(evidence.top), 0) or (steps < 0).any() or (steps > most).any():
        raise ValueError(f"the counts {counts} of class {evidence.top} do not fit the votes {dict(evidence.votes)}")


def betting_level(alpha: float, two_class: bool) -> float:
    """The part of alpha for each side."""
    return alpha / 2 if two_class else alpha


sequence_lower = lru_cache(maxsize=100_000)(kt_lower)
sequence_upper = lru_cache(maxsize=100_000)(kt_upper)
"""Kept, because many examples have the same counts."""

MADE_BY |= {
    "Gaussian": (FixedVotes,),
    "Adaptive": (StoppedVotes,),
    "Betting": (BettingVotes,),
    "Split": (SplitEvidence,),
}


UNSAID |= {"sigma": None, "alpha": None, "two_class": False, "noise": {"kind": "Float32"}, "boundaries": "spending"}
UNSAID |= {"inner": {"kind": "Gaussian"}}

OLD_NOISE: dict[str, Any] = {"noise": Float32(), "numbers": 0, "delta": 0.0}
"""Of versions before 0.2, which had no other."""


def _old_fixed(certifier: Mapping[str, Any], found: Certificate) -> FixedVotes:
    names = ("sigma", "n0", "alpha", "selection", "votes", "invalid", "n")
    told = {name: found.evidence[name] for name in names}
    two_class = bool(certifier.get("two_class"))
    return FixedVotes(**told, **OLD_NOISE, two_class=two_class, w=found.evidence.get("w"))


def _old_split(certifier: Mapping[str, Any], found: Certificate) -> SplitEvidence | None:
    data = found.evidence
    top = top_class(data["selection"]) if data["feature_radius"] else None
    features = Certificate(top, data["feature_radius"], found.norm, found.confidence, data)
    inner = OLD[certifier["inner"]["kind"]](certifier["inner"], features)
    names = {"rounding", "form", "gamma", "local_bound", "global_constant", "profile"} & data.keys()
    return SplitEvidence(inner, **{name: data[name] for name in names}) if isinstance(inner, SamplingEvidence) else None


OLD |= {"Gaussian": _old_fixed, "Split": _old_split}
