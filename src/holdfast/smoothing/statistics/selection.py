"""Votes that select a class also tell how hard the decision will be: few where they agree, more where they do not.

A `Plan` looks at the selection votes a few times. It asks for more, stops a hopeless input, or starts one of a few
designs for the estimation votes, which are drawn afresh: independent of the selection votes, so that any rule is valid.
Every design has type-one error at most alpha, so that it is at most alpha given any outcome of the selection.

Plans are kept on disk, and never trusted: the type-one error of every design is computed again from its counts when it
is loaded. A plan that was edited, torn or made for another question can cost samples, never validity.

The rule is the best one against a prior on vote shares, by backward induction as in `optimal`, for images with two
classes: the top class has share p, and all other votes go to one rival.
"""

import dataclasses
import hashlib
import json
import math
import operator
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import comb, ndtr, ndtri
from scipy.stats import binom

from ...runs.store import cache
from .design import Design
from .optimal import Walks, best_design, look_schedule, share_grid

MORE, HOPELESS = -2, -1
STAGES = (4, 6, 8, 10, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100)
"""Numbers of selection votes at which to look."""
DESIGNS = 2
"""Designs to choose from. Four or eight save a fifth of a percent more."""
CHEAPEST, DEAREST = 1e2, 1e9
"""Samples that a certified image may be worth."""
FIRST_GUESS = 3e5
STEEP = 0.5
"""Part of all images for each sigma of radius, in the flat prior: twice what published logs show around a radius."""


@dataclass(frozen=True)
class Plan:
    """What to do with the votes of the class that leads the selection."""

    stages: tuple[int, ...]
    """Numbers of selection votes at which to look."""
    actions: tuple[tuple[int, ...], ...]
    """For each stage and number of votes of the leading class: the design to start, HOPELESS, or MORE."""
    designs: tuple[Design, ...]

    def __post_init__(self) -> None:
        shapes = [len(actions) for actions in self.actions]
        if shapes != [stage + 1 for stage in self.stages] or not self.designs:
            raise ValueError("expected an action for every stage and number of votes, and a design")
        known = {HOPELESS, *range(len(self.designs))}
        if not set(self.actions[-1]) <= known or not set().union(*self.actions) <= known | {MORE}:
            raise ValueError("expected actions to be designs, hopeless, or more, and no more after the last stage")

    @property
    def type_one_error(self) -> float:
        """The largest of its designs: whatever the selection chooses, the error is no larger."""
        return max(design.type_one_error for design in self.designs)

    def outcome(self, share: float) -> tuple[float, float]:
        """Probability to certify the top class, and expected samples with those of the selection, by its share.

        The other votes go to one rival. Exact, by forward recursion.
        """
        top = [design.outcome(share) for design in self.designs]
        rival = [design.outcome(1 - share) for design in self.designs]
        certified = samples = 0.0
        for votes, m, actions in self._stages(np.array([share])):
            chance = votes[0]
            samples += m * float(chance[actions != MORE].sum())
            leads = 2 * np.arange(m + 1) >= m
            for choice in range(len(self.designs)):
                chosen = actions == choice
                by_top, by_rival = chance[chosen & leads].sum(), chance[chosen & ~leads].sum()
                certified += by_top * top[choice][0]
                samples += by_top * top[choice][1] + by_rival * rival[choice][1]
        return float(certified), float(samples)

    def _stages(self, shares: np.ndarray):
        """At each stage: P(votes of the top class, still selecting) by share and votes, the stage, the actions."""
        paths = np.ones(1)
        for before, m, leader in zip((0, *self.stages), self.stages, self.actions, strict=False):
            paths = np.convolve(paths, _ways(m - before))
            actions = np.array([leader[max(k, m - k)] for k in range(m + 1)])
            yield binom.pmf(np.arange(m + 1), m, shares[:, None]) * (paths / _ways(m)), m, actions
            paths = paths * (actions == MORE)


def _ways(n: int) -> np.ndarray:
    return np.asarray(comb(n, np.arange(n + 1)))


