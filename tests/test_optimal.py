"""Optimal interim analyses: their type-one error by second paths, whatever chose the design or stored it."""

import inspect
import json
import os
import textwrap
from collections import defaultdict
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import binom

from holdfast.certifiers.at_radius import AtRadius
from holdfast.smoothing.statistics import design as designs
from holdfast.smoothing.statistics import optimal, selection
from holdfast.smoothing.statistics.binomial import share_needed
from holdfast.smoothing.statistics.design import Decision, Design, replay
from holdfast.smoothing.statistics.selection import HOPELESS, MORE, Plan, Prior, best_plan, fixed_power, flat
from holdfast.smoothing.statistics.sequential import GroupSequential, looks

GOLDEN = Path(os.environ.get("HOLDFAST_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden"))
LOGS = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no published logs in {GOLDEN}; set HOLDFAST_GOLDEN")
SMALL = Design(0.75, (3, 4, 8, 13, 14), (4, 4, 8, 11, 13), (0, 1, 6, 9, 12))


def exact_error(design: Design, share: Fraction) -> Fraction:
    """The probability to certify, vote by vote, in rational arithmetic."""
    walk, error = {0: Fraction(1)}, Fraction(0)
    for n in range(1, design.looks[-1] + 1):
        later: dict[int, Fraction] = defaultdict(Fraction)
        for count, mass in walk.items():
            later[count + 1] += mass * share
            later[count] += mass * (1 - share)
        walk = dict(later)
        if n in design.looks:
            look = design.looks.index(n)
            error += sum(mass for count, mass in walk.items() if count >= design.certify_at[look])
            walk = {k: m for k, m in walk.items() if design.give_up_at[look] < k < design.certify_at[look]}
    return error


def test_the_error_equals_that_of_every_sequence_of_votes():
    n = SMALL.looks[-1]
    votes = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    counts = np.cumsum(votes, axis=1)[:, np.array(SMALL.looks) - 1]
    never = len(SMALL.looks)
    yes = np.where((counts >= SMALL.certify_at).any(1), np.argmax(counts >= SMALL.certify_at, 1), never)
    no = np.where((counts <= SMALL.give_up_at).any(1), np.argmax(counts <= SMALL.give_up_at, 1), never)
    chance = 0.75 ** votes.sum(1) * 0.25 ** (n - votes.sum(1))
    error = chance[yes < no].sum()
    assert error == pytest.approx(SMALL.type_one_error, rel=1e-8)
    assert chance[(counts >= SMALL.certify_at).any(1)].sum() > error  # giving up early matters in this design
    stops = np.array([*SMALL.looks, n])[np.minimum(yes, no)]
    assert SMALL.outcome(0.75) == pytest.approx((error, chance @ stops))


@given(
    p0=st.sampled_from([0.5, 0.6, 0.75, 0.9, 0.97]),
    alpha=st.sampled_from([0.2, 0.05, 0.01, 0.001]),
    n_max=st.integers(20, 90),
    loss=st.sampled_from([0.1, 1.0, 20.0]),
    shares=st.lists(st.floats(0, 1), max_size=3),
)
@settings(deadline=None, derandomize=True, max_examples=10)
def test_every_design_errs_with_probability_at_most_alpha_whatever_the_prior(p0, alpha, n_max, loss, shares):
    """At p0 and below it, by rational arithmetic; so it does given any outcome of the selection."""
    if p0**n_max > alpha:
        with pytest.raises(ValueError, match="can never be certified"):
            best_plan(p0, alpha, n_max, 20, loss)
        return
    plan = best_plan(p0, alpha, n_max, 20, loss, Prior.of(shares) if shares else None)
    for design in plan.designs:
        error = exact_error(design, Fraction(p0))
        assert error <= Fraction(design.type_one_error) <= Fraction(alpha)
        assert design.type_one_error == pytest.approx(float(error), rel=1e-8, abs=1e-13)
        for lower in (0.0, p0 / 2, p0 - 1e-3):
            assert exact_error(design, Fraction(lower)) <= error


