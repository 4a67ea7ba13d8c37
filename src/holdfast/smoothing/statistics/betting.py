"""Bounds on a vote share that hold at every sample count at once, and evidence for or against a share.

Wealth of a gambler who bets against the share p with the Krichevsky-Trofimov estimate (Voracek, "Treatment of
statistical estimation problems in randomized smoothing", 2024, Algorithm 2). In closed form it depends on the counts
alone; it is a martingale at the true share, so it ever exceeds 1 / alpha with probability at most alpha (Ville).
"""

import math
import operator
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincc, betaln, xlog1py, xlogy

from .binomial import check

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
