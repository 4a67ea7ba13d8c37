"""The best possible interim analyses for "is the vote share above p0?", by dynamic programming.

(n, k), samples and votes so far, is all that matters. A `Design` says at each look n from how many votes on to certify,
and up to how many to give up. Of all designs with type-one error alpha at p0, `best_design` finds the one that
minimizes, under a prior on the share,

    E[samples] + lost * P(share > p0, but not certified).

With a Lagrange multiplier for the type-one error this is optimal stopping without a constraint, solved backward from
the last look (Wald and Wolfowitz, "Optimum character of the sequential probability ratio test", 1948; Barber and
Jennison, "Optimal asymmetric one-sided group sequential tests", 2002). Everything is measured at p0, so that the prior
enters through likelihood ratios alone, and no value exceeds the multiplier.

Nothing of this needs to be right for a certificate to be true: `Design.type_one_error` follows the votes forward, from
the design alone, and a design is used only if that is at most alpha.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri

from .binomial import window
from .design import Design

FIRST_LOOK = 4
"""Samples at the first look: the earliest that a hopeless input is given up."""


def look_schedule(p0: float, alpha: float, n_max: int) -> tuple[int, ...]:
    """Looks for giving up from a few samples on, for certifying from as few as p0 allows, where all votes agree.

    A look costs no samples, so that more of them can only help: they are as dense as they make a difference.

    Raises:
        ValueError: not even n_max votes that all agree can certify.
    """
    unanimous = math.ceil(math.log(alpha) / math.log(p0)) if p0 < 1 else math.inf
    if unanimous > n_max:
        raise ValueError(f"a share of {p0:.6g} can never be certified with {n_max} samples at alpha = {alpha}")
    found, n = [], FIRST_LOOK
    while n < unanimous:
        found.append(n)
        n = max(n + 1, round(1.3 * n))
    n = unanimous
    while n < n_max:
        found.append(n)
        n = max(n + 1, round(n * (1.02 if n < 2 * unanimous else 1.05)))
    return (*found, n_max)


def share_grid(p0: float, n_max: int) -> Float[np.ndarray, " point"]:
    """Phi^-1 of the shares that carry a prior: symmetric around 0, dense around p0 and 1 - p0."""
    center = float(ndtri(p0))
    finest = 0.3 * math.sqrt(p0 * (1 - p0) / n_max) * math.sqrt(2 * math.pi) * math.exp(center**2 / 2)
    offsets = [finest / 2]
    while offsets[-1] < 8:
        offsets.append(offsets[-1] + max(finest, 0.12 * offsets[-1]))
    z = center + np.concatenate([-np.array(offsets), offsets])
    z = np.concatenate([z, -z])
    return np.unique(z[np.abs(z) < max(4.5, center + 1)])


class Walks:
    """Walks of votes at share p0 from look to look, and the likelihood ratios of other shares: what designs share."""

    def __init__(self, p0: float, alpha: float, looks: Sequence[int], z: Float[np.ndarray, " point"]) -> None:
        self.p0, self.alpha, self.looks, self.z = p0, alpha, tuple(looks), z
        self.above = ndtr(z) > p0
        self.log_yes, self.log_no = np.log(ndtr(z) / p0), np.log(ndtr(-z) / (1 - p0))
        reach = float(-ndtri(alpha / 1000)) + 1.5
        self.steps = [window(b - a, p0)[:2] for a, b in pairwise((0, *self.looks))]
        spread = [reach * math.sqrt(n * p0 * (1 - p0)) + 6 for n in self.looks]
        self.counts = [
            np.arange(max(0, int(n * p0 - s)), min(n, int(n * p0 + s) + 1) + 1)
            for n, s in zip(self.looks, spread, strict=True)
        ]

    @cached_property
    def ratios(self) -> list[Float[np.ndarray, "point count"]]:
        """Likelihood ratios to p0, for each look."""
        return [np.exp(np.minimum(self._log_ratio(n, k), 600)) for n, k in zip(self.looks, self.counts, strict=True)]

    def _log_ratio(self, n: int, k: np.ndarray) -> Float[np.ndarray, "point count"]:
        return np.outer(self.log_yes, k) + np.outer(self.log_no, n - k)

    def design(self, stop: list[np.ndarray], go: list[np.ndarray], error: float) -> Design:
        """The design that minimizes expected cost, by backward induction.

        Args:
            stop: for each look, by count: the cost of giving up, weighed by the prior and its likelihood ratio.
            go: likewise, of one more sample.
            error: the cost of certifying at p0.
        """
        certify, give_up = [0] * len(self.looks), [0] * len(self.looks)
        value = None
        for look in reversed(range(len(self.looks))):
            n, counts = self.looks[look], self.counts[look]
            on = np.full(len(counts), np.inf) if value is None else self._go_on(look, value, go[look], error)
            value = np.minimum(np.minimum(stop[look], error), on)
            unsure = np.flatnonzero((error > stop[look]) | (error > on))
            hopeless = np.flatnonzero((stop[look] < error) & (stop[look] <= on))
            certify[look] = int(counts[unsure[-1]]) + 1 if len(unsure) else int(counts[0])
            give_up[look] = int(counts[hopeless[-1]]) if len(hopeless) else -1
            if certify[look] > counts[-1]:
                certify[look] = n + 1
        return Design(self.p0, self.looks, tuple(certify), tuple(give_up))

    def _go_on(self, look: int, value: np.ndarray, go: np.ndarray, error: float) -> np.ndarray:
        """The cost of going on to the next look; beyond its counts it costs nothing to give up, or certifies."""
        step, least = self.steps[look + 1]
        first = int(self.counts[look][0]) + least - int(self.counts[look + 1][0])
        reached = first + np.arange(len(go) + len(step) - 1)
        inside = value[np.clip(reached, 0, len(value) - 1)]
        later = np.where(reached < 0, 0.0, np.where(reached >= len(value), error, inside))
        more = self.looks[look + 1] - self.looks[look]
        return more * go + np.convolve(later, step[::-1], mode="valid")

    def outcomes(self, design: Design) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
        """Probability to certify and expected samples at every share, from one walk at p0 and likelihood ratios.

        Right to a few digits, which is enough to choose by; `Design.outcome` is exact.
        """
        certified, samples = np.zeros(len(self.z)), np.zeros(len(self.z))
        walk, first = np.ones(1), 0
        for n, c, f, (step, least) in zip(design.looks, design.certify_at, design.give_up_at, self.steps, strict=True):
            walk, first = np.convolve(walk, step), first + least
            end = min(max(c - first, 0), len(walk))
            begin = min(max(f + 1 - first, 0), end)
            for part, start, yes in ((walk[:begin], first, 0), (walk[end:], first + end, 1)):
                if len(part):
                    chance = self._log_ratio(n, start + np.arange(len(part))) + np.log(np.maximum(part, 1e-300))
                    there = np.exp(np.minimum(chance, 0)).sum(axis=1)
                    certified += yes * there
                    samples += n * there
            walk, first = walk[begin:end], first + begin
            if not len(walk):
                break
        return np.minimum(certified, 1), samples


def best_design(
    walks: Walks,
    prior: Float[np.ndarray, " point"],
    lost: Float[np.ndarray, " point"],
    tolerance: float = 0.005,
    guess: float = 1e6,
) -> tuple[Design, float]:
    """The design with type-one error at most alpha that costs least, and the multiplier that found it.

    Args:
        walks: share to exceed, level and looks.
        prior: weight of the samples at each share.
        lost: cost of not certifying each share; 0 for those not above p0.
        tolerance: part of alpha that may be left.
        guess: a multiplier to start from.
    """
    stop, go = [lost @ ratio for ratio in walks.ratios], [prior @ ratio for ratio in walks.ratios]
    low, high, bold = -math.inf, math.inf, None  # logarithms of multipliers: too small, large enough
    at, careful = math.log(guess), None
    for tries in range(60):
        found = walks.design(stop, go, math.exp(at))
        error = found.type_one_error
        if error > walks.alpha:
            low, bold = at, found
        else:
            high, careful = at, found
            if error >= walks.alpha * (1 - tolerance):
                return found, math.exp(high)
        if high - low < 1e-3:
            break
        step = math.log(max(error, 1e-30) / walks.alpha)
        at += math.copysign(min(max(abs(step), 1e-3 * 2**tries), 2.0), step)  # as if error ~ 1 / multiplier
        if not low < at < high:
            at = (low + high) / 2
    assert careful is not None
    for factor in (1.0, 0.5, 0.25):  # an error that jumps, as counts do, leaves some of alpha for bolder first looks
        bold = bold if factor == 1.0 and bold else walks.design(stop, go, factor * math.exp(high))
        if careful.type_one_error < walks.alpha * (1 - tolerance):
            careful = _between(careful, bold, walks.alpha)
    return careful, math.exp(high)


def _between(careful: Design, bold: Design, alpha: float) -> Design:
    """The careful design with as many of the bold one's first looks as keep its error at most alpha."""

    def mixed(looks: int) -> Design | None:
        certify = (*map(min, careful.certify_at[:looks], bold.certify_at[:looks]), *careful.certify_at[looks:])
        if any(c <= f for c, f in zip(certify, careful.give_up_at, strict=True)):
            return None
        found = Design(careful.p0, careful.looks, certify, careful.give_up_at)
        return found if found.type_one_error <= alpha else None

    best, low, high = careful, 0, len(careful.looks) + 1
    while high - low > 1:
        middle = (low + high) // 2
        found = mixed(middle)
        best, low, high = (found, middle, high) if found else (best, low, middle)
    return best
