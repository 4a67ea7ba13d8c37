"""Is a vote share above p0? Decided with as few samples as possible by exact group-sequential boundaries.

Votes are looked at a few times, at fixed numbers of samples. At each look an input is certified if it has at least
`certify_at` votes, given up if it has at most `give_up_at`, and sampled further otherwise. The boundaries spend the
error probability as in Lan and DeMets, "Discrete sequential boundaries for clinical trials" (1983), but exactly: the
distribution of the Binomial walk is carried from look to look. Where the largest number of samples is not known
beforehand, `kt_lower` and `kt_upper` hold at every number of samples at once.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Int

from .betting import kt_lower, kt_upper
from .binomial import window

__all__ = ["Boundary", "GroupSequential", "boundary", "kt_lower", "kt_upper", "looks"]

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
