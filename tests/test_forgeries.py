"""Whatever one number of evidence is changed to: no reader takes a larger radius, but where only the model can tell.

Every leaf of the evidence of every certifier is changed, and the claim, the derived numbers, confidence and norm are
made to follow from it: what is refused then is refused because of the change alone.
"""

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import CERTIFIERS
from test_verify import faults, read, run_of

from holdfast import Betting, checker
from holdfast.core.certificate import Evidence
from holdfast.core.config import field_set
from holdfast.core.registry import KINDS
from holdfast.runs.records import Limits, record_of
from holdfast.smoothing.evidence import BettingVotes, StoppedVotes
from holdfast.smoothing.radius_tests import AdaptiveVotes

Leaf = tuple[str | int, ...]
Run = tuple[dict[str, Any], list[dict[str, Any]]]

OBSERVED = {"counts", "rivals", "margin", "radius", "gamma"}
"""What only the model can show: `lacks` of a run, and the checker, say so."""

BY_RECORDS_ALIKE = {"constant"}
"""What another record of the run contradicts: told to be unchecked by the checker, which sees one record at a time."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Settings and records of a certifier, made once."""
    made: dict[str, Run] = {}

    def run(name: str) -> Run:
        if name not in made:
            made[name] = read(run_of(name, tmp_path_factory.mktemp("run") / name))
        return copy.deepcopy(made[name])

    return run


def fields_of(evidence: dict[str, Any]) -> dict[str, Any]:
    """Evidence without the numbers that follow from others."""
    known = {name: value for name, value in evidence.items() if name in field_set(KINDS[evidence["kind"]])}
    inner = {name: fields_of(known[name]) for name in ("inner",) if name in known}
    return {"kind": evidence["kind"], **known, **inner}


