"""The confidence bounds against golden values, exact enumeration and rational arithmetic."""

from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import binomial, mpf, workdps
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from holdfast.smoothing.statistics.binomial import (
    gaussian_radius,
    lower_bound,
    lower_bounds,
    radius_cap,
    randomized_lower_bound,
    share_needed,
    two_class_radius,
    upper_bound,
    upper_bounds,
)

GOLDEN = {
    (90, 100): 0.775329880168,
    (99, 100): 0.911373111296,
    (100, 100): 0.933254300797,
    (1000, 1000): 0.993116048421,
    (99_000, 100_000): 0.988989340377,
    (99_900, 100_000): 0.998650992447,
    (100_000, 100_000): 0.999930924833,
    (50_489, 100_000): 0.499998948489,
    (50_490, 100_000): 0.500008948774,
}
"""Specification section 1, alpha = 0.001."""


@pytest.mark.parametrize(("count", "expected"), GOLDEN.items(), ids=str)
def test_lower_bound_has_the_golden_values(count, expected):
    assert lower_bound(count[0], count[1], 1e-3) == pytest.approx(expected, abs=1e-9)
    k, n = count
    assert upper_bound(n - k, n, 1e-3) == pytest.approx(1 - expected, abs=1e-9)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        ((90, 100), 0.756515405),
        ((1000, 1000), 2.463262615),
        ((99_000, 100_000), 2.289999955),
        ((99_900, 100_000), 3.000200988),
        ((100_000, 100_000), 3.811456563),
        ((50_489, 100_000), 0.0),
    ],
)
def test_gaussian_radius_has_the_golden_values(count, expected):
    assert gaussian_radius(lower_bound(count[0], count[1], 1e-3), 1.0) == pytest.approx(expected, abs=1e-9)
    assert gaussian_radius(lower_bound(count[0], count[1], 1e-3), 0.25) == pytest.approx(expected / 4, abs=1e-9)


@pytest.mark.parametrize(("n", "cap"), [(100, 1.5005), (1000, 2.4633), (10_000, 3.1986), (100_000, 3.8115)])
def test_radius_cap_is_what_unanimous_votes_prove(n, cap):
    assert radius_cap(1.0, n, 1e-3) == pytest.approx(cap, abs=5e-5)
    assert radius_cap(1.0, n, 1e-3) == pytest.approx(ndtri(0.001 ** (1 / n)), abs=1e-9)


def test_smallest_counts_for_a_radius_are_the_golden_ones():
    radii = [0, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 3.8]
    expected = [50_490, 60_350, 69_598, 84_492, 93_563, 97_870, 99_455, 99_900, 99_991, 100_000]
    proven = ndtri(lower_bounds(np.arange(100_001), 100_000, 1e-3))
    assert [int(np.argmax(proven >= radius)) for radius in radii] == expected


@pytest.mark.parametrize("alpha", [1e-3, 0.01, 0.05, 0.3])
def test_bounds_cover_every_share_with_the_promised_probability(alpha):
    """Coverage changes only at the bounds themselves, where it is worst just beyond each of them."""
    for n in range(1, 61):
        counts = np.arange(n + 1)
        for bounds, beyond in ((lower_bounds(counts, n, alpha), 0.0), (upper_bounds(counts, n, alpha), 1.0)):
            shares = np.concatenate([np.nextafter(bounds, beyond), np.linspace(0, 1, 101)])
            wrong = (bounds > shares[:, None]) if beyond == 0 else (bounds < shares[:, None])
            failure = np.sum(wrong * binom.pmf(counts, n, shares[:, None]), axis=1)
            assert failure.max() <= alpha * (1 + 1e-12)
            assert failure.max() > alpha * 0.99  # and no more cautious than that


def test_lower_bound_is_never_above_the_exact_one():
    """In rational arithmetic: P(B >= k) at the bound is at most alpha, and just above it at a slightly larger p."""
    alpha = 1e-3
    for n in (1, 2, 7, 30, 60):
        for k in range(1, n + 1):
            p = lower_bound(k, n, alpha)
            assert _at_least(k, n, Fraction(p)) <= Fraction(alpha)
            assert _at_least(k, n, Fraction(p * (1 + 1e-11) + 1e-14)) > Fraction(alpha)


def _at_least(k: int, n: int, p: Fraction) -> Fraction:
    return sum((comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1)), Fraction(0))


@given(n=st.integers(1, 100_000), share=st.floats(0, 1), alpha=st.floats(1e-9, 0.4))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_bounds_bracket_the_observed_share_and_mirror_each_other(n, share, alpha):
    k = round(share * n)
    assert 0 <= lower_bound(k, n, alpha) <= k / n <= upper_bound(k, n, alpha) <= 1
    assert upper_bound(k, n, alpha) == pytest.approx(1 - lower_bound(n - k, n, alpha), abs=1e-9)
    assert lower_bound(min(k + 1, n), n, alpha) >= lower_bound(k, n, alpha)


