"""Votes are counted by one rule: the first class with the top logit, no class where that is not finite."""

import math
from itertools import product
from typing import Any

import pytest
import torch

from holdfast.smoothing.votes import ROOM, Ballots, count, count_by_torch, winners

VALUES = (-1.0, 0.0, -0.0, 1.0, math.inf, -math.inf, math.nan)
EVERY = torch.tensor(list(product(VALUES, repeat=4)))
"""All rows of four such logits."""


def rule(row: list[float]) -> int:
    """In words: NaN is above all; the first of the largest; a class of its own where that is not finite."""
    broken = [c for c, value in enumerate(row) if math.isnan(value)]
    top = broken[0] if broken else row.index(max(row))
    return top if math.isfinite(row[top]) else len(row)


EXPECTED = [rule(row) for row in EVERY.tolist()]


def tally(chosen: list[int], rows: list[int]) -> list[list[int]]:
    starts = [sum(rows[:group]) for group in range(len(rows))]
    return [[chosen[a : a + n].count(c) for c in range(5)] for a, n in zip(starts, rows, strict=True)]


def test_a_row_votes_for_the_first_class_with_the_top_logit_if_that_is_finite() -> None:
    assert winners(EVERY).tolist() == EXPECTED
    assert [counts.index(1) for counts in count(EVERY, [1] * len(EVERY)).tolist()] == EXPECTED


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [[7**4], [0, 64, 1, 0, 7**4 - 70, 5], [7**4, 0]])
def test_votes_are_those_of_the_rows_of_each_group(dtype: torch.dtype, rows: list[int]) -> None:
    assert count(EVERY.to(dtype), rows).tolist() == tally(EXPECTED, rows)


def test_logits_may_lie_in_memory_as_they_like_and_stay_as_they_are() -> None:
    turned = EVERY.T.contiguous().T
    before = turned.clone()
    assert count(turned, [7**4]).tolist() == tally(EXPECTED, [7**4])
    assert count(EVERY.clone().requires_grad_(), [7**4]).tolist() == tally(EXPECTED, [7**4])
    assert torch.equal(turned.nan_to_num(3), before.nan_to_num(3))


def test_groups_that_are_lost_vote_for_no_class() -> None:
    found = count(EVERY, [100, 200, 7**4 - 300], lost=[1])
    assert found[1].tolist() == [0, 0, 0, 0, 200]
    kept = tally(EXPECTED, [100, 200, 7**4 - 300])
    assert [found[0].tolist(), found[2].tolist()] == [kept[0], kept[2]]


@pytest.mark.parametrize(("rows", "lost"), [([7**4], []), ([100, 200, 7**4 - 300], [1]), ([7**4 - 9, 0, 9], [0])])
def test_the_way_of_other_devices_counts_the_same(rows: list[int], lost: list[int]) -> None:
    assert count_by_torch(EVERY, rows, lost).tolist() == count(EVERY, rows, lost).tolist()


@pytest.mark.parametrize("counting", [count, count_by_torch])
@pytest.mark.parametrize("logits", [EVERY[:-1], torch.cat([EVERY, EVERY[:1]]), EVERY[:, 0]])
def test_rows_that_are_not_there_are_not_counted(counting: Any, logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="for a batch of 2401"):
        counting(logits, [2400, 1])


def test_a_lazy_minus_sign_is_seen() -> None:
    assert count(torch.complex(EVERY, EVERY).conj().imag, [7**4]).tolist() == count(-EVERY, [7**4]).tolist()


def put_aside(ballots: Ballots[str], logits: torch.Tensor, owners: list[str], rows: list[int]) -> None:
    """As from a model that writes into the same memory again and again."""
    memory = logits.clone()
    ballots.put(memory, owners, rows)
    memory.fill_(math.nan)


def taken(ballots: Ballots[str], lost: str = "") -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for owner, votes in ballots.take(lost.__contains__):
        sums[owner] = [a + b for a, b in zip(sums.get(owner, [0] * 5), votes.tolist(), strict=True)]
    return sums


@pytest.mark.parametrize("lost", ["", "b", "ac"])
def test_votes_of_passes_that_were_put_aside_are_those_of_each_pass(lost: str) -> None:
    passes = [(["a"], [800, 0]), (["a", "b"], [300, 500, 0]), (["b", "c"], [700, 0, 1]), (["c"], [50, 50])]
    ballots, start, expected = Ballots[str](), 0, {}
    for owners, rows in passes:
        part = EVERY[start : start + sum(rows)]
        put_aside(ballots, part, owners, rows)
        found = count(part, rows, [group for group, owner in enumerate(owners) if owner in lost])
        for owner, votes in zip(owners, found, strict=False):
            expected[owner] = expected.get(owner, 0) + votes
        start += len(part)
    assert taken(ballots, lost) == {owner: votes.tolist() for owner, votes in expected.items()}
    put_aside(ballots, EVERY[:64], ["c"], [64, 0])
    assert taken(ballots) == {"c": count(EVERY[:64], [64]).tolist()[0]}  # and nothing of what was taken before


def test_what_is_put_aside_is_counted_before_it_fills_much_memory() -> None:
    ballots = Ballots[str]()
    for _ in range(ROOM // EVERY.numel()):
        put_aside(ballots, EVERY, ["a"], [7**4, 0])
    assert not ballots.full
    put_aside(ballots, EVERY, ["a"], [7**4, 0])
    assert ballots.full
    assert sum(taken(ballots)["a"]) == (ROOM // EVERY.numel() + 1) * 7**4
    assert not ballots.full


@pytest.mark.parametrize("logits", [EVERY[:-1], EVERY[:, :1], EVERY[:, :0], EVERY[:, 0]])
def test_a_pass_with_other_rows_or_classes_is_refused_when_it_is_put_aside(logits: torch.Tensor) -> None:
    ballots = Ballots[str]()
    ballots.put(EVERY, ["a"], [7**4, 0])
    with pytest.raises(ValueError, match="for a batch of 2401"):
        ballots.put(logits, ["a"], [7**4, 0])


def test_logits_that_one_type_would_round_are_not_counted_together() -> None:
    logits = torch.tensor([[2**24, 2**24 + 1]])
    assert count(logits, [1]).tolist() == [[0, 1, 0]]
    assert count(logits.float(), [1]).tolist() != [[0, 1, 0]]  # a tie
    ballots = Ballots[str]()
    ballots.put(logits, ["a"], [1, 0])
    with pytest.raises(ValueError, match=r"answers in .*float32 now, and in .*int64 before"):
        ballots.put(logits.float(), ["a"], [1, 0])
