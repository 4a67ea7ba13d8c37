"""Sequential tests against golden values and, exactly, against enumeration and independent dynamic programmes."""

from fractions import Fraction
from itertools import pairwise, product, repeat
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import binom

from holdfast.smoothing.statistics.binomial import gaussian_radius, lower_bound, lower_bounds
from holdfast.smoothing.statistics.sequential import (
    GroupSequential,
    RadiusBoundaries,
    kt_best_lower,
    kt_best_upper,
    kt_lower,
    kt_upper,
    log_evidence_above,
    log_evidence_below,
    log_kt,
    looks,
)

ALPHA = 1e-3
PHI_1 = float(ndtr(1))


def stopping_probability(p, ns, certify_at, give_up_at=None, stride=100):
    """P(count >= certify_at at some look, before count <= give_up_at), by a walk in short steps."""
    step = binom.pmf(np.arange(stride + 1), stride, p)
    walk, first, stopped, look = np.ones(1), 0, 0.0, 0
    for n in range(stride, ns[-1] + 1, stride):
        walk = np.convolve(walk, step)
        if n == ns[look]:
            counts = first + np.arange(len(walk))
            stopped += walk[counts >= certify_at[look]].sum()
            walk[counts >= certify_at[look]] = 0
            if give_up_at is not None:
                walk[counts <= give_up_at[look]] = 0
            look += 1
        kept = np.flatnonzero(walk > 1e-30)
        if not len(kept):
            break
        walk, first = walk[kept[0] : kept[-1] + 1], first + int(kept[0])
    return stopped


def test_look_schedule_is_the_golden_one():
    schedule = looks(100, 100_000, 1.15)
    assert len(schedule) == 43
    assert schedule[:10] == tuple(range(100, 1001, 100))
    assert schedule[-2:] == (92_000, 100_000)


def test_boundaries_have_the_golden_values():
    test = GroupSequential(PHI_1, ALPHA, looks(), ALPHA)
    assert test.certify_at[:10].tolist() == [98, 188, 278, 365, 453, 541, 627, 714, 800, 887]
    assert test.certify_at[-2:].tolist() == [77_853, 84_511]
    assert test.give_up_at[:10].tolist() == [67, 145, 225, 305, 386, 468, 549, 631, 713, 795]
    assert test.give_up_at[-1] == 83_620
    assert test.type_one_error == pytest.approx(9.92e-4, abs=1e-6)


