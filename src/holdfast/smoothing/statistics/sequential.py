"""Votes that are looked at while they come in: is a share above p0, and which bounds on it hold at every look?

Boundaries, where the looks are fixed numbers of samples. At each look an input is certified if it has at least
`certify_at` votes, given up if it has at most `give_up_at`, and sampled further otherwise. The boundaries spend the
error probability as in Lan and DeMets, "Discrete sequential boundaries for clinical trials" (1983), but exactly: the
distribution of the Binomial walk is carried from look to look.

A radius that is proven at every look at once comes from boundaries on a grid of radii. Each radius of the grid has its
own exact boundary at level alpha, made monotone in the radius. Let r be the smallest grid radius above the true one:
every false claim crosses the boundary of r, which happens with probability at most alpha. So there is no union bound
over radii or looks, and any stopping rule is allowed.

Betting, where the largest number of samples is not known beforehand: `kt_lower` and `kt_upper` hold at every number of
samples at once. Wealth of a gambler who bets against the share p with the Krichevsky-Trofimov estimate (Voracek,
"Treatment of statistical estimation problems in randomized smoothing", 2024, Algorithm 2). In closed form it depends on
the counts alone; it is a martingale at the true share, so it ever exceeds 1 / alpha with probability at most alpha
(Ville).
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincc, betaln, xlog1py, xlogy

from .binomial import check, lower_bound, share_needed, window

NEGLIGIBLE = 1e-15
"""Probability of the far low end of a walk that is no longer followed from each look; it is counted as an error."""


@dataclass(frozen=True)
class Boundary:
    """Counts to reach at the looks, and the probability of ever reaching them."""

    counts: Int[np.ndarray, " look"]
    """Stop at the first look with at least this many successes; one more than the samples where nothing stops."""
    spent: float
    """The exact probability, at p0, of stopping at any look; rounded up."""


@dataclass(frozen=True)
class GroupSequential:
    """A test of "the vote share is above p0" that is looked at several times and keeps its level.

    Raises:
        ValueError: p0, alpha or beta outside (0, 1), or looks that are not positive and increasing.
    """

    p0: float
    """The share to exceed: Phi(r / sigma) for a radius r (`binomial.share_needed`)."""
    alpha: float
    """Probability, at most, that an input with a share of p0 or less is certified."""
    looks: tuple[int, ...]
    """Numbers of samples at which to look."""
    beta: float = 1e-3
    """Probability, at most, that an input with a share of p0 or more is given up."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "looks", check_looks(self.looks))
        for name in ("p0", "alpha", "beta"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"expected {name} in (0, 1), got {getattr(self, name)}")

    @property
    def certify_at(self) -> Int[np.ndarray, " look"]:
        """Certify at the first look with at least this many votes; samples + 1 where that is impossible."""
        return self._certify.counts

    @property
    def type_one_error(self) -> float:
        """The exact probability, at most alpha, that a share of p0 is certified if no walk is given up.

        A smaller share is certified less often (its votes can be coupled to be fewer), and giving up only ends walks
        that might have been certified later: neither can raise the error.
        """
        return self._certify.spent

    @property
    def give_up_at(self) -> Int[np.ndarray, " look"]:
        """Give up at the first look with at most this many votes; -1 where that is impossible."""
        return np.array(self.looks) - self._give_up.counts

    @property
    def type_two_error(self) -> float:
        """The exact probability, at most beta, that a share of p0 is given up if no walk is certified."""
        return self._give_up.spent

    @cached_property
    def _certify(self) -> Boundary:
        # half of alpha for the last look: there the test is almost as powerful as one that looks only once
        return boundary(self.p0, self.looks, spending(self.alpha, len(self.looks), last=0.5))

    @cached_property
    def _give_up(self) -> Boundary:
        # on the missing votes; nothing kept for the last look, where giving up saves no samples
        return boundary(1 - self.p0, self.looks, spending(self.beta, len(self.looks), last=0.0))