@dataclass(frozen=True)
class Prior:
    """How likely each vote share of the top class is, before any vote.

    Raises:
        ValueError: no share, shares outside [0, 1], or weights that are negative or do not sum to something.
    """

    shares: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        good = len(self.shares) == len(self.weights) > 0 and all(0 <= share <= 1 for share in self.shares)
        if not good or not all(weight >= 0 for weight in self.weights) or not 0 < sum(self.weights) < math.inf:
            raise ValueError("expected vote shares in [0, 1] with weights that are not negative, at least one positive")

    @classmethod
    def of(cls, shares: Sequence[float] | np.ndarray) -> "Prior":
        """Every share as likely as it is frequent."""
        values, counts = np.unique(np.asarray(shares, dtype=float).round(6), return_counts=True)
        return cls(tuple(values.tolist()), tuple((counts / counts.sum()).tolist()))

    def on(self, z: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """The weights moved to the nearest two points of a grid of Phi^-1(share)."""
        at = np.clip(ndtri(np.array(self.shares)), z[0], z[-1])
        right = np.clip(np.searchsorted(z, at), 1, len(z) - 1)
        part = (at - z[right - 1]) / (z[right] - z[right - 1])
        weights = np.array(self.weights) / sum(self.weights)
        found = np.bincount(right, part * weights, len(z))
        return found + np.bincount(right - 1, (1 - part) * weights, len(z))


def flat(p0: float) -> Prior:
    """Radii spread evenly around the one in question, over the 1 / STEEP sigma that hold all images.

    A log in which certified accuracy falls less steeply there loses less than it may.
    """
    z = float(ndtri(p0)) + ((np.arange(2000) + 0.5) / 2000 - 0.5) / STEEP
    return Prior(tuple(ndtr(np.maximum(z, -0.25)).tolist()), (1.0,) * len(z))


def fixed_power(p0: float, alpha: float, n: int, shares: np.ndarray) -> np.ndarray:
    """The probability that n votes, looked at once, prove a share above p0."""
    return binom.sf(binom.isf(alpha, n, p0), n, shares)


def best_plan(p0: float, alpha: float, n_max: int, n0: int, loss: float, prior: Prior | None = None) -> Plan:
    """The plan that takes the fewest samples and loses as much certified accuracy against a fixed n_max as it may.

    Args:
        p0: the share to exceed.
        alpha: probability, at most, that a share of p0 or less is certified.
        n_max: the most estimation samples.
        n0: the most selection samples.
        loss: percentage points of certified accuracy, expected under the prior.
        prior: of the vote share of the top class; default flat.

    Raises:
        ValueError: a setting that makes no sense, by name.
    """
    if not 0 < loss < 100:
        raise ValueError(f"expected a loss of certified accuracy between 0 and 100 points, got {loss}")
    return _Search(p0, alpha, n_max, n0, prior or flat(p0)).plan(loss)


class _Search:
    """Plans for one question and prior, at any worth of a certified image."""

    def __init__(self, p0: float, alpha: float, n_max: int, n0: int, prior: Prior) -> None:
        self.stages = (*[m for m in STAGES if m < n0], n0)[: len(STAGES)]
        z = share_grid(p0, n_max)
        self.walks = Walks(p0, alpha, look_schedule(p0, alpha, n_max), z)
        self.top = prior.on(z)
        self.rival = self.top[::-1]  # z is symmetric: where the rival of the top class stands
        self.winning = self.top * self.walks.above
        self.fixed = fixed_power(p0, alpha, n_max, ndtr(z))
        self.log_yes, self.log_no = np.log(ndtr(z)), np.log(ndtr(-z))
        self.guesses = [1e6] * DESIGNS
        self.leaders = [self._leading(20, k)[0] for k in (20, max(11, round(50 * p0) - 31))]

    def plan(self, loss: float) -> Plan:
        """Search for the worth of a certified image, in samples, at which the plan loses as much as it may."""
        low, high = math.log(CHEAPEST), math.log(DEAREST)
        at = math.log(FIRST_GUESS)
        for _ in range(12):
            ratio = 100 * self.build(math.exp(at))[1] / loss
            if ratio <= 1:
                high = at
                if ratio > 0.93:
                    break
            else:
                low = at
            if high - low < 0.03:
                break
            at += min(max(math.log(max(ratio * 1.03, 1e-9)), -2.5), 2.5)
            if not low < at < high:
                at = (low + high) / 2
        return self.build(math.exp(high), 0.005)[0]

    def build(self, worth: float, tolerance: float = 0.03) -> tuple[Plan, float]:
        """The plan for one worth, and the part of images that it loses."""
        found = []
        for i, (prior, guess) in enumerate(zip(self.leaders, self.guesses, strict=True)):
            # weights relative to the most likely share; designs see ratios only
            scale = prior.sum() + 1e-300
            lost = worth * self._winning_part * prior / scale
            design, self.guesses[i] = best_design(self.walks, prior / scale, lost, tolerance, guess)
            found.append(design)
        outcomes = [self.walks.outcomes(design) for design in found]
        plan = Plan(self.stages, self._actions(worth, outcomes), tuple(found))
        return plan, self._account(plan, outcomes)

    @cached_property
    def _winning_part(self) -> np.ndarray:
        """At each share, the part of its leading classes that are the top class, and above p0."""
        return self.winning / np.maximum(self.top + self.rival, 1e-300)

    def _leading(self, m: int, k: np.ndarray | int) -> np.ndarray:
        """Chance, by counts and share of the leading class, of each sequence of votes that gives it k of m."""
        likelihood = np.exp(np.outer(np.atleast_1d(k), self.log_yes) + np.outer(m - np.atleast_1d(k), self.log_no))
        return likelihood * (self.top + self.rival)

    def _actions(self, worth: float, outcomes: list) -> tuple[tuple[int, ...], ...]:
        """What costs least at each stage, for each number of votes of the leading class.

        Fewer than half of the votes lead only where there are more classes than two: then going on is taken to cost no
        more than the votes of the next stage.
        """
        sure = worth * self._winning_part
        costs = np.array([sure, *(samples + sure * (1 - power) for power, samples in outcomes)])
        wrong = worth * (self.winning / np.maximum(self.top + self.rival, 1e-300))[::-1]  # the rival leads
        actions, value = [], None
        for m, later in zip(self.stages[::-1], (None, *self.stages[:0:-1]), strict=True):
            k = np.arange(m + 1)
            leading = self._leading(m, k)
            stop, on = (costs + wrong) @ leading.T, np.full(m + 1, np.inf)
            if value is not None and later is not None:
                on = (later - m) * leading.sum(axis=1)
                on += np.where(2 * k >= m, np.correlate(value, _ways(later - m), mode="valid"), 0.0)
            action = np.where(on < stop.min(axis=0), MORE, np.argmin(stop, axis=0) - 1)
            actions.append(tuple(int(a) for a in action))
            value = np.minimum(on, stop.min(axis=0))[np.maximum(k, m - k)]
        return tuple(actions[::-1])

    def _account(self, plan: Plan, outcomes: list) -> float:
        """The part of images that a fixed n_max certifies and the plan loses; what leads to each design is kept."""
        power = np.zeros(len(self.top))
        leaders = [np.zeros(len(self.top)) for _ in plan.designs]
        for votes, m, actions in plan._stages(ndtr(self.walks.z)):
            leads = 2 * np.arange(m + 1) >= m
            for choice, (certified, _) in enumerate(outcomes):
                by_top = votes[:, (actions == choice) & leads].sum(axis=1)
                by_rival = votes[:, (actions == choice) & ~leads].sum(axis=1)
                power += by_top * certified
                leaders[choice] += by_top * self.top + (by_rival * self.top)[::-1]
        self.leaders = [new if new.sum() > 1e-9 else old for new, old in zip(leaders, self.leaders, strict=True)]
        return float(self.winning @ (self.fixed - power))


VERSION = 1
"""Counted up when the search finds other plans."""


@lru_cache(maxsize=256)
def plan(p0: float, alpha: float, n_max: int, n0: int, loss: float, prior: Prior | None = None) -> Plan:
    """`best_plan`, kept on disk and for the next example; the same errors."""
    key = json.dumps([VERSION, p0, alpha, n_max, n0, loss, dataclasses.astuple(prior) if prior else None])
    path = folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    kept = load(path, p0, alpha, n_max, n0)
    if kept is None:
        kept = best_plan(p0, alpha, n_max, n0, loss, prior)
        save(kept, path)
    return kept


def folder() -> Path:
    """Where plans are kept."""
    return cache() / "plans"


def save(plan: Plan, path: Path) -> None:
    """Write a plan, whole or not at all; where that is impossible, the next process searches again."""
    content = {
        "stages": plan.stages,
        "actions": plan.actions,
        "designs": [{name: getattr(design, name) for name in FIELDS} for design in plan.designs],
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(content))
        draft.replace(path)


FIELDS = ("looks", "certify_at", "give_up_at")


def load(path: Path, p0: float, alpha: float, n_max: int, n0: int) -> Plan | None:
    """The plan in a file, or None where there is none that answers the question at this level."""
    try:
        content = json.loads(path.read_bytes())
        designs = [Design(p0, *(_integers(design[name]) for name in FIELDS)) for design in content["designs"]]
        actions = tuple(_integers(action) for action in content["actions"])
        plan = Plan(_integers(content["stages"]), actions, tuple(designs))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    fits = plan.stages[-1] <= n0 and all(design.looks[-1] <= n_max for design in designs)
    return plan if fits and plan.type_one_error <= alpha else None


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(operator.index(value) for value in values)
