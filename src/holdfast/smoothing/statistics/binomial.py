"""Exact confidence bounds for a vote share, and the l2 radius that they prove.

The bounds are Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial"
(1934); randomized: Voracek, "Treatment of statistical estimation problems in randomized smoothing" (2024), Def. 2.3.
The radii are Theorem 1 of Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing"
(2019). Everything is float64 and rounded towards safety: lower bounds and radii down, upper bounds up.
"""

import operator
from functools import lru_cache
from numbers import Real

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betainc, betainccinv, betaincinv, ndtr, ndtri

SLACK = 1e-12
"""Relative outward rounding: above the error of the incomplete beta function, its inverse and the probit."""


MIN_ALPHA = 1e-15
"""Nearer to 0, 1 - alpha is no longer a float below 1 that states the confidence to a digit."""


def lower_bound(k: int, n: int, alpha: float) -> float:
    """p_lower with P(p_lower > p) <= alpha, whatever p is, when k of n votes are successes.

    Raises:
        TypeError: k or n is not an integer.
        ValueError: n < 1, k outside [0, n] or alpha outside (0, 1).
    """
    return float(lower_bounds(np.array([operator.index(k)]), n, alpha)[0])


def upper_bound(k: int, n: int, alpha: float) -> float:
    """p_upper with P(p_upper < p) <= alpha, whatever p is; errors as `lower_bound`."""
    return float(upper_bounds(np.array([operator.index(k)]), n, alpha)[0])


def lower_bounds(counts: Int[np.ndarray, "*shape"], n: int, alpha: float) -> Float[np.ndarray, "*shape"]:
    """`lower_bound` of every count."""
    check(counts, n, alpha)
    p = betaincinv(np.maximum(counts, 1), n - np.maximum(counts, 1) + 1.0, alpha)
    return np.where(counts > 0, _down(p), 0.0)


def upper_bounds(counts: Int[np.ndarray, "*shape"], n: int, alpha: float) -> Float[np.ndarray, "*shape"]:
    """`upper_bound` of every count."""
    check(counts, n, alpha)
    p = betainccinv(np.minimum(counts, n - 1) + 1.0, n - np.minimum(counts, n - 1), alpha)  # 1 - alpha would round
    return np.where(counts < n, _up(p), 1.0)


BLOCK = 512
"""Neighboring counts whose bounds are computed at once: much cheaper than one by one, and others ask for them soon."""


