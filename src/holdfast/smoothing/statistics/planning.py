"""How many samples are worth it: what a smaller n or alpha would leave of the radius and of the certified accuracy.

Closed forms: Seferis, Kollias and Cheng, "Estimating the robustness radius for randomized smoothing with 100x sample
efficiency" (2024), from the normal approximation and a distribution of vote shares without mass near 1. They are
optimistic for strong classifiers, whose shares pile up at 1: a hundredth of the samples then costs 28 to 34 % of the
radius and not 20 %. The exact expectations below take the shares of a pilot run or of a published log instead.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import binom

from .binomial import lower_bounds, radius_cap, share_needed, window

SEFERIS = 1.64
"""The constant of the published law; 2.02 would be exact for vote shares spread evenly over [1/2, 1]."""

ABSTAINED = 0.45
"""The share assumed for an abstention in a log, which says no more than: too few votes for any radius."""


def radius_ratio(n: int, alpha: float, constant: float = SEFERIS) -> float:
    """The average radius at n samples as a fraction of that at infinitely many: 1 - constant z / sqrt(n), or 0.

    Raises:
        ValueError: n < 1 or alpha outside (0, 1).
    """
    return float(max(0.0, 1 - constant * _z(n, alpha) / np.sqrt(n)))


def accuracy_loss(n: int, alpha: float) -> float:
    """The most certified accuracy, at any radius, that n samples lose against infinitely many: z / sqrt(n), or 1.

    Exact bound under the normal approximation for vote shares spread evenly over [1/2, 1]; errors as `radius_ratio`.
    """
    return float(min(1.0, _z(n, alpha) / np.sqrt(n)))


def shore_radius(shares: Float[np.ndarray, " share"], n: int, alpha: float) -> Float[np.ndarray, " share"]:
    """The radius, in units of sigma, that n samples prove at each vote share; about, and 0 where they prove none.

    Seferis, Kollias & Cheng, eq. (1): Shore's approximation of the normal quantile, and its derivative for what the
    confidence bound costs. Its last exponent is that derivative's, -0.365, where their README prints -0.135. At a share
    of 1, where the derivative has no value, inf - inf is taken as 0.

    Raises:
        ValueError: n < 1, alpha outside (0, 1) or a share outside [0, 1].
    """
    _check_shares(shares)
    p, q = np.asarray(shares, dtype=float), 1 - np.asarray(shares, dtype=float)
    spread = 0.135 * _z(n, alpha) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = p**-0.365 * q**0.5 + p**0.5 * q**-0.365
        radius = 5.063 * (p**0.135 - q**0.135 - spread * slope)
    return np.where(np.isfinite(radius), np.maximum(radius, 0.0), 0.0)


def samples_for_loss(loss: float, alpha: float) -> int:
    """The n at which `radius_ratio` says that a fraction `loss` of the average radius is lost: (1.64 z / loss)^2.

    Raises:
        ValueError: loss or alpha outside (0, 1).
    """
    _check_loss(loss)
    return int(np.ceil((SEFERIS * _z(1, alpha) / loss) ** 2))


def shares_from_radii(
    radii: Float[np.ndarray, " example"], sigma: float, n: int = 100_000, alpha: float = 1e-3
) -> Float[np.ndarray, " example"]:
    """The vote shares whose one-class radii at (n, alpha) come nearest to those of a log; `ABSTAINED` for radius 0.

    Raises:
        ValueError: a radius above the cap of (sigma, n, alpha) by more than the rounding of three digits.
    """
    cap = radius_cap(sigma, n, alpha)
    if (top := float(np.max(radii, initial=0.0))) > cap * 1.005:
        raise ValueError(
            f"a radius of {top:.4g} is impossible at sigma = {sigma}, n = {n} and alpha = {alpha}, where the largest "
            f"is {cap:.4g}; give the values that the log was made with"
        )
    scale = radii / sigma
    table = radii_of_counts(n, alpha)
    above = np.clip(np.searchsorted(table, scale), 1, n)
    nearest = above - (scale - table[above - 1] < table[above] - scale)
    return np.where(radii > 0, nearest / n, ABSTAINED)


def radii_of_counts(n: int, alpha: float) -> Float[np.ndarray, " count"]:
    """The one-class radius, in units of sigma, of every count from 0 to n; 0 where it abstains."""
    return np.maximum(ndtri(lower_bounds(np.arange(n + 1), n, alpha)), 0.0)


def expected_radii(shares: Float[np.ndarray, " example"], n: int, alpha: float) -> Float[np.ndarray, " example"]:
    """The mean radius, in units of sigma, that n fresh samples prove at each vote share.

    Raises:
        ValueError: n < 1, alpha outside (0, 1) or a share outside [0, 1].
    """
    _check_shares(shares)
    table = radii_of_counts(n, alpha)
    distinct, where = np.unique(shares, return_inverse=True)
    return np.array([_expectation(table, n, float(p)) for p in distinct])[where]


def certified_probability(
    shares: Float[np.ndarray, " example"], radius: float, n: int, alpha: float
) -> Float[np.ndarray, " example"]:
    """The probability that n fresh samples certify a radius, in units of sigma, at each vote share.

    Raises:
        ValueError: as `expected_radii`, or a negative radius.
    """
    _check_shares(shares)
    bounds = lower_bounds(np.arange(n + 1), n, alpha)
    enough = np.searchsorted(bounds, share_needed(radius, 1.0))
    return binom.sf(enough - 1, n, shares)


def samples_for_share_loss(
    shares: Float[np.ndarray, " example"], loss: float, alpha: float, n_max: int = 100_000
) -> int:
    """The smallest n that loses at most a fraction `loss` of the mean radius at n_max, for these vote shares.

    Found by doubling and bisection: but for the granularity of counts the mean radius grows with n.

    Raises:
        ValueError: as `expected_radii`, or loss outside (0, 1).
    """
    _check_loss(loss)
    wanted = (1 - loss) * expected_radii(shares, n_max, alpha).mean()

    def enough(n: int) -> bool:
        return n >= n_max or bool(expected_radii(shares, n, alpha).mean() >= wanted)

    high = 1
    while not enough(high):
        high *= 2
    low, high = high // 2, min(high, n_max)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _expectation(table: Float[np.ndarray, " count"], n: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(table[round(n * p)])
    weights, first, _ = window(n, p)
    return float(weights @ table[first : first + len(weights)])


def _z(n: int, alpha: float) -> float:
    if n < 1 or not 0 < alpha < 1:
        raise ValueError(f"expected n >= 1 and alpha in (0, 1), got n = {n} and alpha = {alpha}")
    return float(-ndtri(alpha / 2))


def _check_loss(loss: float) -> None:
    if not 0 < loss < 1:
        raise ValueError(f"expected a loss in (0, 1), the fraction of the radius given up, got {loss}")


def _check_shares(shares: Float[np.ndarray, " example"]) -> None:
    if shares.size == 0 or not np.all((shares >= 0) & (shares <= 1)):
        raise ValueError("expected at least one vote share, all of them in [0, 1]")
