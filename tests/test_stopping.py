"""Samples that end where more are not worth it: the error of their bound, exactly; their cost beside an oracle."""

import math
import os
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import norm
from test_early_stopping import outcomes

from holdfast.certifiers.adaptive import Adaptive
from holdfast.core.config import Config
from holdfast.report.plan import Pilot, Plan
from holdfast.runs.logs import read_log
from holdfast.smoothing.noise import Float32
from holdfast.smoothing.statistics.binomial import lower_bound, lower_bounds
from holdfast.smoothing.statistics.planning import expected_radii, shares_from_radii
from holdfast.smoothing.statistics.sequential import looks
from holdfast.smoothing.statistics.stopping import Stopping, best_stopping

GOLDEN = Path(os.environ.get("HOLDFAST_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden"))
LOGS = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no published logs in {GOLDEN}; set HOLDFAST_GOLDEN")
ALPHA = 1e-3
LOOKS = looks(16, 100_000, 1.25)


def adversarial(rule: Stopping, alpha: float, most: int = 10**9) -> list[float]:
    """Shares at which the error jumps: just below each bound that can be claimed, where that claim is just false."""
    found = set[float]()
    for n, go_on_at in zip(rule.looks, rule.go_on_at, strict=True):
        k = np.arange(max(1, min(go_on_at, n + 1) - most), min(go_on_at, n + 1))
        found |= set((lower_bounds(k, n, alpha) * (1 - 1e-9)).tolist())
    return sorted(found)


def error_of_all_votes(rule: Stopping, share: float, alpha: float) -> float:
    """The probability of a false claim over every sequence of votes, without any recursion."""
    n = rule.looks[-1]
    votes = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    chance = share ** votes.sum(axis=1) * (1 - share) ** (n - votes.sum(axis=1))
    counts = np.cumsum(votes, axis=1)[:, np.array(rule.looks) - 1]
    ends = (counts < np.array(rule.go_on_at)).argmax(axis=1)
    bounds = [[lower_bound(k, m, alpha) for k in range(m + 1)] for m in rule.looks]
    claimed = np.array([bounds[look][path[look]] for look, path in zip(ends, counts, strict=True)])
    return float(chance[claimed > share].sum())


@pytest.mark.parametrize("go_on_at", [(3, 7, 13), (0, 0, 13), (1, 8, 13), (4, 2, 13), (5, 9, 13)])
def test_the_error_is_that_of_every_sequence_of_votes_and_at_most_alpha(go_on_at: tuple[int, ...]):
    rule = Stopping((4, 8, 12), go_on_at)
    for share in adversarial(rule, 0.1):
        error = error_of_all_votes(rule, share, 0.1)
        assert rule.error(share, 0.1) == pytest.approx(error, abs=1e-8)
        assert error <= 0.1


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1.1)), min_size=1, max_size=7),
    st.floats(1e-4, 0.3),
    st.floats(0.01, 0.99),
)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_no_thresholds_whatever_raise_the_error_above_alpha(steps: list, alpha: float, share: float):
    """Any thresholds, chosen well, badly or by an enemy: votes from which sampling goes on leave the bound true."""
    ns = np.cumsum([step for step, _ in steps]).tolist()
    parts = [*(part for _, part in steps[:-1]), 2.0]
    rule = Stopping(tuple(ns), tuple(math.ceil(part * (n + 1)) for part, n in zip(parts, ns, strict=True)))
    assert max(rule.error(p, alpha) for p in (share, *adversarial(rule, alpha)[:: max(1, len(ns))])) <= alpha * (
        1 + 1e-8
    )


def test_ends_on_the_upper_side_would_break_the_bound():
    """Who has 3 of 3 ends, who has 2 goes on to 12: both may claim too much, and together too often."""
    share = lower_bound(3, 3, 0.1) * (1 - 1e-9)
    assert lower_bound(9, 12, 0.1) > share
    either = share**3 + 3 * share**3 * (1 - share) * sum(
        math.comb(9, k) * share**k * (1 - share) ** (9 - k) for k in range(7, 10)
    )
    assert either > 0.1


