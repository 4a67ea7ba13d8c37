"""Votes that are there are judged by other settings, or gone on from, and what that costs is counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CERTIFIERS
from dossier_cases import certify_folder
from test_verify import run_of
from torch import nn

from holdfast import CertifiedRun, Float32, Gaussian
from holdfast.certification.revise import recertify
from holdfast.certification.run import Given, prepare
from holdfast.core.certifier import Certifier
from holdfast.report.curve import load
from holdfast.report.labels import RHO
from holdfast.report.statistics import most_wrong
from holdfast.report.tables import results
from holdfast.runs.records import read_records


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def run(folder: Path, certifier: Certifier, **settings: Any) -> Path:
    """The certify folder of a few digits."""
    job = prepare(Given(linear()), "digits", certifier, limit=5, device="cpu", runs=folder, **settings)
    job.run()
    return job.folder


@pytest.mark.parametrize("changes", [{"alpha": 0.01}, {"alpha": 1e-5}, {"two_class": True}])
def test_the_votes_of_a_run_judged_anew_are_the_run_made_anew(changes: dict[str, Any], tmp_path: Path) -> None:
    """The noise follows from the seed, so that a fresh run finds the same votes."""
    old = Gaussian(0.25, n=300)
    found = recertify(run(tmp_path / "one", old), **changes)
    fresh = run(tmp_path / "two", old.replace(**changes))
    assert found.name == fresh.name
    assert read_records(found) == read_records(fresh)


def test_other_alphas_of_one_run_add_up(tmp_path: Path) -> None:
    first = certify_folder(tmp_path / "certify-1")
    second = recertify(first, alpha=0.01)
    assert CertifiedRun.open(second).alpha_spent == pytest.approx(0.011)
    assert CertifiedRun.open(first).alpha_spent == 0.001
    third = recertify(second, two_class=True)
    told = json.loads((third / "run.json").read_text())["revises"]
    assert told["run"] == second.name
    assert told["changed"] == {"two_class": [False, True]}
    assert told["earlier_alphas"] == {first.name: 0.001, second.name: 0.01}
    assert CertifiedRun.open(third).alpha_spent == pytest.approx(0.021)


def test_an_alpha_tried_beside_counts_too(tmp_path: Path) -> None:
    """Whoever tries two alphas on the same votes has three statements to choose from, whatever the path."""
    first = certify_folder(tmp_path / "certify-1")
    recertify(first, alpha=0.01)
    assert CertifiedRun.open(recertify(first, alpha=0.02)).alpha_spent == pytest.approx(0.031)


def test_a_report_counts_the_alphas_of_all_settings_that_were_tried(tmp_path: Path) -> None:
    first = certify_folder(tmp_path / "certify-1")
    curves = load([first, recertify(first, alpha=0.01)]).curves
    (row,) = [row for row in results(curves, [0.0]).rows if row[0] == "wrong at most"]
    counted = [most_wrong(len(curve), alpha, RHO) for curve, alpha in zip(curves, (0.001, 0.011), strict=True)]
    assert [int(cell.split()[0]) for cell in row[1:]] == counted


def test_a_report_says_that_settings_came_after_votes(tmp_path: Path) -> None:
    found = CertifiedRun.open(recertify(certify_folder(tmp_path / "certify-1"), alpha=0.01))
    assert any("alpha 0.01 instead of 0.001, chosen after the votes of certify-1" in lack for lack in found.lacks)


@pytest.mark.parametrize(
    "name", ["adaptive", "adaptive-spending", "betting", "betting-two-class", "at-radius-spending"]
)
def test_bounds_for_all_looks_at_once_allow_another_alpha(name: str, tmp_path: Path) -> None:
    """A larger alpha never proves less from the same votes, and the records follow from their evidence."""
    old = run_of(name, tmp_path / "certify-1")
    before, after = read_records(old), read_records(recertify(old, alpha=0.2))
    pairs = [(a.certificate, b.certificate) for a, b in zip(before, after, strict=True)]
    assert all(b.radius >= a.radius - 0.005 * 0.5 for a, b in pairs)  # spending boundaries have another grid
    assert any(b.radius > a.radius for a, b in pairs) or name == "at-radius-spending"
    assert all(a.evidence["votes"] == b.evidence["votes"] and b.confidence == 1 - 0.2 for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("at-radius", {"alpha": 0.2}, "were chosen for its alpha"),
        ("margin", {"alpha": 0.2}, "draws no samples"),
        ("split", {"alpha": 0.2}, "by the network's left half"),
        ("adaptive", {"two_class": True}, "not those of its runner-up"),
        ("gaussian", {"alpha": 0.05}, "these are the settings of the run already"),
        ("gaussian", {}, "these are the settings of the run already"),
        ("gaussian", {"alpha": 2.0}, "expected alpha in"),
        ("gaussian-without-selection", {"two_class": True}, "needs samples that select the class"),
    ],
)
def test_where_the_procedure_does_not_allow_it_the_reason_is_told(
    name: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    old = run_of(name, tmp_path / "certify-1", count=3)
    with pytest.raises(ValueError, match=reason):
        recertify(old, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["certify-1"]


def test_an_unfinished_run_is_not_judged_anew(tmp_path: Path) -> None:
    folder = certify_folder(tmp_path / "certify-1")
    records = folder / "records-0-of-1.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match="holds 3 of 6 records: finish it first"):
        recertify(folder, alpha=0.01)


@pytest.mark.parametrize("changes", [{}, {"n0": 0}, {"randomized": True}])
def test_a_run_that_goes_on_is_the_run_made_anew(changes: dict[str, Any], tmp_path: Path) -> None:
    certifier = Gaussian(0.25, n=700).replace(**changes)
    fresh = run(tmp_path / "fresh", certifier)
    first = run(tmp_path / "two", certifier.replace(n=200))
    gone_on = run(tmp_path / "two", certifier)
    assert read_records(gone_on) == read_records(fresh)
    entries = [json.loads(line) for line in (gone_on / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["samples"] == 5 * 500
    told = json.loads((gone_on / "run.json").read_text())["revises"]
    assert told == {"run": first.name, "changed": {"n": [200, 700]}, "earlier_alphas": {first.name: 0.001}}


def test_a_run_that_goes_on_can_be_killed_and_called_again(tmp_path: Path) -> None:
    certifier = Gaussian(0.25, n=700)
    run(tmp_path, certifier.replace(n=200))
    gone_on = run(tmp_path, certifier, shard=(0, 2))
    assert len(read_records(gone_on)) == 3
    assert run(tmp_path, certifier) == gone_on
    assert read_records(gone_on) == read_records(run(tmp_path / "fresh", certifier))


def run_of_other_noise(folder: Path, certifier: Certifier) -> None:
    """A run that holds the records of another seed: what goes on from them can be told from what starts anew."""
    own, other = run(folder, certifier), run(folder, certifier, seed=1)
    assert read_records(own) != read_records(other)
    shutil.copy(other / "records-0-of-1.jsonl", own)


def test_several_processes_go_on_from_earlier_votes(tmp_path: Path) -> None:
    certifier = Gaussian(0.25, n=700)
    for name in ("alone", "together"):
        run_of_other_noise(tmp_path / name, certifier.replace(n=200))
    gone_on = run(tmp_path / "together", certifier, devices=2)
    expected, fresh = run(tmp_path / "alone", certifier), run(tmp_path / "fresh", certifier)
    assert read_records(gone_on) == read_records(expected) != read_records(fresh)
    entries = [json.loads(line) for line in (gone_on / "log.jsonl").read_text().splitlines()]
    assert (entries[-1]["event"], entries[-1]["samples"]) == ("certified", 5 * 500)


@pytest.mark.parametrize("change", ["another seed", "a record less", "damaged", "gone"])
def test_a_run_goes_on_without_earlier_votes_that_have_changed(change: str, tmp_path: Path) -> None:
    """Such as after a folder was put in the place of another: votes of two runs together are those of none."""
    certifier = Gaussian(0.25, n=300)
    first = run(tmp_path / "one", certifier.replace(n=200))
    begun = run(tmp_path / "one", certifier, shard=(0, 2))
    assert "revises" in json.loads((begun / "run.json").read_text())
    records = first / "records-0-of-1.jsonl"
    if change == "another seed":
        shutil.rmtree(first)
        shutil.copytree(run(tmp_path / "two", certifier.replace(n=200), seed=1), first)
    elif change == "a record less":
        records.write_text("".join(records.read_text().splitlines(keepends=True)[:4]))
    elif change == "damaged":
        records.write_text("{}\n")
    else:
        shutil.rmtree(first)
    assert read_records(run(tmp_path / "one", certifier)) == read_records(run(tmp_path / "fresh", certifier))


def test_what_is_not_finished_or_not_alike_is_not_gone_on_from(tmp_path: Path) -> None:
    certifier = Gaussian(0.25, n=700)
    run(tmp_path, certifier.replace(n=200), shard=(0, 2))
    run(tmp_path, certifier.replace(n=300, alpha=0.01))
    run(tmp_path, certifier.replace(n=300), seed=1)
    run(tmp_path, certifier.replace(n=900))
    assert "revises" not in json.loads((run(tmp_path, certifier) / "run.json").read_text())


def test_noise_that_cannot_skip_draws_starts_anew(tmp_path: Path) -> None:
    certifier = Gaussian(0.25, n=300, noise=Float32())
    run(tmp_path, certifier.replace(n=200))
    assert "revises" not in json.loads((run(tmp_path, certifier) / "run.json").read_text())


def test_every_certifier_that_goes_on_is_tried() -> None:
    found = {name for name, case in CERTIFIERS.items() if getattr(case.certifier, "continues", False)}
    assert {name.partition("-")[0] for name in found} == {"gaussian"}