@pytest.mark.parametrize("radius", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_errors_are_spent_exactly_at_full_size(radius):
    """43 looks up to 100,000, against a walk in steps of 100 samples."""
    test = GroupSequential(float(ndtr(radius)), ALPHA, looks(), ALPHA)
    error = stopping_probability(test.p0, test.looks, test.certify_at)
    assert test.type_one_error == pytest.approx(error, rel=1e-8)
    assert 0.9 * ALPHA < test.type_one_error <= ALPHA
    missing = np.array(test.looks) - test.give_up_at
    assert test.type_two_error == pytest.approx(stopping_probability(1 - test.p0, test.looks, missing), rel=1e-8)
    assert test.type_two_error <= ALPHA


def test_errors_shrink_below_p0_and_when_giving_up():
    test = GroupSequential(PHI_1, ALPHA, looks(100, 10_000), 0.3)
    for p in (PHI_1, PHI_1 - 0.001, PHI_1 - 0.01):
        without = stopping_probability(p, test.looks, test.certify_at)
        assert stopping_probability(p, test.looks, test.certify_at, test.give_up_at) < without
        assert without <= test.type_one_error * (1 + 1e-9)
    assert without < ALPHA / 3


def test_errors_equal_those_of_every_sequence_of_votes():
    ns, n = (3, 4, 8, 13, 16), 16
    votes = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    counts = np.cumsum(votes, axis=1)[:, np.array(ns) - 1]
    for p0, alpha in product((0.2, 0.5, 0.7), (0.01, 0.1, 0.4)):
        test = GroupSequential(p0, alpha, ns, alpha)
        chance = p0 ** votes.sum(axis=1) * (1 - p0) ** (n - votes.sum(axis=1))
        certified = (counts >= test.certify_at).any(axis=1)
        given_up = (counts <= test.give_up_at).any(axis=1)
        assert chance[certified].sum() == pytest.approx(test.type_one_error, abs=1e-12)
        assert chance[given_up].sum() == pytest.approx(test.type_two_error, abs=1e-12)
        assert max(test.type_one_error, test.type_two_error) <= alpha
        tighter = (counts[:, -1] >= test.certify_at[-1] - 1) | certified
        assert chance[tighter].sum() > alpha  # the last boundary could not be lower


def test_errors_equal_a_walk_in_rational_arithmetic_for_200_samples():
    test = GroupSequential(0.75, ALPHA, looks(10, 200, 1.3), ALPHA)
    walk, error = {0: Fraction(1)}, Fraction(0)
    for n in range(1, 201):
        up = {h + 1: mass * Fraction(3, 4) for h, mass in walk.items()}
        walk = {h: up.get(h, Fraction(0)) + walk.get(h, Fraction(0)) / 4 for h in up.keys() | walk.keys()}
        if n in test.looks:
            limit = test.certify_at[test.looks.index(n)]
            error += sum(walk.pop(h) for h in list(walk) if h >= limit)
    assert test.type_one_error == pytest.approx(float(error), rel=1e-11)
    assert error <= Fraction(ALPHA)


@given(p0=st.floats(0.01, 0.99), alpha=st.floats(1e-6, 0.4), steps=st.lists(st.integers(1, 30), min_size=1, max_size=6))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_errors_never_exceed_alpha_and_beta(p0, alpha, steps):
    test = GroupSequential(p0, alpha, tuple(np.cumsum(steps).tolist()), alpha / 2)
    error = stopping_probability(p0, test.looks, test.certify_at, stride=1)
    assert error == pytest.approx(test.type_one_error, abs=1e-12)
    assert error <= alpha
    assert test.type_two_error <= alpha / 2
    assert np.all(test.give_up_at < test.certify_at)


@pytest.mark.parametrize("n", [1, 50, 1000])
def test_a_single_look_is_clopper_pearson(n):
    for p0 in (0.05, 0.5, 0.9):
        test = GroupSequential(p0, 0.02, (n,))
        proven = np.flatnonzero(lower_bounds(np.arange(n + 1), n, 0.02) >= p0)
        assert test.certify_at.tolist() == [proven[0] if len(proven) else n + 1]


def test_boundaries_are_shared_by_equal_tests_and_cannot_be_changed():
    first, second = (GroupSequential(0.8, ALPHA, looks(100, 1000), ALPHA) for _ in range(2))
    assert first.certify_at is second.certify_at
    with pytest.raises(ValueError, match="read-only"):
        first.certify_at[0] = 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GroupSequential(0.0, ALPHA, (100,)), "p0 in"),
        (lambda: GroupSequential(0.5, 1.0, (100,)), "alpha in"),
        (lambda: GroupSequential(0.5, ALPHA, (100,), 1.0), "beta in"),
        (lambda: GroupSequential(0.5, ALPHA, (100,), 0.0), "beta in"),
        (lambda: GroupSequential(0.5, ALPHA, (200, 100)), "increasing"),
        (lambda: GroupSequential(0.5, ALPHA, (100, 100)), "increasing"),
        (lambda: GroupSequential(0.5, ALPHA, ()), "increasing"),
        (lambda: GroupSequential(0.5, ALPHA, (0, 100)), "positive"),
        (lambda: looks(100, 99), "first look <= n_max"),
        (lambda: looks(0, 99), "first look <= n_max"),
        (lambda: looks(10, 99, 0.9), "growth"),
        (lambda: RadiusBoundaries((0.5, 0.5), ALPHA, (100,)), "increasing radii"),
        (lambda: RadiusBoundaries((), ALPHA, (100,)), "increasing radii"),
        (lambda: RadiusBoundaries((-0.5, 0.5), ALPHA, (100,)), "not negative"),
        (
            lambda: RadiusBoundaries((0.5, 1.6), ALPHA, (100,)),
            "never be certified: it needs 0.945201 of the votes, and 100 samples .* at most 0.93",
        ),
        (lambda: RadiusBoundaries((0.5,), ALPHA, (100, 50)), "increasing numbers"),
        (lambda: kt_lower(11, 10, ALPHA), "counts between"),
        (lambda: kt_upper(1, 0, ALPHA), "at least one sample"),
        (lambda: kt_lower(1, 10, 0.0), "alpha in"),
    ],
)
def test_impossible_settings_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("k", "n", "expected"),
    [(90, 100, 0.723891074642), (1000, 1000, 0.989125437383), (99_000, 100_000, 0.988317237689)],
)
def test_kt_bounds_have_the_golden_values(k, n, expected):
    assert kt_lower(k, n, ALPHA) == pytest.approx(expected, abs=1e-9)
    assert kt_upper(n - k, n, ALPHA) == pytest.approx(1 - expected, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 1e-10])