@pytest.mark.parametrize(("radius", "n_max"), [(0.0, 10_000), (1.0, 10_000), (3.0, 20_000)])
def test_the_error_equals_that_of_a_walk_in_single_votes_at_full_size(radius: float, n_max: int):
    p0 = share_needed(radius, 1.0)
    for design in selection.plan(p0, 1e-3, n_max, 100, 0.1).designs:
        walk, first, error, before = np.ones(1), 0, 0.0, 0
        for n, reach, give_up in zip(design.looks, design.certify_at, design.give_up_at, strict=True):
            for _ in range(n - before):
                walk = np.append(walk, 0.0) * (1 - p0) + np.append(0.0, walk) * p0
                if len(walk) > 4000:
                    walk, first = walk[1:], first + 1  # what is cut is below 1e-12: checked by the tolerance
            counts, before = first + np.arange(len(walk)), n
            error += walk[counts >= reach].sum()
            kept = np.flatnonzero((counts > give_up) & (counts < reach))
            if not len(kept):
                break
            walk, first = walk[kept[0] : kept[-1] + 1], int(counts[kept[0]])
        assert design.type_one_error == pytest.approx(error, rel=1e-6)
        assert 0.9e-3 < error <= 1e-3


def test_what_is_cut_from_the_walk_counts_as_an_error(monkeypatch: pytest.MonkeyPatch):
    exact = float(exact_error(SMALL, Fraction(3, 4)))

    def narrow(n: int, p: float) -> tuple[np.ndarray, int, float]:
        weights = binom.pmf(np.arange(n + 1), n, p)
        return weights[1:-1], 1, float(weights[0] + weights[-1])

    monkeypatch.setattr(designs, "_window", lambda n, p: narrow(n, p) if n > 2 else designs.window(n, p))
    cut = Design(SMALL.p0, SMALL.looks, SMALL.certify_at, SMALL.give_up_at)
    assert cut.outcome(0.75)[0] < exact
    assert cut.type_one_error > exact


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("certify_at - first", "certify_at + 1 - first"),
        ("give_up_at + 1 - first", "give_up_at - first"),
        ("first + begin", "first + end"),
        ("walk[begin:end]", "walk[begin : end + 1]"),
        ("n - before, share", "n, share"),
    ],
)
def test_a_wrong_recursion_is_noticed(old: str, new: str):
    """Each slip changes the error of the small design, so that the tests above would fail."""
    source = textwrap.dedent(inspect.getsource(Design._follow))
    assert old in source
    names = vars(designs) | {}
    exec(source.replace(old, new), names)
    assert names["_follow"](SMALL, 0.75)[0] != pytest.approx(SMALL.type_one_error, rel=1e-6)


def test_unanimous_votes_certify_after_as_few_samples_as_p0_allows():
    p0 = share_needed(0.5, 0.5)
    assert p0**40 <= 1e-3 < p0**39
    assert 40 in optimal.look_schedule(p0, 1e-3, 100_000)
    sure = best_plan(p0, 1e-3, 2000, 20, 0.1, Prior.of([0.45, 0.9999999]))
    power, samples = sure.outcome(0.9999999)
    assert power == pytest.approx(1, abs=1e-4)
    assert samples <= 40 + 20


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0])
def test_no_more_samples_than_spending_boundaries_at_the_loss_that_was_asked_for(radius: float):
    p0, n_max = share_needed(radius, 1.0), 5000
    plan, prior = selection.plan(p0, 1e-3, n_max, 100, 0.3), flat(p0)
    some = slice(5, None, 10)
    shares, weights = np.array(prior.shares[some]), np.full(200, 1 / 200)
    power, samples = np.array([plan.outcome(share) for share in shares]).T
    above = shares > p0
    lost = weights[above] @ (fixed_power(p0, 1e-3, n_max, shares) - power)[above]
    assert 0.15 < 100 * lost <= 0.35
    spending = GroupSequential(p0, 1e-3, looks(100, n_max), 0.05)
    old = Design(p0, spending.looks, tuple(spending.certify_at.tolist()), tuple(spending.give_up_at.tolist()))
    today = np.array([old.outcome(share)[1] for share in shares])
    assert weights @ samples < 0.7 * (weights @ today + 100)


