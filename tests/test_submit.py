"""Jobs of a SLURM cluster: the scripts that are written, and shares that meet in one folder."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import main
from holdfast.cli.certify import Jobs, Share, submitted
from holdfast.core.registry import RECIPES
from holdfast.machine import launched
from holdfast.runs.records import read_records
from holdfast.training.launch import Machine
from holdfast.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an `sbatch` that takes every job."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\ncp "$1" "$(dirname "$0")/submitted.sh"\necho Submitted batch job 17\n')
    sbatch.chmod(0o755)
    (tmp_path / "bin" / "srun").symlink_to(sbatch)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:/usr/bin:/bin")
    return sbatch.parent


def test_an_array_of_jobs_is_one_script(slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    options = ["--array", "8", "--partition", "gpu", "--gpus", "1", "--at-once", "4", "--logs", str(tmp_path / "jobs")]
    model = ["--model", "cnn", "--weights", "mine.safetensors", "--dataset", "digits"]
    main(["submit", "certify", *model, "at-radius", "--", *options, "--cluster", "slurm", "--memory-gb", "12"])
    script = (slurm / "submitted.sh").read_text()
    for line in ("--array=0-7%4", "--partition=gpu", "--gpus-per-node=1", "--mem=12GB", "--time=240"):
        assert f"#SBATCH {line}" in script
    assert "submitted: 8 jobs, 17_0 ..." in capsys.readouterr().out


def test_the_shares_of_all_jobs_meet_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    run = train(RECIPES["gaussian-digits-0.25"].replace(epochs=1), "run", tmp_path, Machine(accelerator="cpu"))
    command = ["certify", str(run), "--n", "100", "--limit", "10", "--device", "cpu"]
    for job in submitted(command, Jobs(array=3, cluster="debug", logs=tmp_path / "jobs")):
        job.result()
    (folder,) = run.glob("certify-*")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("certified: ")]
    assert told == [f"certified: share {index}/3 of {folder}" for index in range(3)]
    assert [record.index for record in read_records(folder)] == list(range(10))
    assert len(list(folder.glob("records-*-of-3.jsonl"))) == 3


@pytest.mark.parametrize(("place", "size"), [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")])
def test_a_share_that_the_environment_gives_is_called_a_share(
    place: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as in a batch script of SLURM without srun, which is the first of its tasks, and no other runs."""
    run = train(RECIPES["gaussian-digits-0.25"].replace(epochs=1), "run", tmp_path, Machine(accelerator="cpu"))
    monkeypatch.setenv(place, "0")
    monkeypatch.setenv(size, "4")
    main(["certify", str(run), "--n", "100", "--limit", "8", "--device", "cpu"])
    (folder,) = run.glob("certify-*")
    assert f"certified: share 0/4 of {folder}" in capsys.readouterr().out
    assert len(list(read_records(folder))) == 2


@pytest.mark.parametrize(("place", "size"), [("4", "4"), ("-1", "4"), ("first", "4"), ("0", ""), ("0", "two")])
def test_an_environment_that_cannot_be_is_refused(place: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", place)
    assert launched() is None
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match="RANK below WORLD_SIZE in the environment, got"):
        launched()


def test_a_preempted_job_is_queued_again_as_it_was() -> None:
    pytest.importorskip("submitit")
    again = Share().checkpoint(["certify", "runs/mine", "--shard", "3/8"])
    assert isinstance(again.function, Share)
    assert again.args == (["certify", "runs/mine", "--shard", "3/8"],)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "emma-digits", "--"], "only `certify` can be submitted"),
        (["certify", "runs/mine", "--shard", "0/2", "--", "--array", "2"], "the jobs are the shards"),
        (["certify", "runs/mine", "--ray=auto"], "the jobs are the shards"),
        (["certify", "runs/mine", "--", "--array", "0"], "expected at least one job"),
        (["certify", "runs/mine", "--array", "64"], "unknown option '--array'"),
        (["certify", "runs/mine", "--", "--array", "64"], "runs/mine"),
        (["certify", "--model", "cnn", "--dataset", "digits", "at-radios", "--"], "unknown certifier 'at-radios'"),
        (["certify", "--model", "cnn", "--dataset", "digits", "--n", "many", "--"], "many"),
    ],
)
def test_what_cannot_be_submitted_is_refused(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["submit", *args])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_submitit_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "submitit":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'holdfast\[slurm\]'"):
        submitted(["certify", "runs/mine"], Jobs(logs=tmp_path))
