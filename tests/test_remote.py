"""Run folders in object stores: machines that share no disk, and lose no record."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import nn

from holdfast import CertifiedRun, Gaussian, certify_run
from holdfast.certification import driver
from holdfast.certification.run import prepare
from holdfast.runs import store
from holdfast.runs.records import read_records


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/store"


def run(machine: Path, url: str, **settings: Any) -> CertifiedRun:
    """A certification on a machine with a disk of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    shared = {"limit": 10, "device": "cpu", "store": url}
    return certify_run(model, "digits", Gaussian(0.25, n=100), runs=machine, **shared | settings)


def parts(url: str) -> list[str]:
    files, root = fsspec.url_to_fs(url)
    return sorted(path.rsplit("/", 1)[-1] for path in files.glob(f"{root}/*/*/records-part-*.jsonl"))


def test_machines_that_share_no_disk_do_the_work_once(tmp_path: Path, url: str) -> None:
    whole = certified(tmp_path / "alone")
    first = run(tmp_path / "a", url, shard=(0, 2))
    assert [record.index for record in first.records] == [0, 2, 4, 6, 8]
    assert run(tmp_path / "b", url, shard=(1, 2)).records == whole  # with what the first one sent
    assert len(parts(url)) == 2
    assert run(tmp_path / "c", url).records == whole
    (folder,) = (tmp_path / "c").glob("*/certify-*")
    done = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["examples"] for entry in done] == [0, 0]
    assert len(parts(url)) == 2  # nothing new


def certified(folder: Path) -> list[Any]:
    return list(run(folder, "", store=None).records)


def test_what_a_machine_had_done_when_it_was_taken_away_is_there(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "EVERY", 0.01)
    real, done = driver.stream, []

    def taken_away(*args: Any) -> Any:
        for row, certificate in real(*args):
            if len(done) == 4:
                while not parts(url):  # the machine lives a moment longer
                    pass
                monkeypatch.setattr(store.Remote, "send", lambda self: None)  # and sends nothing at its end
                raise KeyboardInterrupt
            done.append(row)
            yield row, certificate

    monkeypatch.setattr(driver, "stream", taken_away)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", url)
    monkeypatch.undo()
    found = run(tmp_path / "b", url)
    assert list(found.records) == certified(tmp_path / "alone")
    (folder,) = (tmp_path / "b").glob("*/certify-*")
    own = (folder / "records-0-of-1.jsonl").read_bytes().count(b"\n")
    assert own < 10


def test_a_copy_of_the_store_is_a_certify_folder(tmp_path: Path) -> None:
    run(tmp_path / "a", f"file://{tmp_path}/store")
    (folder,) = (tmp_path / "store").glob("*/certify-*")
    assert read_records(folder) == certified(tmp_path / "alone")


def test_a_store_that_there_is_not_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot use nowhere://bucket"):
        run(tmp_path, "nowhere://bucket")
    assert not list(tmp_path.iterdir())


def test_a_run_that_the_store_has_begun_does_not_go_on_from_votes_that_lie_here(tmp_path: Path, url: str) -> None:
    run(tmp_path / "a", url)
    certified(tmp_path / "b")
    more = {"device": "cpu", "limit": 10, "runs": tmp_path / "b"}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    assert prepare(model, "digits", Gaussian(0.25, n=200), store=url, **more).earlier() is not None
    certify_run(model, "digits", Gaussian(0.25, n=200), store=url, **more | {"runs": tmp_path / "c"})
    assert prepare(model, "digits", Gaussian(0.25, n=200), store=url, **more).earlier() is None


def test_of_two_machines_that_begin_at_once_the_one_that_counts_another_alpha_is_refused(
    tmp_path: Path, url: str
) -> None:
    run(tmp_path / "a", url)
    (folder,) = (tmp_path / "a").glob("*/certify-*")
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"revises": {"run": "certify-0", "earlier_alphas": {}}}))
    with pytest.raises(ValueError, match="a run of another revises than"):
        store.Remote(url, folder).send()
