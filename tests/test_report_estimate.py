"""Intervals cover what they promise, by exact enumeration; tests agree with their closed forms."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from holdfast.report.statistics import (
    clopper_pearson,
    mean,
    mean_is_zero,
    most_wrong,
    paired_difference,
    share,
    shares_are_equal,
)

Z = stats.norm.ppf(0.975)


@pytest.mark.parametrize("m", [1, 7, 30])
def test_clopper_pearson_is_the_exact_interval_of_scipy(m: int) -> None:
    for k in range(m + 1):
        expected = stats.binomtest(k, m).proportion_ci(0.95, method="exact")
        found = share(k, m)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("m", [1, 5, 24])
def test_clopper_pearson_covers_every_share_at_least_95_times_in_100(m: int) -> None:
    k = np.arange(m + 1)
    low, high = clopper_pearson(k, m)
    for p in np.linspace(0.001, 0.999, 111):
        assert stats.binom.pmf(k, m, p)[(low <= p) & (p <= high)].sum() >= 0.95


def trinomial_coverage(m: int, gain: float, loss: float) -> float:
    """Probability of all tables (gained, lost) whose interval holds the true difference."""
    covered = 0.0
    for gained, lost in itertools.product(range(m + 1), repeat=2):
        if gained + lost <= m:
            estimate = paired_difference(gained, lost, m)
            if estimate.low <= gain - loss <= estimate.high:
                table = [gained, lost, m - gained - lost]
                covered += float(stats.multinomial.pmf(table, m, [gain, loss, 1 - gain - loss]))
    return covered


@pytest.mark.parametrize(("gain", "loss"), [(0.03, 0.03), (0.1, 0.1), (0.3, 0.1), (0.05, 0.4), (0.6, 0.2)])
def test_the_paired_interval_covers_the_true_difference(gain: float, loss: float) -> None:
    assert trinomial_coverage(16, gain, loss) >= 0.94


@pytest.mark.parametrize("m", [3, 50, 10_000])
def test_the_paired_interval_without_any_difference_has_its_closed_form(m: int) -> None:
    estimate = paired_difference(0, 0, m)
    assert (estimate.value, estimate.high) == pytest.approx((0, Z**2 / (m + Z**2)), abs=1e-9)
    assert estimate.low == pytest.approx(-estimate.high)


@pytest.mark.parametrize(("gained", "lost", "m"), [(5, 2, 40), (40, 0, 40), (39, 1, 40), (0, 1, 2)])
def test_swapping_the_runs_mirrors_the_paired_interval(gained: int, lost: int, m: int) -> None:
    one, other = paired_difference(gained, lost, m), paired_difference(lost, gained, m)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)
    assert -1 <= one.low <= one.value <= one.high <= 1


def test_the_paired_interval_excludes_zero_exactly_when_mcnemar_s_score_does() -> None:
    for gained, lost in itertools.product(range(13), repeat=2):
        estimate = paired_difference(gained, lost, 60)
        score = abs(gained - lost) / math.sqrt(gained + lost) if gained + lost else 0
        assert (estimate.low > 0 or estimate.high < 0) == (score > Z)


def test_mcnemar_s_exact_test_is_a_fair_coin_for_the_examples_that_differ() -> None:
    tail = sum(math.comb(10, k) for k in range(3)) / 2**10
    assert shares_are_equal(2, 8) == pytest.approx(2 * tail)
    assert shares_are_equal(8, 2) == shares_are_equal(2, 8)
    assert shares_are_equal(0, 0) == 1


def test_the_interval_of_a_mean_is_that_of_student_s_test() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=40)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = mean(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert mean_is_zero(values - 1.9) == pytest.approx(stats.ttest_1samp(values, 1.9)[1])


def test_a_mean_of_equal_values_needs_no_interval_and_of_one_value_has_none() -> None:
    assert mean(np.full(9, 0.5)) == mean(np.full(3, 0.5))
    assert mean_is_zero(np.zeros(4)) == 1
    assert mean_is_zero(np.ones(4)) == 0
    assert math.isinf(mean(np.array([0.5])).high)
    assert mean_is_zero(np.array([0.5])) == 1


def binomial_tail(m: int, alpha: float, beyond: int) -> float:
    return sum(math.comb(m, k) * alpha**k * (1 - alpha) ** (m - k) for k in range(beyond + 1, m + 1))


@pytest.mark.parametrize(("m", "alpha", "rho"), [(1, 0.001, 0.001), (60, 0.05, 0.01), (200, 0.01, 0.001)])
def test_more_certificates_than_said_are_wrong_no_more_often_than_rho(m: int, alpha: float, rho: float) -> None:
    wrong = most_wrong(m, alpha, rho)
    assert binomial_tail(m, alpha, wrong) <= rho
    assert wrong == 0 or binomial_tail(m, alpha, wrong - 1) > rho


def test_deterministic_certificates_are_never_wrong() -> None:
    assert most_wrong(10_000, 0.0, 0.001) == 0


def test_the_closed_form_of_the_released_code_is_exceeded_too_often() -> None:
    m, alpha, rho = 10_000, 0.001, 0.001
    claimed = m * alpha + math.sqrt(m * alpha * (1 - alpha) * math.log(1 / rho)) + math.log(1 / rho) / 3
    assert stats.binom.sf(math.floor(claimed), m, alpha) > rho
    assert stats.binom.sf(most_wrong(m, alpha, rho), m, alpha) <= rho