@pytest.mark.parametrize("min_gain", [1.0, 0.1, 0.02])
def test_the_error_at_full_size_is_at_most_alpha_at_every_share(min_gain: float):
    rule = best_stopping(LOOKS, ALPHA, min_gain)
    shares = [*adversarial(rule, ALPHA, most=1)[::2], *ndtr(np.linspace(0, 3.7, 12)).tolist()]
    errors = [rule.error(share, ALPHA) for share in shares]
    assert 0.5 * ALPHA < max(errors) <= ALPHA * (1 + 1e-6)


@pytest.mark.parametrize("p", [0.5, 0.65, 0.8, 0.95])
@pytest.mark.parametrize("n0", [3])
def test_the_error_is_at_most_alpha_given_any_selection(p: float, n0: int):
    """Through the certifier's own procedure, along every path; either class may be selected, and claimed."""
    certifier = Adaptive(1.0, n0=n0, first=4, growth=1.5, n_max=14, alpha=0.1, min_gain=50.0)
    false, total = defaultdict(float), defaultdict(float)
    for selected in range(n0 + 1):
        for probability, found in outcomes(certifier, p, selected):
            chosen = tuple(sorted(found.evidence["selection"].items()))
            total[chosen] += probability
            share = p if found.prediction == 0 else 1 - p
            if found.prediction is not None and (share <= 0.5 or found.radius > norm.ppf(share) + 1e-9):
                false[chosen] += probability
    assert len(total) == n0 + 1
    assert all(total[chosen] == pytest.approx(1, abs=1e-3) and false[chosen] <= 0.1 for chosen in total)
    assert p > 0.9 or sum(false.values()) > 0


def test_simulated_certificates_are_false_at_the_worst_share_as_often_as_computed():
    rule, rng = best_stopping(looks(16, 2000, 1.25), 0.01, 2.0), np.random.default_rng(0)
    shares = adversarial(rule, 0.01, most=2)
    share = shares[int(np.argmax([rule.error(p, 0.01) for p in shares]))]
    size, false = 40_000, 0
    votes, before, active = np.zeros(size, int), 0, np.arange(size)
    for n, go_on_at in zip(rule.looks, rule.go_on_at, strict=True):
        votes[active] += rng.binomial(n - before, share, len(active))
        ends, before = active[votes[active] < go_on_at], n
        false += int((lower_bounds(votes[ends], n, 0.01) > share).sum())
        active = active[votes[active] >= go_on_at]
    expected = rule.error(share, 0.01)
    assert abs(false / size - expected) < 4 * math.sqrt(expected / size)
    assert expected <= 0.01


def test_a_wrong_prior_costs_radius_or_samples_and_never_validity():
    """One that expects shares near 0.6, on images that are nearly sure."""
    right, wrong = (best_stopping(LOOKS, ALPHA, 0.1, prior=prior) for prior in ((0.5, 0.1), (600.0, 400.0)))
    values = []
    for rule in (right, wrong):
        found = [rule.outcome(share, ALPHA) for share in (0.99, 0.999, 0.9999)]
        values.append(sum(radius - 1e-5 * samples for radius, samples in found))
    assert values[1] < 0.95 * values[0]
    assert max(wrong.error(share, ALPHA) for share in adversarial(wrong, ALPHA, most=1)[::3]) <= ALPHA * (1 + 1e-6)


def test_expectations_are_those_of_every_sequence_of_votes():
    rule = Stopping((2, 4), (1, 5))
    bounds = {(0, 2): lower_bound(0, 2, 0.4)} | {(k, 4): lower_bound(k, 4, 0.4) for k in range(5)}
    radius = samples = 0.0
    for votes in product((0, 1), repeat=4):
        ended = (sum(votes[:2]), 2) if sum(votes[:2]) < 1 else (sum(votes), 4)
        chance = 0.8 ** sum(votes) * 0.2 ** (4 - sum(votes))
        radius += chance * max(0.0, norm.ppf(bounds[ended]))
        samples += chance * ended[1]
    assert rule.outcome(0.8, 0.4) == pytest.approx((radius, samples), rel=1e-8)


