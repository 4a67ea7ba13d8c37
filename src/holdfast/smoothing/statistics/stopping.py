"""How many samples a radius is worth, decided on the way, with the bound for a fixed number of samples.

At each look sampling goes on from a number of votes, and ends below it. Whoever goes on has more votes than all who end
there, and that makes the bound of Clopper and Pearson true as it stands, however often one looks. Let p be the true
share, n the first look at which who ends may claim more than p, and k the fewest votes with which they do. Every false
claim has k votes or more after n samples: that of who ends there, for k is the fewest; that of who ends later, for they
went on. So many votes have probability at most alpha, or they would not claim more than p. This is the order of stages
by Armitage ("Numerical studies in the sequential assessment of a test", 1958), with all ends on the lower side.

So looks cost nothing, and where to end is free to choose: `best_stopping` finds what maximizes, under a prior on the
share, the expected radius minus a price for each sample, by backward induction. A wrong prior costs samples or radius;
`Stopping.error` computes the probability of a false claim from the numbers alone, by forward recursion.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri
from scipy.stats import beta, binom

from .binomial import lower_bounds, window
from .design import ROUNDING

PRIOR = (0.5, 0.1)
"""Of the share of the top class: a Beta distribution with most of its mass at 1, as published logs have it. Against an
oracle that is told every share, it loses a quarter of a percent of the mean radius or less on every log."""
FIRST_LOOK, GROWTH, MIN_GAIN = 16, 1.25, 0.1
"""Samples at the first look of `adaptive`, the factor from look to look, and its price, if nothing else is said."""
SHARES, AHEAD = 9, 5
"""Quantiles of the share, and of the votes to come given the share, that stand for all."""


@dataclass(frozen=True)
class Stopping:
    """Looks, and the votes from which sampling goes on at each.

    Raises:
        ValueError: looks that are not positive and increasing, or not one count for each, that ends all at the last.
    """

    looks: tuple[int, ...]
    """Numbers of samples at which to look."""
    go_on_at: tuple[int, ...]
    """Go on with at least this many votes, end with fewer; samples + 1 at the last look."""

    def __post_init__(self) -> None:
        if not self.looks or any(b <= a for a, b in pairwise((0, *self.looks))):
            raise ValueError(f"expected positive, increasing numbers of samples to look at, got {self.looks}")
        if len(self.go_on_at) != len(self.looks) or self.go_on_at[-1] <= self.looks[-1]:
            raise ValueError(f"expected a count to go on at for each look, and all to end at the last: {self.go_on_at}")

    def error(self, share: float, alpha: float) -> float:
        """The probability that the bound at level alpha exceeds the share, rounded up."""
        wrong = sum(float(p[lower_bounds(k, n, alpha) > share].sum()) + cut for n, k, p, cut in self._ends(share))
        return wrong * ROUNDING

    def outcome(self, share: float, alpha: float) -> tuple[float, float]:
        """Expected radius, in units of sigma, and expected samples, at a share."""
        radius = samples = 0.0
        for n, k, p, _ in self._ends(share):
            radius += float(p @ normal_radii(lower_bounds(k, n, alpha)))
            samples += n * float(p.sum())
        return radius, samples

    def outcomes(
        self, shares: Float[np.ndarray, " share"], alpha: float
    ) -> tuple[Float[np.ndarray, " share"], Float[np.ndarray, " share"]]:
        """`outcome` of many shares, interpolated between those of a grid of 117."""
        z = np.linspace(-0.3, 5.5, 117)
        radii, samples = np.array([self.outcome(float(share), alpha) for share in ndtr(z)]).T
        at = ndtri(np.clip(shares, ndtr(z[0]), ndtr(z[-1])))
        return np.interp(at, z, radii), np.interp(at, z, samples)

    def _ends(self, share: float) -> Iterator[tuple[int, np.ndarray, np.ndarray, float]]:
        """For each look: samples, the counts that end there, their probabilities, a bound on what was cut before."""
        walk, first, before = np.ones(1), 0, 0
        for n, go_on_at in zip(self.looks, self.go_on_at, strict=True):
            step, least, outside = window(n - before, min(max(share, 1e-12), 1 - 1e-12))
            walk, first, before = np.convolve(walk, step), first + least, n
            ends = min(max(go_on_at - first, 0), len(walk))
            yield n, first + np.arange(ends), walk[:ends], outside
            walk, first = walk[ends:], first + ends
            if not len(walk):
                return


def normal_radii(shares: Float[np.ndarray, " count"]) -> Float[np.ndarray, " count"]:
    """Radii in units of sigma that shares prove under Gaussian noise; 0 where they prove none."""
    return np.maximum(ndtri(shares), 0.0)


def best_stopping(
    looks: tuple[int, ...],
    alpha: float,
    min_gain: float,
    radii: Callable[[Float[np.ndarray, " count"]], Float[np.ndarray, " count"]] = normal_radii,
    prior: tuple[float, float] = PRIOR,
) -> Stopping:
    """Where to end for the most expected radius, less min_gain for every 10,000 samples.

    Args:
        looks: numbers of samples at which to look.
        alpha: level of the bound.
        min_gain: in the unit of `radii`.
        radii: that lower bounds on shares prove; increasing.
        prior: parameters of the Beta distribution of the share.
    """
    counts = [_some_counts(n) for n in looks]
    ended = [radii(lower_bounds(k, n, alpha)) for k, n in zip(counts, looks, strict=True)]
    value, go_on_at = ended[-1], [looks[-1] + 1]
    for look in reversed(range(len(looks) - 1)):
        n, more = looks[look], looks[look + 1] - looks[look]
        later = counts[look][:, None, None] + _votes_ahead(counts[look], n, more, prior)
        on = np.interp(later, counts[look + 1], value).mean(axis=(1, 2)) - min_gain * more / 10_000
        ends = counts[look][on <= ended[look]]
        go_on_at.append(int(ends[-1]) + 1 if len(ends) else 0)
        value = np.where(counts[look] < go_on_at[-1], ended[look], on)
    return Stopping(looks, tuple(go_on_at[::-1]))


def _some_counts(n: int) -> Int[np.ndarray, " count"]:
    """Counts of n votes, as many as tell a radius from its neighbor's; between them the value is interpolated."""
    spread = np.rint(n * ndtr(np.linspace(-1.2, 5.0, 220))).astype(int)
    return np.unique(np.concatenate([spread, n - np.arange(min(n, 12))]))


def _votes_ahead(k: Int[np.ndarray, " count"], n: int, more: int, prior: tuple[float, float]) -> np.ndarray:
    """(count, SHARES, AHEAD) votes among so many more samples, equally likely, after k of n."""
    share = beta.ppf((np.arange(SHARES) + 0.5) / SHARES, k[:, None] + prior[0], n - k[:, None] + prior[1])
    return binom.ppf((np.arange(AHEAD) + 0.5) / AHEAD, more, share[..., None])
