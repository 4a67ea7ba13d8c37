"""The records of a run share what was chosen before the votes: one of them cannot be given a rule to fit its votes."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import Adaptive, AtRadius, Gaussian, LInfBox, Margin, certify_run, checker
from holdfast.core.certificate import BoxEvidence, Evidence, MarginEvidence
from holdfast.core.certifier import Certifier
from holdfast.runs.certified import CertifiedRun
from holdfast.runs.find import read_facts
from holdfast.runs.records import Limits, read_checked, read_labels, record_of
from holdfast.smoothing.evidence import SamplingEvidence, StoppedVotes
from holdfast.smoothing.radius_tests import DesignVotes


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Certifier], Path]:
    """A certify folder of a certifier, made once."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    runs = tmp_path_factory.mktemp("runs")

    def made(certifier: Certifier) -> Path:
        return folder_of(certify_run(model, "digits", certifier, limit=40, runs=runs, device="cpu").name, certifier)

    def folder_of(name: str, certifier: Certifier) -> Path:
        asked = [(json.loads(path.read_text()), path.parent) for path in runs.glob(f"{name}/certify-*/run.json")]
        (found,) = (path for run, path in asked if run["certification"]["certifier"] == certifier.to_dict())
        return found

    return made


def lines(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("records-*")
    return [json.loads(line) for line in path.read_text().splitlines()]


def forged(folder: Path, target: Path, number: int, evidence: Evidence) -> Path:
    """A copy of a certify folder in which one record has other evidence, with the claim that follows from it."""
    target.mkdir()
    (target / "run.json").write_bytes((folder / "run.json").read_bytes())
    records = lines(folder)
    claim = evidence.claim()
    proof = {"prediction": claim.prediction, "radius": claim.radius, "evidence": evidence.to_record()}
    records[number]["certificate"] |= proof
    (target / "records-0-of-1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return target


def cut(votes: StoppedVotes) -> StoppedVotes:
    """The same samples ended one look earlier, with a limit put above the votes that there were."""
    looks, counts = votes.looks[: len(votes.counts) - 1], votes.counts[:-1]
    rival = next(label for label in "0123456789" if label != str(votes.top))
    others = {rival: looks[-1] - counts[-1]} if looks[-1] > counts[-1] else {}
    limits = (*votes.go_on_at[: len(counts) - 1], counts[-1] + 1)
    return replace(votes, counts=counts, go_on_at=limits, votes={str(votes.top): counts[-1], **others}, invalid=0)


def test_an_end_that_was_chosen_after_the_votes_is_refused(
    certified: Callable[[Certifier], Path], tmp_path: Path
) -> None:
    folder = certified(Adaptive(sigma=0.1, n_max=4000))
    found = [checked.evidence for checked in read_checked(folder)]
    number, votes = next(
        (number, one)
        for number, one in enumerate(found)
        if isinstance(one, StoppedVotes) and len(one.counts) > 2 and one.counts[-2] > one.go_on_at[-2] + 1
    )
    made = forged(folder, tmp_path / "forged", number, cut(votes))
    assert Limits.of_folder(made).check(record_of(lines(made)[number]))  # alone it could be true
    for read in (CertifiedRun.open, read_labels):  # reports, and certifications that go on
        with pytest.raises(ValueError, match=r"line \d+: not a record of this run: go_on_at holds .* was one edited"):
            read(made)


@pytest.mark.parametrize(("by", "refused"), [(1, False), (3, True)])
def test_a_design_is_that_of_all_examples_with_these_selection_votes(
    by: int, refused: bool, certified: Callable[[Certifier], Path], tmp_path: Path
) -> None:
    """A limit lowered by more than rounding is refused; giving up more easily leaves the type-one error as it is."""
    folder = certified(AtRadius(sigma=0.1, r=(0.1,)))
    found = [checked.evidence for checked in read_checked(folder)]
    alike: dict[Any, list[int]] = {}
    for number, one in enumerate(found):
        if isinstance(one, DesignVotes) and one.tests and one.decision.certified:
            alike.setdefault((one.selected, max(one.selection.values())), []).append(number)
    number = max(alike.values(), key=len)[-1]
    assert len(max(alike.values(), key=len)) > 1
    votes = found[number]
    assert isinstance(votes, DesignVotes)
    test = votes.tests[0]
    changed = test.replace(certify_at=tuple(least + by for least in test.certify_at))
    try:
        made = forged(folder, tmp_path / "forged", number, replace(votes, tests=(changed,)))
    except ValueError:
        pytest.skip("the votes do not reach the limit that is asked for")
    if refused:
        with pytest.raises(ValueError, match="certify_at holds"):
            CertifiedRun.open(made)
    else:
        assert len(CertifiedRun.open(made)) == 40


def test_a_runtime_beside_evidence_is_that_of_the_run(certified: Callable[[Certifier], Path], tmp_path: Path) -> None:
    folder, records = certified(Adaptive(sigma=0.1, n_max=4000)), lines(certified(Adaptive(sigma=0.1, n_max=4000)))
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    for told in ("torch", "compile"):
        records[5]["certificate"]["evidence"]["runtime"] = told
        (tmp_path / "records-0-of-1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if told == "torch":
            assert len(read_checked(tmp_path)) == 40
            continue
        with pytest.raises(ValueError, match="runtime is 'compile' in the evidence, and 'torch' in the run"):
            read_checked(tmp_path)


def test_the_runtime_of_a_run_is_that_of_its_log(certified: Callable[[Certifier], Path], tmp_path: Path) -> None:
    folder = certified(Adaptive(sigma=0.1, n_max=4000))
    run = json.loads((folder / "run.json").read_text())
    run["certification"]["runtime"] = "compile"
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "log.jsonl").write_bytes((folder / "log.jsonl").read_bytes())
    with pytest.raises(ValueError, match=r"run.json names the runtime compile, and log.jsonl torch"):
        read_facts(tmp_path)


def test_a_pair_of_classes_has_one_constant(certified: Callable[[Certifier], Path], tmp_path: Path) -> None:
    folder = certified(Margin())
    found = [checked.evidence for checked in read_checked(folder)]
    pairs = [(one.prediction, one.rival) for one in found if isinstance(one, MarginEvidence)]
    number = next(number for number, pair in enumerate(pairs) if pairs.index(pair) < number)
    proof = found[number]
    assert isinstance(proof, MarginEvidence)
    made = forged(folder, tmp_path / "forged", number, replace(proof, constant=proof.constant / 10))
    with pytest.raises(ValueError, match=r"line \d+: not a record of this run: constant holds .* was one edited"):
        CertifiedRun.open(made)


@pytest.mark.parametrize("certifier", [Margin("linf"), LInfBox(3), Adaptive(sigma=0.1, n_max=4000)])
def test_the_norm_of_a_run_is_that_of_its_run_json(
    certifier: Certifier, certified: Callable[[Certifier], Path], tmp_path: Path
) -> None:
    """An edit of all records alike, with their evidence as far as it names the norm, is found without a signature."""
    folder = certified(certifier)
    norm = json.loads((folder / "run.json").read_text())["norm"]
    assert {record["certificate"]["norm"] for record in lines(folder)} == {norm}
    other = {"l2": "linf", "linf": "l2"}[norm]
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    text = "".join(json.dumps(record) + "\n" for record in lines(folder)).replace(f'"{norm}"', f'"{other}"')
    (tmp_path / "records-0-of-1.jsonl").write_text(text)
    with pytest.raises(ValueError, match=f"norm is '{other}', and '{norm}' in the run; was it edited"):
        CertifiedRun.open(tmp_path)
    reasons = " ".join(reason for holds, reason in checker.check_folder(tmp_path, Counter()) if not holds)
    assert (
        f"threat is {other} in the evidence and {norm} in the settings" in reasons or "confidence and norm" in reasons
    )


def test_a_margin_run_that_does_not_name_its_norm_says_so(
    certified: Callable[[Certifier], Path], tmp_path: Path
) -> None:
    folder = certified(Margin())
    assert not any("norm" in told for told in CertifiedRun.open(folder).lacks)
    run = json.loads((folder / "run.json").read_text())
    del run["norm"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "records-0-of-1.jsonl").write_bytes((folder / "records-0-of-1.jsonl").read_bytes())
    assert (
        "the norm of its radii is told by its records alone: run.json does not name it"
        in CertifiedRun.open(tmp_path).lacks
    )


def test_all_margins_of_a_run_are_of_one_program(certified: Callable[[Certifier], Path], tmp_path: Path) -> None:
    folder = certified(Margin())
    evidence = read_checked(folder)[3].evidence
    assert isinstance(evidence, MarginEvidence)
    made = forged(folder, tmp_path / "forged", 3, replace(evidence, program="0123456789abcdef"))
    with pytest.raises(ValueError, match=r"line 4: not a record of this run: program holds 0123456789abcdef"):
        CertifiedRun.open(made)


def test_boxes_are_balls_of_linf(certified: Callable[[Certifier], Path]) -> None:
    evidence = read_checked(certified(LInfBox(3)))[0].evidence
    assert isinstance(evidence, BoxEvidence)
    with pytest.raises(ValueError, match="boxes are balls of linf"):
        replace(evidence, margin=replace(evidence.margin, threat="l2"))


def test_labels_of_an_unfinished_run_are_those_of_the_data_set_when_it_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    settings: dict[str, Any] = {"limit": 6, "device": "cpu", "runs": tmp_path}
    half = certify_run(model, "digits", Gaussian(0.1, n=50), shard=(0, 2), **settings)
    assert any("labels are compared" in told for told in half.lacks)
    (path,) = tmp_path.glob("*/certify-*/records-*")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["label"] += 1
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(ValueError, match=r"the label of example 2 is 3, expected 2; was it edited\?"):
        certify_run(model, "digits", Gaussian(0.1, n=50), **settings)


def test_labels_of_a_finished_run_are_those_it_was_started_with(
    certified: Callable[[Certifier], Path], tmp_path: Path
) -> None:
    folder = certified(Adaptive(sigma=0.1, n_max=4000))
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    for label in (lines(folder)[0]["label"], 1 - lines(folder)[0]["label"], 2**70):
        records = lines(folder)
        records[0]["label"] = label
        (tmp_path / "records-0-of-1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if label == lines(folder)[0]["label"]:
            assert len(CertifiedRun.open(tmp_path)) == 40
            continue
        with pytest.raises(ValueError, match="the labels are not those that the run was started with"):
            CertifiedRun.open(tmp_path)


TOLD: dict[str, tuple[dict[str, Any], str]] = {
    "a total beyond all measure": ({"total": 10**30}, "OverflowError|too large"),
    "revises a text": ({"revises": "x"}, "no attribute"),
    "an alpha below 0": ({"revises": {"earlier_alphas": {"certify-1": -0.001}}}, "alpha of certify-1 is -0.001"),
    "an alpha as text": ({"revises": {"earlier_alphas": {"certify-1": "0"}}}, "certify-1 is '0', expected a number"),
    "a released log without alphas": ({"released": {"source": "x", "n": 3, "alpha": 0.1}}, "fits"),
    "a released log as text": ({"released": "x"}, "source is missing"),
    "half a change": ({"revises": {"changed": {"n": 3}}}, "changed of n is 3"),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_run_json_that_no_run_can_have_is_refused(
    name: str, certified: Callable[[Certifier], Path], tmp_path: Path
) -> None:
    folder = certified(Margin())
    changes, reason = TOLD[name]
    run = json.loads((folder / "run.json").read_text()) | changes
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "records-0-of-1.jsonl").write_bytes((folder / "records-0-of-1.jsonl").read_bytes())
    with pytest.raises(ValueError, match=rf"tells no valid start.*({reason}).*was it edited"):
        CertifiedRun.open(tmp_path)


@pytest.mark.parametrize("label", ["x", "-1", " 3", "\u0663", "1.0"])
def test_a_vote_is_for_a_class(label: str, certified: Callable[[Certifier], Path]) -> None:
    evidence = read_checked(certified(Adaptive(sigma=0.1, n_max=4000)))[0].evidence
    assert isinstance(evidence, SamplingEvidence)
    with pytest.raises(ValueError, match="is no class, expected an integer"):
        replace(evidence, votes={**evidence.votes, label: 0})