@dataclass(frozen=True)
class RadiusBoundaries:
    """Boundaries for several radii of one input, whose votes are looked at several times.

    Raises:
        ValueError: radii not increasing, negative or beyond what the last look can prove; alpha, beta or looks as in
            `GroupSequential`.
    """

    radii: tuple[float, ...]
    """Increasing radii in units of sigma; 0.0 stands for "no abstention"."""
    alpha: float
    """Probability, at most, that the largest certified radius exceeds the true one."""
    looks: tuple[int, ...]
    """Numbers of samples at which to look."""
    beta: float = 1e-3
    """Probability, at most, that a radius is ruled out although it is below the true one."""
    shares: tuple[float, ...] = ()
    """The share of the votes that each radius needs; by default that under Gaussian noise."""

    def __post_init__(self) -> None:
        if not self.shares:
            object.__setattr__(self, "shares", tuple(share_needed(radius, 1.0) for radius in self.radii))
        if not self.radii or any(b <= a for a, b in pairwise(self.radii)):
            raise ValueError(f"expected increasing radii in units of sigma, got {self.radii}")
        if len(self.shares) != len(self.radii) or any(b < a for a, b in pairwise(self.shares)):
            raise ValueError(f"expected an increasing share for every radius, got {self.shares}")
        most = self._test(self.shares[0]).looks[-1]
        cap = lower_bound(most, most, self.alpha)
        if self.shares[-1] > cap:
            raise ValueError(
                f"a radius of {self.radii[-1]:.4g} sigma can never be certified: it needs {self.shares[-1]:.6f} of the "
                f"votes, and {most} samples at alpha = {self.alpha} prove at most {cap:.6f}; take more samples or a "
                "larger sigma"
            )

    @cached_property
    def certify_at(self) -> Int[np.ndarray, "look radius"]:
        """Votes that certify each radius at each look; increasing with the radius."""
        counts = np.stack([self._test(share).certify_at for share in self.shares], axis=1)
        return np.maximum.accumulate(counts, axis=1)

    @cached_property
    def give_up_at(self) -> Int[np.ndarray, "look radius"]:
        """Votes at or below which each radius is ruled out at each look; increasing with the radius."""
        counts = np.stack([self._test(share).give_up_at for share in self.shares], axis=1)
        return np.minimum.accumulate(counts[:, ::-1], axis=1)[:, ::-1]

    def certified(self, look: int, counts: ArrayLike) -> Int[np.ndarray, "*shape"]:
        """How many of the radii these votes certify at this look; keep the maximum over the looks seen."""
        return np.searchsorted(self.certify_at[look], counts, side="right")

    def possible(self, look: int, counts: ArrayLike) -> Int[np.ndarray, "*shape"]:
        """How many of the radii these votes leave possible at this look; keep the minimum over the looks seen."""
        return np.searchsorted(self.give_up_at[look], counts, side="left")

    def gain(self, look: int, counts: ArrayLike, certified: ArrayLike) -> Float[np.ndarray, "*shape"]:
        """The most radius per further sample, in units of sigma, that going on to a later look is expected to add.

        For votes that go on arriving at the estimated share (count + 1/2) / (n + 1), with `certified` radii so far.
        It may be used to decide when to stop: a wrong guess costs samples or radius, never validity.
        """
        counts, certified, n = np.asarray(counts), np.asarray(certified), self.looks[look]
        proven = np.array([0.0, *self.radii])
        rates = [np.zeros(np.broadcast_shapes(counts.shape, certified.shape))]
        for later, more in enumerate(np.array(self.looks[look + 1 :]) - n, start=look + 1):
            ahead = self.certified(later, np.rint(counts + more * (counts + 0.5) / (n + 1)))
            rates.append((proven[np.maximum(ahead, certified)] - proven[certified]) / more)
        return np.max(rates, axis=0)

    def _test(self, share: float) -> GroupSequential:
        return GroupSequential(share, self.alpha, self.looks, self.beta)


@lru_cache(maxsize=64)
def looks(first: int = 100, n_max: int = 100_000, growth: float = 1.15) -> tuple[int, ...]:
    """Sample counts that grow by steps of `first` and then by the factor `growth`, in multiples of `first`.

    Raises:
        ValueError: first < 1, n_max < first or growth < 1.
    """
    if not 1 <= first <= n_max:
        raise ValueError(f"expected 1 <= first look <= n_max, got first = {first} and n_max = {n_max}")
    if not 1 <= growth < np.inf:
        raise ValueError(f"expected a growth of at least 1, got {growth}")
    found, n = [], first
    while n < n_max:
        found.append(n)
        n = max(n + first, round(n * growth / first) * first)
    return (*found, n_max)


def check_looks(looks: Sequence[int]) -> tuple[int, ...]:
    """The looks as plain integers; a ValueError where they are none, not positive or not increasing."""
    plain = tuple(operator.index(n) for n in looks)
    if not plain or plain[0] < 1 or any(b <= a for a, b in pairwise(plain)):
        raise ValueError(f"expected positive, increasing numbers of samples to look at, got {plain}")
    return plain


def spending(error: float, looks: int, last: float) -> tuple[float, ...]:
    """The error allowed up to each look: a part `last` of it for the last look, the rest evenly for those before."""
    return (*np.linspace(0, error * (1 - last), looks)[1:].tolist(), error)