def test_the_best_bound_of_several_looks_is_the_best_of_their_bounds(alpha):
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.9, 0.999, 1.0):
        ns = looks(10, 2000)
        counts = np.cumsum([rng.binomial(n - before, share) for before, n in pairwise((0, *ns))]).tolist()
        low, high = (max(map(kt_lower, counts, ns, repeat(alpha))), min(map(kt_upper, counts, ns, repeat(alpha))))
        assert kt_best_lower(counts, ns, alpha) == pytest.approx(low, rel=1e-12)
        assert kt_best_upper(counts, ns, alpha) == pytest.approx(high, rel=1e-12)


def test_evidence_has_the_golden_values():
    k = np.array([90, 100])
    assert log_kt(k, 100, PHI_1) == pytest.approx([-1.0840777565, 14.3991778716], abs=1e-9)
    assert log_evidence_above(k, 100, PHI_1) == pytest.approx([0.2110253954, 15.7431403053], abs=1e-9)
    assert log_evidence_below(k, 100, PHI_1) == pytest.approx([-3.8250182424, -4.6431712790], abs=1e-9)


@pytest.mark.parametrize("alpha", [0.01, 0.1])
@pytest.mark.parametrize("p", [0.3, 0.5, 0.95])
def test_kt_bounds_ever_exclude_the_share_with_probability_at_most_alpha(p, alpha):
    """Exactly, looking after each of 400 samples."""
    walk, wrong = np.ones(1), 0.0
    for n in range(1, 401):
        walk = np.convolve(walk, [1 - p, p])
        outside = log_kt(np.arange(n + 1), n, p) >= log(1 / alpha)
        wrong += walk[outside].sum()
        walk[outside] = 0
    assert 0.02 * alpha < wrong <= alpha


def test_kt_bounds_enclose_exactly_the_shares_that_the_wealth_does_not_reject():
    for k, n in ((0, 10), (3, 10), (10, 10), (321, 400), (99_990, 100_000)):
        low, high = kt_lower(k, n, 0.01), kt_upper(k, n, 0.01)
        assert 0 <= low <= k / n <= high <= 1
        assert low < lower_bound(k, n, 0.005) or k == 0
        for rejected, kept in ((low - 1e-9, low + 1e-7), (high + 1e-9, high - 1e-7)):
            assert log_kt(k, n, kept) < log(100)
            assert not 0 < rejected < 1 or log_kt(k, n, rejected) >= log(100)