def test_a_smaller_loss_takes_more_samples():
    p0 = share_needed(1.0, 1.0)
    found = [selection.plan(p0, 1e-3, 5000, 100, loss).outcome(p0 + 0.03) for loss in (3.0, 0.3, 0.1)]
    assert [power for power, _ in found] == sorted(power for power, _ in found)
    assert [samples for _, samples in found] == sorted(samples for _, samples in found)


def test_the_backward_induction_is_optimal_by_brute_force():
    """No other design with these looks costs less, at the multipliers that found this one."""
    p0, alpha, ns, z = 0.6, 0.1, (2, 4, 6), np.array([-1.0, 0.0, 0.9, 1.6])
    walks = optimal.Walks(p0, alpha, ns, z)
    prior, lost = np.array([0.1, 0.4, 0.3, 0.2]), np.array([0.0, 0.0, 20.0, 30.0])
    go, stop, price = [prior @ r for r in walks.ratios], [lost @ r for r in walks.ratios], 40.0

    def cost(design: Design) -> float:
        outcomes = np.array([design.outcome(float(share)) for share in ndtr(z)])
        return float(prior @ outcomes[:, 1] + lost @ (1 - outcomes[:, 0]) + price * design.outcome(p0)[0])

    pairs = [[(c, f) for c in range(n + 2) for f in range(-1, c)] for n in ns[:2]]
    last = [(c, c - 1) for c in range(ns[2] + 2)]
    best = min(cost(Design(p0, ns, *map(tuple, zip(*rules, strict=True)))) for rules in product(*pairs, last))
    found = walks.design(stop, go, price)
    assert cost(found) == pytest.approx(best, rel=1e-9)
    assert 0 < found.type_one_error < 1


def test_a_radius_is_claimed_only_with_all_smaller_ones():
    low, high = Design(0.5, (4, 8), (5, 8), (-1, 7)), Design(0.6, (4, 8), (4, 8), (-1, 7))
    decision = Decision([low, high])
    decision.look(4, 4)  # the larger radius is certified, the smaller one not yet
    assert (decision.certified, decision.next_look()) == (0, 8)
    decision.look(8, 7)
    assert (decision.certified, decision.next_look()) == (0, None)
    assert replay([low, high], [4, 8], [4, 8]).certified == 2
    decision = Decision([low, Design(0.6, (4,), (0,), (-1,))])
    decision.look(4, 4)
    assert decision.ends == ["open", "certified"]
    decision = Decision([Design(0.5, (4,), (4,), (3,)), Design(0.6, (4,), (0,), (-1,))])
    decision.look(4, 3)  # given up, and what the larger radius says at that look does not count
    assert (decision.ends, decision.certified, decision.next_look()) == (["given up", "open"], 0, None)
    assert Decision([None, high]).next_look() is None
    with pytest.raises(ValueError, match="expected a look at 4 samples, found one at 5"):
        replay([low, high], [5], [4])


