"""A number with its interval: what the examples at hand say about the distribution they were drawn from.

- a share of examples: the exact interval of Clopper and Pearson, Biometrika 26 (1934)
- a mean (average certified radius): Student's t. The radii are bounded and there are hundreds of them, so the mean is
  close to normal; and unlike a bootstrap it needs no random numbers and has a paired form.
- a difference of two shares on the same examples: Tango's score interval, Statistics in Medicine 17 (1998), which
  stays sensible when few examples or none differ; its test of equality is McNemar's, here in the exact form.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import optimize, stats

LEVEL = 0.95
"""Coverage of every interval in a report."""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def clopper_pearson(
    k: Int[NDArray, " radius"], m: int, level: float = LEVEL
) -> tuple[Float[NDArray, " radius"], Float[NDArray, " radius"]]:
    """Lower and upper ends of the exact interval for a share of which k in m were seen."""
    tail = (1 - level) / 2
    low = np.where(k > 0, stats.beta.ppf(tail, k, m - k + 1), 0.0)
    high = np.where(k < m, stats.beta.ppf(1 - tail, k + 1, m - k), 1.0)
    return low, high


def share(k: int, m: int) -> Estimate:
    """k of m examples, with the exact interval."""
    low, high = clopper_pearson(np.array([k]), m)
    return Estimate(k / m, float(low[0]), float(high[0]))


def mean(values: Float[NDArray, " example"]) -> Estimate:
    """The mean with Student's interval; one example alone has the interval (-inf, inf)."""
    center = float(values.mean())
    if len(values) < 2:
        return Estimate(center, -math.inf, math.inf)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return Estimate(center, center - half, center + half)


def mean_is_zero(values: Float[NDArray, " example"]) -> float:
    """Two-sided p-value of Student's test that the mean is 0."""
    error = float(stats.sem(values)) if len(values) > 1 else math.inf
    if error == 0:
        return float(not values.any())
    return float(2 * stats.t.sf(abs(values.mean()) / error, max(len(values) - 1, 1)))


def paired_difference(gained: int, lost: int, m: int) -> Estimate:
    """Difference of two shares on the same m examples: (gained - lost) / m with Tango's interval.

    Args:
        gained: examples that only the second has.
        lost: examples that only the first has.
        m: examples in all.
    """
    difference = (gained - lost) / m
    z = float(stats.norm.ppf((1 + LEVEL) / 2))

    def beyond(delta: float) -> float:
        return _tango_score(gained, lost, m, delta) ** 2 - z**2

    low = -1.0 if lost == m else _root(beyond, -1 + 1e-12, difference)
    high = 1.0 if gained == m else _root(beyond, difference, 1 - 1e-12)
    return Estimate(difference, low, high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return optimize.root_scalar(function, bracket=(low, high), method="brentq").root


def _tango_score(gained: int, lost: int, m: int, delta: float) -> float:
    """Distance of the data from a true difference delta, in standard deviations."""
    distance = gained - lost - m * delta
    if distance == 0:
        return 0.0
    b = -gained - lost + (2 * m - gained + lost) * delta
    root = math.sqrt(max(b * b + 8 * m * lost * delta * (1 - delta), 0.0))
    q = (root - b) / (4 * m)  # the likeliest share of lost examples when the difference is delta
    return distance / math.sqrt(m * (2 * q + delta * (1 - delta)))


def shares_are_equal(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test that two shares on the same examples are equal."""
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def most_wrong(m: int, alpha: float, rho: float) -> int:
    """How many of m certificates can be wrong, except with probability rho.

    Each is wrong with probability at most alpha, independently, so their number is at most a binomial variable. This is
    exact. The closed form in the released code of Cohen et al. (2019), alpha + sqrt(alpha (1 - alpha) ln(1/rho) / m) +
    ln(1/rho) / (3 m), lacks a factor 2 under the root that Bernstein's inequality has, and is exceeded more often than
    rho for large m.
    """
    return int(stats.binom.isf(rho, m, alpha))