def test_two_class_radius_is_the_one_class_radius_when_the_rival_takes_all_the_rest():
    assert two_class_radius(0.9, 1 - 0.9, 0.5) == gaussian_radius(0.9, 0.5)
    assert two_class_radius(0.9, 0.01, 0.5) > gaussian_radius(0.9, 0.5)
    assert two_class_radius(0.4, 0.2, 1.0) == pytest.approx((ndtri(0.4) - ndtri(0.2)) / 2, abs=1e-11)
    assert two_class_radius(0.4, 0.4, 1.0) == two_class_radius(0.4, 1.0, 1.0) == two_class_radius(0.0, 1.0, 1.0) == 0


@pytest.mark.parametrize("radius", [0.0, 0.001, 0.5, 1.9, 3.8])
def test_share_needed_just_proves_the_radius(radius):
    share = share_needed(radius / 4, 0.25)
    assert gaussian_radius(share, 1.0) == pytest.approx(radius, abs=1e-9)
    assert two_class_radius(np.nextafter(share, 1), np.nextafter(1 - share, 0), 1.0) >= radius * (1 - 2e-12)
    assert share > ndtr(radius)


@pytest.mark.parametrize("alpha", [0.01, 0.2])
@pytest.mark.parametrize("n", [1, 5, 20])
def test_randomized_bound_covers_exactly(n, alpha):
    """At a share p the claim is false where w < the threshold of the count; the average threshold is alpha."""
    for p in (0.1, 0.5, 0.8):
        counts = np.arange(n + 1)
        pmf = binom.pmf(counts, n, p)
        thresholds = np.clip((alpha - binom.sf(counts, n, p)) / pmf, 0, 1)
        assert pmf @ thresholds == pytest.approx(alpha)
        for k, w in enumerate(thresholds):
            if 0 < w < 1 and (k < n or w > 2 * alpha):
                assert randomized_lower_bound(k, n, alpha, w - 1e-6) > p > randomized_lower_bound(k, n, alpha, w + 1e-6)
            elif w == 0:
                assert randomized_lower_bound(k, n, alpha, 1e-9) < p
            elif w == 1:
                assert randomized_lower_bound(k, n, alpha, 1) > p


@pytest.mark.parametrize(("n", "gain"), [(100, 1.588), (1000, 2.528), (10_000, 3.251)])
def test_randomisation_lengthens_the_radius_of_unanimous_votes_as_published(n, gain):
    steps = (np.arange(500) + 0.5) / 500
    radii = [gaussian_radius(randomized_lower_bound(n, n, 1e-3, w), 1.0) for w in steps]
    assert np.mean(radii) == pytest.approx(gain, abs=0.006)  # the cap on w costs up to 0.003, the grid the rest
    assert min(radii) >= radius_cap(1.0, n, 1e-3)


def test_randomized_bound_lies_between_its_neighbours():
    for k in (0, 1, 50, 99, 100):
        bounds = [randomized_lower_bound(k, 100, 1e-3, w) for w in (0.0, 0.3, 1.0)]
        assert bounds == sorted(bounds, reverse=True)
        assert bounds[-1] == pytest.approx(lower_bound(k, 100, 1e-3), abs=1e-12)
        assert bounds[0] <= (lower_bound(k + 1, 100, 1e-3) if k < 100 else 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lower_bound(1, 0, 0.1), "at least one sample"),
        (lambda: lower_bound(-1, 10, 0.1), "counts between 0 and n = 10, got -1"),
        (lambda: upper_bound(11, 10, 0.1), "counts between 0 and n = 10"),
        (lambda: lower_bound(5, 10, 0.0), "alpha in"),
        (lambda: upper_bound(5, 10, 1.0), "alpha in"),
        (lambda: lower_bound(5, 10, float("nan")), "alpha in"),
        (lambda: randomized_lower_bound(5, 10, 0.1, 1.5), "w in"),
        (lambda: gaussian_radius(1.0, 0.5), "p_lower in"),
        (lambda: gaussian_radius(float("nan"), 0.5), "p_lower in"),
        (lambda: gaussian_radius(0.7, 0.0), "sigma"),
        (lambda: two_class_radius(0.7, 0.0, 0.5), "p_upper in"),
        (lambda: share_needed(-0.1, 0.5), "radius"),
        (lambda: share_needed(0.1, 0.0), "sigma"),
    ],
)
def test_impossible_settings_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def at_most(k: int, n: int, p: Any) -> Any:
    """P(B <= k) with B ~ Binomial(n, p), to 30 digits."""
    term, total = binomial(n, k) * p**k * (1 - p) ** (n - k), mpf(0)
    for count in range(k, -1, -1):
        total += term
        if term < total * mpf(10) ** -35:
            break
        term *= count * (1 - p) / ((n - count + 1) * p)
    return total


@pytest.mark.parametrize("alpha", [0.3, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15])
@pytest.mark.parametrize("n", [1, 10, 1000, 100_000])
def test_no_bound_is_wrong_more_often_than_alpha_by_even_a_rounding_error(n: int, alpha: float) -> None:
    with workdps(40):
        for k in {0, min(3, n - 1), n // 2, n * 99 // 100, n - 1}:
            assert at_most(k, n, mpf(upper_bound(k, n, alpha))) <= mpf(alpha)
            assert at_most(k, n, 1 - mpf(lower_bound(n - k, n, alpha))) <= mpf(alpha)


def test_a_fractional_count_is_refused():
    with pytest.raises(TypeError):
        lower_bound(1.5, 10, 0.1)  # pyright: ignore[reportArgumentType]