def test_a_kept_plan_that_was_edited_never_raises_the_error(tmp_path: Path):
    question = (0.75, 1e-2, 200, 20)
    plan, path = best_plan(*question, 1.0), tmp_path / "plan.json"
    selection.save(plan, path)
    assert selection.load(path, *question) == plan
    whole = json.loads(path.read_text())

    def edited(**changes: object) -> Plan | None:
        path.write_text(json.dumps(whole | changes))
        return selection.load(path, *question)

    design = whole["designs"][0]
    for i, look in enumerate(design["looks"]):
        bold = design | {"certify_at": [c - 1 if j == i else c for j, c in enumerate(design["certify_at"])]}
        found = edited(designs=[bold, *whole["designs"][1:]])
        assert found is None or found.type_one_error <= 1e-2, look
    lax = design | {"certify_at": [-1] * len(design["looks"]), "give_up_at": [-2] * len(design["looks"])}
    assert edited(designs=[lax] * len(whole["designs"])) is None
    assert edited(designs=[design | {"looks": [0.5, *design["looks"][1:]]}] * len(whole["designs"])) is None
    assert edited(designs=[design | {"looks": design["looks"][::-1]}] * len(whole["designs"])) is None
    assert edited(designs=[]) is None
    assert edited(actions=[[99] * len(action) for action in whole["actions"]]) is None
    assert edited(stages=None) is None
    all_in = [[0] * len(action) for action in whole["actions"]]
    found = edited(actions=all_in)  # another selection is allowed: it costs samples only
    assert found is not None
    assert found.type_one_error <= 1e-2
    path.write_text(path.read_text()[:50])
    assert selection.load(path, *question) is None
    selection.save(plan, path)
    safer = selection.load(path, 0.7, *question[1:])  # a plan for another share is used if its error there allows
    assert safer is not None
    assert safer.type_one_error <= 1e-2
    assert selection.load(path, 0.76, *question[1:]) is None
    assert selection.load(path, *question[:2], 100, 20) is None  # and one with more samples than allowed is refused


def test_a_plan_is_searched_once_and_then_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = selection.plan.__wrapped__(0.8, 1e-2, 300, 20, 1.0)
    monkeypatch.setattr(selection, "best_plan", lambda *_: pytest.fail("searched again"))
    assert selection.plan.__wrapped__(0.8, 1e-2, 300, 20, 1.0) == first
    (kept,) = selection.folder().iterdir()
    monkeypatch.setattr(selection, "best_plan", lambda *_: first)
    kept.unlink()
    selection.folder().rmdir()
    selection.folder().write_text("not a folder")  # nowhere to keep it: no reason to fail
    assert selection.plan.__wrapped__(0.8, 1e-2, 300, 20, 1.0) == first


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Design(1.0, (4,), (4,), (1,)), "p0 in"),
        (lambda: Design(0.5, (4, 4), (4, 4), (1, 1)), "increasing"),
        (lambda: Design(0.5, (), (), ()), "increasing"),
        (lambda: Design(0.5, (4, 5), (4,), (1, 1)), "for each look"),
        (lambda: Design(0.5, (4,), (1,), (1,)), "more votes than it gives up"),
        (lambda: Plan((2,), ((0, 0),), (SMALL,)), "every stage"),
        (lambda: Plan((1,), ((0, MORE),), (SMALL,)), "no more after the last"),
        (lambda: Plan((1,), ((HOPELESS, 1),), (SMALL,)), "expected actions"),
        (lambda: Prior((0.5,), (0.0,)), "at least one positive"),
        (lambda: Prior((1.5,), (1.0,)), "vote shares in"),
        (lambda: best_plan(0.8, 1e-3, 1000, 100, 0.0), "loss of certified accuracy"),
        (lambda: best_plan(0.999, 1e-3, 1000, 100, 0.1), "can never be certified"),
        (lambda: AtRadius(0.5, loss=0.0), "loss must lie between"),
        (lambda: AtRadius(0.5, boundaries="other"), "one of optimal, spending"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_impossible_settings_are_refused_by_name(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_selection_takes_few_votes_where_they_agree_and_none_follow_where_all_is_lost():
    plan = selection.plan(share_needed(1.5, 0.5), 1e-3, 20_000, 100, 0.3)
    assert plan.actions[0][0] == HOPELESS or plan.actions[0][2] == HOPELESS
    assert all(plan.actions[-1][k] == HOPELESS for k in range(80))
    assert plan.outcome(0.5)[1] < 12
    assert selection.STAGES[-1] == plan.stages[-1] == 100