@lru_cache(maxsize=4096)
def boundary(p0: float, looks: tuple[int, ...], budgets: tuple[float, ...]) -> Boundary:
    """The lowest counts that Binomial walks of share p0 reach by look k with probability at most budgets[k]."""
    counts = np.empty(len(looks), dtype=np.int64)
    walk, first, spent, before = np.ones(1), 0, 0.0, 0  # walk[i] = P(not stopped yet, first + i successes)
    for look, (n, budget) in enumerate(zip(looks, budgets, strict=True)):
        step, least, lost = window(n - before, p0)
        walk, first, before = np.convolve(walk, step), first + least, n
        spent += lost
        at_least = np.cumsum(walk[::-1])[::-1]
        room = budget * (1 - 1e-9) - spent  # 1e-9: far above the rounding of these positive sums
        stop = int(np.searchsorted(-at_least, -room))
        counts[look] = min(first + stop, n + 1)
        low = int(np.searchsorted(np.cumsum(walk[:stop]), NEGLIGIBLE))
        spent += float(walk[stop:].sum() + walk[:low].sum())
        walk, first = walk[low:stop], first + low
    counts.setflags(write=False)
    return Boundary(counts, spent)


MARGIN = 1e-9
"""Log-wealth asked for beyond log(1 / alpha): above the rounding error of the beta functions."""

START = float(betaln(0.5, 0.5))
"""Of the prior of the estimate: log-wealth begins at 0."""


def log_kt(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> Float[np.ndarray, "*shape"]:
    """Log-wealth against the share p after k successes in n samples; any shapes that broadcast."""
    k, n, p = np.asarray(k), np.asarray(n), np.asarray(p)
    return betaln(k + 0.5, n - k + 0.5) - START - xlogy(k, p) - xlog1py(n - k, -p)


def log_evidence_above(k: ArrayLike, n: ArrayLike, p0: ArrayLike) -> Float[np.ndarray, "*shape"]:
    """Log of the evidence that the share is above p0: the same wager spread over the shares above p0 only.

    A test martingale at p0 and a supermartingale below: it ever exceeds log(1 / alpha) with probability at most alpha.
    """
    k, n = np.asarray(k), np.asarray(n)
    with np.errstate(divide="ignore"):
        return log_kt(k, n, p0) + np.log(betaincc(k + 0.5, n - k + 0.5, p0) / betaincc(0.5, 0.5, p0))


def log_evidence_below(k: ArrayLike, n: ArrayLike, p0: ArrayLike) -> Float[np.ndarray, "*shape"]:
    """Log of the evidence that the share is below p0; the mirror of `log_evidence_above`."""
    k, n = np.asarray(k), np.asarray(n)
    with np.errstate(divide="ignore"):
        return log_kt(k, n, p0) + np.log(betainc(k + 0.5, n - k + 0.5, p0) / betainc(0.5, 0.5, p0))


def kt_lower(k: int, n: int, alpha: float, least: float = 0.0) -> float:
    """A lower bound that holds, together with `kt_upper`, at every n at once with probability 1 - alpha.

    Args:
        k, n: successes and samples.
        alpha: probability that any of these bounds is false.
        least: the bound from another n; it is returned where it is the better one, which is found out quickly.

    Raises:
        TypeError: k or n is not an integer.
        ValueError: n < 1, k outside [0, n] or alpha outside (0, 1).
    """
    k, n = operator.index(k), operator.index(n)
    if not (0 <= k <= n and n >= 1 and 0 < alpha < 1):
        check(np.array(k), n, alpha)
    excess = float(betaln(k + 0.5, n - k + 0.5)) - START + math.log(alpha) - MARGIN

    def rejected(p: float) -> bool:
        return excess >= k * math.log(p) + (n - k) * math.log1p(-p)

    low, high = least, k / n
    if low >= high or (low > 0 and not rejected(low)):
        return low
    for _ in range(60):  # keeps low rejected, so the bound is rounded down
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def kt_best_lower(counts: Sequence[int], looks: Sequence[int], alpha: float) -> float:
    """The largest `kt_lower` of several looks: they hold together."""
    best = 0.0
    for k, n in reversed([*zip(counts, looks, strict=True)]):  # the last is the best as a rule
        best = kt_lower(k, n, alpha, best)
    return best


def kt_best_upper(counts: Sequence[int], looks: Sequence[int], alpha: float) -> float:
    """The smallest `kt_upper` of several looks: they hold together."""
    return _above(kt_best_lower([n - k for k, n in zip(counts, looks, strict=True)], looks, alpha))


def kt_upper(k: int, n: int, alpha: float) -> float:
    """The upper bound that goes with `kt_lower`; the same errors."""
    return _above(kt_lower(n - k, n, alpha))


def _above(lower: float) -> float:
    """The upper bound on a share whose complement has this lower bound, rounded up."""
    return min(1 - lower + float(np.finfo(float).eps), 1.0)
