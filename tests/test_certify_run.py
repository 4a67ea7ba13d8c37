"""Records belong to a model, to images and to settings: nothing else is added to them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import HalfSpace
from torch import Tensor, nn

from holdfast import CertifiedRun, Gaussian, Margin, certify_run
from holdfast.certification.driver import certify_share
from holdfast.certification.identity import model_hash
from holdfast.certification.run import Job, prepare
from holdfast.certification.task import Certification, open_certification
from holdfast.core.recipe import DataInfo
from holdfast.data import Dataset
from holdfast.nn.stored import captured
from holdfast.opening import Source


class Normalized(nn.Module):
    """There is no proof for its layer norm."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.flatten(1), (64,))


CERTIFIER = Gaussian(0.25, n=100)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def run(folder: Path, **settings) -> CertifiedRun:
    return certify_run(linear(), "digits", CERTIFIER, limit=4, device="cpu", runs=folder, **settings)


def test_a_run_is_what_its_folder_holds(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert [record.index for record in found.records] == [0, 1, 2, 3]
    assert found.total == 4
    assert not found.unfinished
    assert not found.lacks
    (folder,) = tmp_path.glob("sequential-*/certify-*")
    assert CertifiedRun.open(folder) == found
    assert run(tmp_path) == found


def test_a_share_of_a_run_is_continued_by_the_others(tmp_path: Path) -> None:
    first = run(tmp_path, shard=(0, 2))
    assert first.unfinished
    assert [record.index for record in first.records] == [0, 2]
    assert run(tmp_path, shard=(1, 2)).records == run(tmp_path / "whole").records


def test_nothing_is_written_before_all_that_can_be_checked_is_checked(tmp_path: Path) -> None:
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: certify_run(linear(), "mnist-5k", CERTIFIER, runs=tmp_path), "does not take images of shape"),
        (lambda: certify_run(Normalized().eval(), "digits", Margin(), runs=tmp_path), "no proof for aten"),
        (lambda: certify_run(linear().train(), "digits", CERTIFIER, runs=tmp_path), "training mode"),
        (lambda: run(tmp_path, precision="bf17"), "unknown precision"),
        (lambda: run(tmp_path, devices=2, shard=(0, 2)), "several processes or a shard"),
        (lambda: run(tmp_path, start=10**6), "beyond the 364 examples"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    assert not list(tmp_path.iterdir())


def test_another_precision_leaves_the_model_and_its_identity_as_they_are(tmp_path: Path) -> None:
    """What is measured beforehand, too: `holdfast certify` tells how long it can take, and then runs."""
    model = linear()
    job = prepare(model, "digits", CERTIFIER, limit=2, device="cpu", runs=tmp_path, precision="bf16-true")
    job.seconds()
    job.look()
    job.run()
    assert len(CertifiedRun.open(job.folder).records) == 2
    assert model_hash(model) == model_hash(linear())
    assert job.task.model == captured(linear(), (1, 8, 8)).identity[:16]


class TestRecordsOfAnotherModelOrOtherImages:
    info = DataInfo("toy", (3, 4, 4), 2, (0.5,) * 3, (0.5,) * 3)
    data = Dataset(info, "test", torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8), torch.arange(6) % 2)

    def task(self, folder: Path) -> Certification:
        task = Certification(Gaussian(0.5, n=100), model_hash(HalfSpace()), "toy", limit=4)
        open_certification(task, folder, self.data, "toy")
        return task

    def test_another_model_adds_nothing(self, tmp_path: Path) -> None:
        task, other = self.task(tmp_path / "run"), HalfSpace()
        other.get_buffer("w").neg_()
        with pytest.raises(ValueError, match=r"another model.*the task names"):
            certify_share(task, other, self.data, tmp_path / "run", visible=False)
        assert not list((tmp_path / "run").glob("records-*"))

    def test_other_images_or_labels_add_nothing(self, tmp_path: Path) -> None:
        task = self.task(tmp_path / "run")
        inverted = replace(self.data, images=255 - self.data.images)
        with pytest.raises(ValueError, match="images of the data set changed"):
            certify_share(task, HalfSpace(), inverted, tmp_path / "run", visible=False)
        relabelled = replace(self.data, labels=1 - self.data.labels)
        with pytest.raises(ValueError, match="labels of the data set changed"):
            certify_share(task, HalfSpace(), relabelled, tmp_path / "run", visible=False)
        assert not list((tmp_path / "run").glob("records-*"))

    def test_images_that_the_run_does_not_name_may_change(self, tmp_path: Path) -> None:
        task, images = self.task(tmp_path / "run"), self.data.images.clone()
        images[5] = 0
        certify_share(task, HalfSpace(), replace(self.data, images=images), tmp_path / "run", visible=False)


def test_a_factory_that_draws_its_weights_cannot_be_certified_by_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process would certify a model of its own, into one run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    job = prepare(Source("drawn:make"), "digits", CERTIFIER, limit=4, device="cpu", runs=tmp_path)
    again = replace(job, loaded=None)
    open_certification(job.task, job.folder, job.read()[1], "drawn")
    with pytest.raises(ValueError, match="must return the same model at every call"):
        again.certify((0, 2), torch.device("cpu"), visible=False)


def test_an_edited_radius_is_refused_with_its_line(tmp_path: Path) -> None:
    run(tmp_path)
    (folder,) = tmp_path.glob("sequential-*/certify-*")
    file = folder / "records-0-of-1.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    cap = json.loads((folder / "run.json").read_text())["cap"]
    lines[2]["certificate"]["radius"] = 0.9 * cap
    lines[2]["certificate"]["prediction"] = lines[2]["certificate"]["prediction"] or 0
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"records-0-of-1\.jsonl, line 3: .* from its evidence follows"):
        CertifiedRun.open(folder)
    with pytest.raises(ValueError, match="line 3"):
        run(tmp_path)


class Absent:
    """A cluster that is not there."""

    def certify(self, job: Job) -> None:
        raise ValueError("no such cluster")


def test_who_fails_removes_the_run_that_it_began_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"limit": 3, "runs": tmp_path / "runs"}
    mine, other = (prepare(linear(), "digits", CERTIFIER, engine=Absent(), **settings) for _ in range(2))
    with pytest.raises(ValueError, match="no such cluster"):
        mine.run()
    assert not list((tmp_path / "runs").iterdir())

    def open_second(*args: Any) -> bool:
        open_certification(*args)  # by another process, in the same moment
        return open_certification(*args)

    monkeypatch.setattr("holdfast.certification.run.open_certification", open_second)
    with pytest.raises(ValueError, match="no such cluster"):
        other.run()
    assert (other.folder / "run.json").exists()
