"""The command line as a user meets it: one clear line for a mistake, nothing lost, nothing half written."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from holdfast.cli import commands, main
from holdfast.loading import Source
from holdfast.loading import load as load_model
from holdfast.store import read_records, read_run

FACTORY = (
    "import torch\nfrom torch import nn\n\n\ndef model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a classifier of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_classifier.py").write_text(FACTORY)
    torch.manual_seed(0)
    weights = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    torch.save(weights, tmp_path / "weights.pt")
    torch.save(nn.Linear(64, 10), tmp_path / "module.pt")
    return tmp_path


OWN = [
    "certify",
    "--model",
    "my_classifier:model",
    "--dataset",
    "digits",
    "--n",
    "100",
    "--limit",
    "3",
    "--device",
    "cpu",
]


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_every_command_has_one_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert {"demo", "train", "certify", "report", "export", "list"} <= set(commands())
    for name in commands():
        assert f"  {name} " in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "did you mean train"),
        (["train", "gaussian-mnist-0.5"], "did you mean gaussian-mnist-0.50"),
        (["train", "gaussian-digits-0.25", "--sigmaa", "1"], "--sigma"),
        (["train", "gaussian-digits-0.25", "--sigma", "-1"], "sigma must be positive"),
        (["train", "gaussian-digits-0.25", "--dataset", "digit"], "did you mean digits"),
        (["certify"], "expected the folder of a run"),
        (["certify", "nowhere"], "not a run folder"),
        (["certify", "nowhere", "gausian"], "did you mean gaussian"),
        ([*OWN, "--n", "5"], "can never certify"),
        ([*OWN, "--sigma", "0"], "sigma must be positive"),
        ([*OWN, "--every", "0"], "every >= 1"),
        ([*OWN, "--start", "1000"], "beyond the 364 examples"),
        ([*OWN, "--shard", "3/3"], "shard i/n"),
        ([*OWN, "--devices", "0"], "one process or more"),
        ([*OWN, "--devices", "2", "--shard", "0/3"], "several processes or a shard"),
        ([*OWN, "--device", "cuda:77"], "no device"),
        ([*OWN, "--dataset", "mnist-5k"], "does not take images of shape (1, 28, 28)"),
        ([*OWN, "--model", "my_classifier:nothing"], "cannot call my_classifier:nothing"),
        ([*OWN, "--weights", "absent.safetensors"], "no file of weights"),
        ([*OWN, "--weights", "module.pt"], "runs whatever code"),
        ([*OWN, "--weights", "my_classifier.py"], "is a pickle"),
        (["report", "nowhere"], "does not exist"),
        (["list", "recipe"], "did you mean recipes"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_mistake_gets_one_clear_line_and_writes_nothing(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if args == ["certify"]:
        args = ["certify", "--limit", "3"]
    assert message in refused(args, capsys)
    assert not Path("runs").exists()


def test_a_classifier_of_ones_own_is_certified_with_its_weights(here: Path) -> None:
    main([*OWN, "--weights", "weights.safetensors"])
    main([*OWN, "--weights", "weights.pt"])
    (folder,) = (here / "runs").glob("*/certify-*")  # the same weights: the same run, found finished
    assert [record.index for record in read_records(folder)] == [0, 1, 2]
    asked = read_run(folder)["certification"]
    assert asked["certifier"]["n"] == 100
    assert asked["dataset"] == "digits"


def test_train_certify_report_export(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "gaussian-digits-0.25", "--epochs", "20", "--accelerator", "cpu"])
    (run,) = (here / "runs").iterdir()
    assert f"holdfast certify runs/{run.name}" in capsys.readouterr().out
    main(["certify", str(run), "gaussian", "--n", "200", "--limit", "30", "--device", "cpu"])
    assert "No radius can exceed 0.4564" in capsys.readouterr().err
    (folder,) = run.glob("certify-*")
    assert read_run(folder)["certification"]["certifier"]["sigma"] == 0.25  # taken from the run
    main(["report", str(run), "--out", "shown"])
    assert {path.name for path in (here / "shown").iterdir()} >= {"report.md", "report.csv", "curve.png", "curve.pdf"}
    main(["export", str(folder)])
    (table,) = folder.glob("*.tsv")
    assert len(table.read_text().splitlines()) == 31
    main(["export", str(folder), "--format", "parquet"])
    assert len(list(folder.glob("*.parquet"))) == 1


def test_a_run_folder_with_other_settings_names_the_difference(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [*OWN, "--weights", "weights.safetensors"]
    main(own)
    (folder,) = (here / "runs").glob("*/certify-*")
    stored = json.loads((folder / "run.json").read_text())
    stored["certification"]["certifier"]["alpha"] = 0.01
    (folder / "run.json").write_text(json.dumps(stored))
    assert "certification.certifier.alpha: 0.01 there, 0.001 now" in refused(own, capsys)


def test_an_unfinished_run_cannot_be_certified(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "gaussian-digits-0.25", "--epochs", "1", "--accelerator", "cpu"])
    (run,) = (here / "runs").iterdir()
    (run / "model.safetensors").unlink()
    assert "run the same `holdfast train` again" in refused(["certify", str(run)], capsys)


def test_what_the_user_may_not_know_is_said_before_the_work_starts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "gaussian-digits-0.25", "--epochs", "1", "--accelerator", "cpu"])
    (run,) = (here / "runs").iterdir()
    certify = ["certify", str(run), "--n", "100", "--limit", "2", "--device", "cpu"]
    main(certify)
    assert "trained with noise" not in capsys.readouterr().err
    main([*certify, "--sigma", "0.5"])
    assert "trained with noise of sigma 0.25 and is certified at 0.5" in capsys.readouterr().err
    main([*OWN, "--weights", "weights.pt"])
    assert "No --weights" not in capsys.readouterr().err
    main(OWN)
    assert "No --weights: the model is certified as my_classifier:model returns it" in capsys.readouterr().err


def test_records_of_another_model_beside_the_run_are_named_and_left_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "gaussian-digits-0.25", "--epochs", "1", "--accelerator", "cpu"])
    (run,) = (here / "runs").iterdir()
    certify = ["certify", str(run), "--n", "100", "--limit", "2", "--device", "cpu"]
    main(certify)
    (folder,) = run.glob("certify-*")
    stored = json.loads((folder / "run.json").read_text())
    stored["certification"]["model"] = "an older one"
    (folder.rename(run / "certify-older") / "run.json").write_text(json.dumps(stored))
    capsys.readouterr()
    main(certify)
    assert f"Not continued: {run / 'certify-older'}" in capsys.readouterr().err


def test_load_gives_the_trained_model_in_eval_mode(here: Path) -> None:
    main(["train", "gaussian-digits-0.25", "--epochs", "1", "--accelerator", "cpu"])
    (run,) = (here / "runs").iterdir()
    model = load_model(run)
    assert not any(part.training for part in model.modules())
    weights = load_file(run / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_so_does_a_model_of_ones_own(here: Path) -> None:
    for weights in (None, here / "weights.pt"):
        assert not any(part.training for part in Source("my_classifier:model", weights).load().modules())