def test_expectations_of_many_shares_are_those_of_each():
    rule = best_stopping(looks(16, 5000, 1.25), ALPHA, 1.0)
    shares = np.array([0.3, 0.55, 0.8, 0.97, 0.9993, 1.0])
    radii, samples = rule.outcomes(shares, ALPHA)
    each = np.array([rule.outcome(float(share), ALPHA) for share in shares])
    assert radii == pytest.approx(each[:, 0], abs=0.003)
    assert samples == pytest.approx(each[:, 1], rel=0.01, abs=30)


def test_a_plan_says_what_adaptive_takes_and_keeps():
    pilot = Pilot(0.5, np.array([0.9, 0.999, 0.4]), np.array([True, True, False]))
    (line,) = [line for line in Plan(0.5, ALPHA, 5000, None, pilot).advice(None) if line.startswith("`adaptive` at")]
    rule = best_stopping(looks(16, 5000, 1.25), ALPHA, 0.1)
    radii, samples = rule.outcomes(pilot.shares, ALPHA)
    assert f"takes {samples.mean():,.0f} samples" in line
    assert f"ACR {0.5 * (radii[0] + radii[1]) / 3:.4f}" in line


def test_a_price_of_nothing_takes_all_samples_of_a_sure_image_and_a_high_one_few():
    free, dear = (best_stopping(LOOKS, ALPHA, min_gain) for min_gain in (0.0, 100.0))
    assert free.outcome(0.999, ALPHA)[1] == pytest.approx(100_000)
    assert free.outcome(0.2, ALPHA)[1] < 1000
    assert dear.outcome(0.999, ALPHA)[1] < 100


@LOGS
@pytest.mark.parametrize("log", ["mnist-lenet-gaussian-sigma0.50", "cifar10-resnet110-cohen-noise0.25-test-sigma0.50"])
def test_no_oracle_that_knows_every_share_gains_much_more(log: str):
    """Of the mean radius less the price of samples, at most 0.3 % of the radius more at the default price."""
    radii = np.array([record.certificate.radius for record in read_log(GOLDEN / f"{log}.tsv.gz")])
    shares = shares_from_radii(radii, 0.5)
    values, weights = np.unique(ndtr(norm.ppf(np.clip(shares, 0.4, 1 - 1e-6)).round(1)), return_counts=True)
    ladder = np.unique(np.geomspace(50, 100_000, 34).round()).astype(int)
    table = np.stack([expected_radii(values, int(n), ALPHA) for n in ladder], axis=1)
    oracle = np.maximum(0, (table - 1e-5 * ladder).max(axis=1))
    rule = best_stopping(LOOKS, ALPHA, 0.1)
    found = np.array([r - 1e-5 * n for r, n in (rule.outcome(float(share), ALPHA) for share in values)])
    assert 0 < weights @ (oracle - found) < 0.003 * weights @ table[:, -1]


def test_settings_stored_before_optimal_stopping_mean_spending_and_keep_their_name():
    old = {"kind": "Adaptive", "sigma": 0.5, "price": 0.1}
    spending = Adaptive(0.5, boundaries="spending", first=400, growth=2.0, noise=Float32())
    assert Config.from_dict(old) == spending
    assert not spending._chosen().keys() & {"boundaries", "first", "growth"}
    assert Config.from_dict(Adaptive(0.5).to_dict()) == Adaptive(0.5)
    assert Adaptive(0.5).fingerprint() != spending.fingerprint()


@pytest.mark.parametrize(
    ("ns", "go_on_at"), [((), ()), ((4, 4), (1, 5)), ((4, 8), (1, 8)), ((4, 8), (9,)), ((0, 8), (1, 9))]
)
def test_rules_that_make_no_sense_are_refused(ns: tuple[int, ...], go_on_at: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected"):
        Stopping(ns, go_on_at)