@pytest.mark.parametrize("p0", [0.4, 0.9])
def test_evidence_is_a_fair_game_at_p0_and_a_losing_one_beyond(p0):
    """The expected factor of the next vote is 1 at p0 and at most 1 on the side that the evidence is against."""
    for n in (0, 1, 17, 300):
        k = np.arange(n + 1)
        for evidence, other in ((log_evidence_above, p0 - 0.2), (log_evidence_below, p0 + 0.08), (log_kt, p0)):
            won, lost = (np.exp(evidence(k + vote, n + 1, p0) - evidence(k, n, p0)) for vote in (1, 0))
            likely = np.isfinite(won) & np.isfinite(lost) & (evidence(k, n, p0) > -600)
            assert (p0 * won + (1 - p0) * lost)[likely] == pytest.approx(1, abs=1e-8)
            assert np.all((other * won + (1 - other) * lost)[likely] <= 1 + 1e-8)


GRID = RadiusBoundaries(tuple(np.arange(0, 1.3, 0.1).tolist()), 0.05, (8, 20, 40), 0.02)


def test_a_radius_ever_claimed_is_false_with_probability_at_most_alpha():
    """All paths of counts at three looks; an adversary stops at whichever look claims most."""
    trues = np.linspace(0, 1.25, 26)
    shares, false, ruled_out = ndtr(trues), np.zeros(26), np.zeros(26)
    for steps in product(range(9), range(13), range(21)):
        chance = np.prod([binom.pmf(k, n, shares) for k, n in zip(steps, (8, 12, 20), strict=True)], axis=0)
        path = list(enumerate(np.cumsum(steps)))
        claim = max(int(GRID.certified(look, count)) for look, count in path)
        possible = min(int(GRID.possible(look, count)) for look, count in path)
        false += chance * ((0.0, *GRID.radii)[claim] > trues + 1e-9)
        ruled_out += chance * ((*GRID.radii, np.inf)[possible] <= trues)
    assert GRID.alpha / 2 < false.max() <= GRID.alpha
    assert 0 < ruled_out.max() <= GRID.beta


def test_boundaries_grow_with_the_radius():
    grid = RadiusBoundaries(tuple(np.arange(0, 2.4, 0.02).tolist()), ALPHA, looks(100, 1000))
    assert np.all(np.diff(grid.certify_at, axis=1) >= 0)
    assert np.all(np.diff(grid.give_up_at, axis=1) >= 0)
    assert np.all(grid.give_up_at < grid.certify_at)


def test_one_radius_is_the_plain_test_at_its_share():
    grid, test = (RadiusBoundaries((1.0,), ALPHA, looks(), ALPHA), GroupSequential(PHI_1, ALPHA, looks(), ALPHA))
    assert grid.certify_at[:, 0].tolist() == test.certify_at.tolist()
    assert grid.give_up_at[:, 0].tolist() == test.give_up_at.tolist()
    assert grid.certified(0, [97, 98]).tolist() == [0, 1]
    assert grid.possible(0, [67, 68]).tolist() == [0, 1]


def test_the_last_look_comes_within_a_grid_step_of_clopper_pearson():
    step = 0.05
    grid = RadiusBoundaries(tuple(np.arange(0, 3.81, step).tolist()), ALPHA, looks())
    assert grid.radii[int(grid.certified(-1, 100_000)) - 1] == pytest.approx(3.80)
    for count in (60_000, 80_000, 95_000, 99_900):
        fixed = gaussian_radius(lower_bound(count, 100_000, ALPHA), 1.0)
        proven = grid.radii[int(grid.certified(-1, count)) - 1]
        assert fixed - 1.2 * step < proven <= fixed


def test_gain_is_the_best_rate_of_any_later_look():
    count, certified = 14, int(GRID.certified(1, 14))
    share = 14.5 / 21
    ahead = int(GRID.certified(2, round(14 + 20 * share)))
    expected = (GRID.radii[ahead - 1] - (GRID.radii[certified - 1] if certified else 0)) / 20
    assert GRID.gain(1, count, certified) == pytest.approx(expected)
    assert expected > 0
    assert GRID.gain(0, 8, 0) >= (GRID.radii[int(GRID.certified(2, 38)) - 1]) / 32
    assert GRID.gain(2, count, certified) == 0
    assert GRID.gain(1, [0, 20], [0, len(GRID.radii)]).tolist() == [0, 0]