def fixed_lower(k: int, n: int, alpha: float) -> float:
    """`lower_bound`, kept with those of the counts around it."""
    return _lower_block(k // BLOCK, n, alpha)[k % BLOCK] if 0 <= k <= n else lower_bound(k, n, alpha)


def fixed_upper(k: int, n: int, alpha: float) -> float:
    """`upper_bound`, kept with those of the counts around it."""
    return _upper_block(k // BLOCK, n, alpha)[k % BLOCK] if 0 <= k <= n else upper_bound(k, n, alpha)


@lru_cache(maxsize=1000, typed=True)
def _lower_block(number: int, n: int, alpha: float) -> list[float]:
    return lower_bounds(_block(number, n), n, alpha).tolist()


@lru_cache(maxsize=1000, typed=True)
def _upper_block(number: int, n: int, alpha: float) -> list[float]:
    return upper_bounds(_block(number, n), n, alpha).tolist()


def _block(number: int, n: int) -> Int[np.ndarray, " count"]:
    return np.arange(number * BLOCK, min((number + 1) * BLOCK, n + 1))


def randomized_lower_bound(k: int, n: int, alpha: float, w: float) -> float:
    """The shortest lower bound: inf{p : P(B > k) + w P(B = k) > alpha} with B ~ Binomial(n, p) and w ~ U(0, 1).

    w is drawn once per example, independently of the votes; drawing it again is cherry-picking. For unanimous votes
    w < 2 alpha counts as 2 alpha, which only lowers the bound: w <= alpha would claim an infinite radius.

    Raises:
        TypeError: k or n is not an integer.
        ValueError: n, k or alpha as in `lower_bound`, or w outside [0, 1].
    """
    if not 0 <= w <= 1:
        raise ValueError(f"expected w in [0, 1], one uniform draw per example, got {w}")
    low = lower_bound(k, n, alpha)
    high = 1.0 if k == n else lower_bound(k + 1, n, alpha)
    w = min(max(w, 2 * alpha), 1.0) if k == n else w
    for _ in range(60):
        middle = (low + high) / 2
        at_least = betainc(k, n - k + 1, middle) if k > 0 else 1.0
        more = betainc(k + 1, n - k, middle) if k < n else 0.0
        low, high = (low, middle) if w * at_least + (1 - w) * more > alpha else (middle, high)
    return float(_down(np.array(low)))


def gaussian_radius(p_lower: float, sigma: float) -> float:
    """sigma * Phi^-1(p_lower) in the unit of sigma: the proven l2 radius; 0.0 where p_lower <= 1/2.

    Raises:
        ValueError: p_lower outside [0, 1) or sigma not positive and finite.
    """
    return two_class_radius(p_lower, 1 - p_lower, sigma)


def two_class_radius(p_lower: float, p_upper: float, sigma: float) -> float:
    """sigma / 2 * (Phi^-1(p_lower) - Phi^-1(p_upper)) for the winner and its best rival; 0.0 where not positive.

    Raises:
        ValueError: p_lower outside [0, 1), p_upper outside (0, 1] or sigma not positive and finite.
    """
    if not (0 <= p_lower < 1 and 0 < p_upper <= 1):
        raise ValueError(f"expected p_lower in [0, 1) and p_upper in (0, 1], got {p_lower} and {p_upper}")
    if not 0 < sigma < np.inf:
        raise ValueError(f"expected a positive, finite sigma, got {sigma}")
    winner, rival = float(ndtri(p_lower)), float(ndtri(p_upper))
    return max(0.0, sigma / 2 * (winner - rival - SLACK * (abs(winner) + abs(rival))))


def share_needed(radius: float, sigma: float) -> float:
    """Phi(radius / sigma), rounded up: a larger vote share than this proves the radius.

    Raises:
        ValueError: radius negative or sigma not positive and finite.
    """
    if not 0 <= radius < np.inf:
        raise ValueError(f"expected a radius that is finite and not negative, got {radius}")
    if not 0 < sigma < np.inf:
        raise ValueError(f"expected a positive, finite sigma, got {sigma}")
    return float(_up(ndtr(radius / sigma * (1 + SLACK))))


def radius_cap(sigma: float, n: int, alpha: float) -> float:
    """The largest radius that n votes can prove: all of them for one class; errors as `lower_bound`."""
    return gaussian_radius(lower_bound(n, n, alpha), sigma)


def window(n: int, p: float) -> tuple[Float[np.ndarray, " count"], int, float]:
    """Binomial(n, p) around its mode, for p in (0, 1): probabilities, the first count, a bound on what lies outside.

    By ratios of neighbours from the mode, which keeps the relative error near machine precision for every n.
    """
    mode = min(int((n + 1) * p), n)
    reach = int(8 * np.sqrt(n * p * (1 - p)) + 30)
    least, most = max(mode - reach, 0), min(mode + reach, n)
    odds = p / (1 - p)
    up = odds * (n - np.arange(mode, most + 1)) / np.arange(mode + 1, most + 2)  # the last one leads outside
    down = np.arange(mode, least - 1, -1) / (n - np.arange(mode, least - 1, -1) + 1) / odds
    above, below = np.cumprod(up), np.cumprod(down)
    weights = np.concatenate([below[-2::-1], [1.0], above[:-1]])
    total = weights.sum()
    # beyond the window the ratios only fall: a geometric series bounds each tail
    outside = sum(float(w[-1] / (1 - r[-1])) for w, r in ((above, up), (below, down)) if r[-1] > 0)
    return weights / total, least, outside / total


def check(counts: Int[np.ndarray, "*shape"], n: int, alpha: float) -> None:
    """Refuses impossible numbers of votes and levels, by name."""
    if operator.index(n) < 1:
        raise ValueError(f"expected at least one sample, got n = {n}")
    if not 0 < alpha < 1:
        raise ValueError(f"expected alpha in (0, 1), the probability that a claim is false, got {alpha}")
    if np.any(counts < 0) or np.any(counts > n):
        raise ValueError(f"expected counts between 0 and n = {n}, got {np.min(counts)} to {np.max(counts)}")


def check_alpha(alpha: float) -> None:
    """Refuses a probability of error that no certificate can state."""
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not MIN_ALPHA <= alpha < 1:
        raise ValueError(
            f"expected alpha in [{MIN_ALPHA:g}, 1), the probability that a certificate is wrong, got {alpha}; nearer "
            "to 0 the confidence 1 - alpha rounds to 1, which only a proof without sampling has"
        )


def _down(p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return np.maximum(p - SLACK * p * (1 - p) - np.finfo(float).eps, 0.0)


def _up(p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return np.minimum(p + SLACK * p * (1 - p) + np.finfo(float).eps, 1.0)