def leaves(value: Any, leaf: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    if leaf:
        yield leaf, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from leaves(part, (*leaf, name))


def others(value: Any) -> list[Any]:
    """Values that a forger could put in the place of one."""
    if isinstance(value, bool) or value is None:
        return [not value, 0.0]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value, value // 2, 0]
    if isinstance(value, float):
        return [2 * value, value / 2, 1.001 * value, value / 1.001, 0.0]
    if isinstance(value, list):
        return [value[:-1], value[1:], value[::-1], []]
    return [{}, dict(zip(value, [*value.values()][::-1], strict=True))] if isinstance(value, dict) else []


def put(whole: dict[str, Any], leaf: Leaf, value: Any) -> dict[str, Any]:
    whole = copy.deepcopy(whole)
    part: Any = whole
    for name in leaf[:-1]:
        part = part[name]
    part[leaf[-1]] = value
    return whole


def following(record: dict[str, Any], evidence: Evidence) -> dict[str, Any]:
    """The record with other evidence, and all that follows from it."""
    claim, kept = evidence.claim(), json.loads(json.dumps(evidence.to_record()))
    proof = {"prediction": claim.prediction, "radius": claim.radius, "norm": evidence.norm}
    return {**record, "certificate": {**proof, "confidence": evidence.confidence, "evidence": kept}}


def forgeries(record: dict[str, Any]) -> Iterator[tuple[Leaf, dict[str, Any]]]:
    """The record with a larger radius, by one other number."""
    true = fields_of(record["certificate"]["evidence"])
    for leaf, value in leaves(true):
        for other in others(value):
            try:
                forged = following(record, Evidence.from_dict(put(true, leaf, other)))
            except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
                continue
            if forged["certificate"]["radius"] > record["certificate"]["radius"] * (1 + 1e-7):
                yield leaf, forged


def refused(facts: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """Why holdfast does not read a run; empty where it does."""
    limits = Limits.of(facts, Path("run"))
    try:
        for record in records:
            limits.check(record_of(record))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CERTIFIERS)
def test_one_other_number_makes_no_radius_larger(name: str, runs: Callable[[str], Run]) -> None:
    facts, records = runs(name)
    assert not refused(facts, records)
    place = max(range(len(records)), key=lambda i: (records[i]["certificate"]["radius"] > 0, i))
    tried = Counter(leaf for leaf, _ in forgeries(records[place]))
    assert tried
    for leaf, forged in forgeries(records[place]):
        names, changed = set(leaf), [*records[:place], forged, *records[place + 1 :]]
        assert refused(facts, changed) or names & OBSERVED, (leaf, forged)
        assert faults(facts, changed) or names & (OBSERVED | BY_RECORDS_ALIKE), (leaf, forged)


@pytest.mark.parametrize("name", ["adaptive", "adaptive-spending"])
def test_the_rule_that_judges_votes_is_that_of_the_run(name: str, runs: Callable[[str], Run]) -> None:
    """Both are valid; whoever takes for every image the one that proves more pays alpha twice."""
    facts, records = runs(name)
    for place, record in enumerate(records):
        true = fields_of(record["certificate"]["evidence"])
        kept = {name: value for name, value in true.items() if name not in ("kind", "beta", "go_on_at")}
        ends = (*[0] * (len(true["counts"]) - 1), true["counts"][-1] + 1)
        other = StoppedVotes if name == "adaptive-spending" else AdaptiveVotes
        more = {"go_on_at": ends} if other is StoppedVotes else {"beta": facts["certification"]["certifier"]["beta"]}
        forged = following(record, other.from_dict({"kind": other.kind(), **kept, **more}))
        changed = [*records[:place], forged, *records[place + 1 :]]
        assert "boundaries is" in refused(facts, changed)
        assert f"and Adaptive leaves {true['kind']}" in faults(facts, changed)


@pytest.mark.parametrize(("name", "setting"), [("gaussian-two-class", "two_class"), ("gaussian", "sigma")])
def test_a_setting_that_run_json_does_not_tell_is_not_free(name: str, setting: str, runs: Callable[[str], Run]) -> None:
    facts, records = runs(name)
    del facts["certification"]["certifier"][setting]
    assert f"{setting} is" in refused(facts, records)
    assert f"{setting} is" in faults(facts, records)


def test_a_class_that_lost_votes_is_no_rival() -> None:
    """The bound on the runner-up is the best of all looks: one look with few votes for it would be enough."""
    certifier = Betting(sigma=0.5, n_max=500, alpha=0.05, first=100, two_class=True)
    shared = {"sigma": 0.5, "noise": certifier.noise, "n0": 10, "alpha": 0.05, "numbers": 3, "delta": 1e-9}
    shared |= {"first": 100, "growth": certifier.growth, "n_max": 500, "selection": {"0": 10}, "two_class": True}
    shared |= {"votes": {"0": 170, "1": 20, "2": 10}, "invalid": 0, "counts": (90, 170)}
    true = BettingVotes(**shared, rivals=(10, 20))
    assert checker.claims(true.to_record(), "BettingVotes")[0] == pytest.approx(tuple(true.claim()))
    for rivals in ((40, 20), (11, 20), (-1, 20)):
        with pytest.raises(ValueError, match=r"the rivals' counts \(.*\) do not fit \(90, 170\) of \(100, 200\)"):
            true.replace(rivals=rivals)
        with pytest.raises(ValueError, match="impossible counts"):
            checker.claims({**true.to_record(), "rivals": rivals}, "BettingVotes")


def test_a_look_that_is_left_out_gives_up() -> None:
    """A design that gave up at 10 samples is not certified at 20 by evidence that does not tell of the look at 10."""
    test = {"looks": [10, 20], "certify_at": [11, 18], "give_up_at": [5, 17], "later": 0.0}
    evidence = {"r": [0.1], "sigma": 0.5, "delta": 0.0, "alpha": 0.05, "tests": [test]}
    assert checker.from_looks({**evidence, "counts": [8, 18]}, [10, 20]) == [0.1, 0.1]
    assert checker.from_looks({**evidence, "counts": [5, 18]}, [10, 20]) == [None, None]
    assert checker.from_looks({**evidence, "counts": [18]}, [20]) == [None, None]
