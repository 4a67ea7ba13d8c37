"""The command line as a user meets it: one clear line for a mistake, nothing lost, nothing half written."""

import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import holdfast
from holdfast.cli import COMMANDS, main
from holdfast.cli._common import options, split
from holdfast.cli.certify import Options
from holdfast.cli.train import Common
from holdfast.cli.train import parse as parse_training
from holdfast.core.registry import CERTIFIERS, RECIPES
from holdfast.nn.stored import program_of
from holdfast.opening import Source, architecture
from holdfast.opening import load as load_model
from holdfast.runs.records import read_records
from holdfast.runs.store import read_run

FACTORY = (
    "import torch\nfrom torch import nn\n\n\ndef model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    "\n\ndef read(split, data_dir):\n    return torch.zeros(3), torch.zeros(3), 10\n"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a classifier of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_classifier.py").write_text(FACTORY)
    (tmp_path / "broken_module.py").write_text("def")
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
    assert {"demo", "train", "certify", "report", "export", "list"} <= set(COMMANDS)
    for name in COMMANDS:
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
        (["certify", "gausian", "runs/one"], "did you mean gaussian"),
        (["certify", "runs/one", "runs/two"], "nothing was done for the 2 folders named: runs/one is not a run folder"),
        (["certify", "nowhere", "gaussian", "margin"], "expected one certifier, got gaussian and margin"),
        (["certify", "nowhere", "--sigmaa", "1"], "unknown option '--sigmaa'; did you mean --sigma"),
        ([*OWN, "nowhere"], "unknown certifier 'nowhere'"),
        ([*OWN, "--n", "5"], "can never certify"),
        ([*OWN, "--sigma", "0"], "sigma must be positive"),
        ([*OWN, "--every", "0"], "every >= 1"),
        ([*OWN, "--start", "1000"], "beyond the 364 examples"),
        ([*OWN, "--shard", "3/3"], "shard i/n"),
        ([*OWN, "--devices", "0"], "devices to be an integer, 1 or more"),
        ([*OWN, "--devices", "2", "--shard", "0/3"], "several processes or a shard"),
        ([*OWN, "--device", "cuda:77"], "no device"),
        ([*OWN, "--dataset", "mnist-5k"], "does not take images of shape (1, 28, 28)"),
        ([*OWN, "--model", "my_classifier:nothing"], "cannot import my_classifier:nothing"),
        ([*OWN, "--weights", "absent.safetensors"], "no file of weights"),
        ([*OWN, "--weights", "module.pt"], "runs whatever code"),
        ([*OWN, "--weights", "my_classifier.py"], "is a pickle"),
        (["report", "nowhere"], "does not exist"),
        (["train", "my_classifier:model"], "expected my_classifier:model to be a recipe"),
        (["train", "my_classifier:nothing"], "cannot import my_classifier:nothing"),
        (["train", "broken_module:recipe"], "it raised SyntaxError"),
        (["certify", "nowhere", "my_classifier:model"], "expected my_classifier:model to be a certifier"),
        (
            ["train", "gaussian-digits-0.25", "--dataset", "my_classifier:read"],
            "the data set my_classifier:read returned",
        ),
        (["train", "gaussian-digits-0.25", "--arch", "my_classifier:read"], "my_classifier:read raised TypeError"),
        (["train", "gaussian-digits-0.25", "--lr", "nan"], "a setting is NaN or infinite"),
        (["train", "gaussian-digits-0.25", "--lr", "inf"], "a setting is NaN or infinite"),
        (
            ["train", "gaussian-digits-0.25", "--batch-size", "1" + "0" * 20],
            "expected batch_size to be an integer of 64 bits",
        ),
        (["train", "gaussian-digits-0.25", "--runs", "my_classifier.py"], "my_classifier.py: File exists"),
        ([*OWN, "--n", "9" * 24], "expected n to be an integer of 64 bits"),
        ([*OWN, "--n", "9" * 14], "expected at most 1,000,000,000,000 samples"),
        ([*OWN, "--dataset", "os:getcwd"], "the data set os:getcwd raised TypeError"),
        (["sweep", "gaussian-digits", "--dry-run", "--certify", 'gaussian "'], '--certify gaussian ": No closing'),
        (["dossier", "nowhere", "--out", "without_ending"], "a dossier is a .zip file"),
        (["verify", "my_classifier.py", "--sigma", "-1", "--n", "9", "--alpha", "0.1"], "sigma must be positive"),
        (
            ["verify", "my_classifier.py", "--sigma", "1", "--n", "0", "--alpha", "0.1"],
            "expected n to be an integer, 1",
        ),
        (["verify", "my_classifier.py", "--sigma", "1", "--n", "9", "--alpha", "7"], "expected alpha in [1e-15, 1)"),
        (["list", "recipe"], "did you mean recipes"),
        (["list", "recipes", "foo", "bar"], "none of the recipes matches all of: foo bar"),
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


READINGS = [
    "certify --model my_classifier:model --weights weights.safetensors --dataset digits gaussian {}",
    "certify gaussian --model=my_classifier:model --weights=weights.safetensors --dataset=digits {}",
    "certify {} --dataset digits --weights weights.safetensors --model my_classifier:model gaussian",
    "certify {} --no-two-class --dataset digits --weights weights.safetensors --model my_classifier:model",
]


def test_words_and_options_stand_in_any_order(here: Path) -> None:
    for reading in READINGS:
        main(reading.format("--sigma 0.5 --every 150 --n 100 --device cpu").split())
    (folder,) = (here / "runs").glob("*/certify-*")  # every reading asks for the same
    assert [record.index for record in read_records(folder)] == [0, 150, 300]
    assert read_run(folder)["certification"]["certifier"]["sigma"] == 0.5


@pytest.mark.parametrize(
    ("args", "words", "rest"),
    [
        ("RUN at-radius --r 0.5 1.0", "RUN at-radius", "--r 0.5 1.0"),
        ("--r 0.5 1.0 RUN at-radius", "RUN at-radius", "--r 0.5 1.0"),
        ("--two-class RUN --n0 5 gaussian --r=1 x", "RUN gaussian x", "--two-class --n0 5 --r=1"),
        ("--n -1 RUN", "RUN", "--n -1"),
    ],
)
def test_a_word_is_what_no_option_takes(args: str, words: str, rest: str) -> None:
    assert split(args.split(), options(*CERTIFIERS.values())) == (words.split(), rest.split())


def test_the_help_of_certify_lists_the_options_of_every_certifier(capsys: pytest.CaptureFixture[str]) -> None:
    known = options(*(Options(certifier, "") for certifier in CERTIFIERS.values()))
    assert {"--weights", "--n", "--r", "--bisections"} < known.keys()
    main(["certify", "--help"])
    everything = capsys.readouterr().out
    assert {name for name in known if name not in everything} == set()
    main(["certify", "at-radius", "--help"])
    shown = capsys.readouterr().out
    assert "--weights" in shown
    assert "--r " in shown
    assert "--bisections" not in shown


HELPS = [*([name] for name in COMMANDS), ["train", "gloro-digits-0.3"], ["certify", "split"], ["predict", "x:y"]]
NOTATION = ("{None}", "FLOAT", "INT ", "STR", "{NUMBER", "[NUMBER [", "default: None", "default: )", "default: '')")


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_the_help_is_in_words_and_says_of_every_option_what_it_takes_and_what_it_is_without(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in "made", "remembered":
        with contextlib.suppress(SystemExit):
            main([*command, "--help"])
        shown = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
        assert shown.startswith("usage: holdfast")
        assert not [notation for notation in NOTATION if notation in shown]
        for option in re.split(r" (?=--\w[\w-]* [A-Z\[{])", shown)[1:]:
            if option.startswith(("--weights FILE", "--dataset NAME")):  # in the usage
                continue
            assert re.search(r"\(default: [^)]|\(required\)|\{\w+(,\w+)+\}", option), option


@pytest.mark.parametrize("recipe", ["gloro-digits-0.3", "splitz-digits-0.25"])
def test_the_help_of_a_recipe_lists_every_field_of_it(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(["train", recipe, "--help"])
    shown = capsys.readouterr().out
    assert set(options(RECIPES[recipe], Common())) - {"-h"} <= set(re.findall(r"--[\w-]+", shown))


def test_a_list_and_a_help_that_are_remembered_import_nothing_heavy(nothing_remembered: Path) -> None:
    for line in ("list", "certify --help", "train gaussian-digits-0.25 --help", "--help"):
        main(list[str](line.split()))
        code = f"import sys; from holdfast.cli import main; main({line.split()}); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False).returncode == 0


def test_a_damaged_cache_or_none_at_all_changes_nothing(
    nothing_remembered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["list"])
    expected = capsys.readouterr().out
    (kept,) = nothing_remembered.rglob("listing.json")
    for content in ("", "[]", '{"state": 1}', "\0"):
        kept.write_text(content)
        main(["list"])
        assert capsys.readouterr().out == expected
    (nothing_remembered / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(nothing_remembered / "file"))
    main(["list"])
    assert capsys.readouterr().out == expected


def test_of_several_runs_each_is_certified_and_what_is_left_out_is_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1", "2"):
        main(["train", "gaussian-digits-0.25", "--epochs", "1", "--accelerator", "cpu", "--seed", seed])
    first, second, unfinished = sorted((here / "runs").iterdir())
    (unfinished / "model.safetensors").unlink()
    (here / "runs" / "empty").mkdir()
    few = ["--n", "100", "--limit", "2", "--device", "cpu"]
    main(["certify", str(first), str(second), "gaussian", *few])
    main(["certify", "runs", *few])  # a folder of folders
    said = capsys.readouterr().err
    assert f"left out: runs/{unfinished.name} holds no finished model" in said
    assert "left out: runs/empty is not a run folder" in said
    assert len(list((here / "runs").glob("*/certify-*"))) == 2
    main(["certify", "runs/empty", *map(str, first.glob("*")), str(first), *few])
    said = capsys.readouterr().err
    assert "certify-" in said
    assert "is no training run" in said


def test_noise_is_chosen_by_name_and_its_step_is_an_option(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def noise(*args: str) -> dict:
        runs = "_".join(["runs", *args])
        main([*OWN, "--weights", "weights.safetensors", "--runs", runs, *args])
        (folder,) = Path(runs).glob("*/certify-*")
        return read_run(folder)["certification"]["certifier"]["noise"]

    assert noise() == {"kind": "Lattice", "step": None}
    assert noise("--noise", "float32") == {"kind": "Float32"}
    assert noise("--noise=lattice", "--step", "0.0078125") == {"kind": "Lattice", "step": 2**-7}
    assert "unknown noise 'float23'; did you mean float32?" in refused([*OWN, "--noise", "float23"], capsys)
    assert "Margin draws no noise; leave --noise out" in refused([*OWN[:5], "margin", "--noise", "lattice"], capsys)
    assert "expected a step of 1/m" in refused([*OWN, "--step", "0.3"], capsys)


OF_ONES_OWN = """
from dataclasses import dataclass
from holdfast.certifiers.gaussian import Gaussian
from holdfast.core.registry import RECIPES
from holdfast.methods.gaussian import GaussianNoise


@dataclass(frozen=True)
class HeavyNoise(GaussianNoise):
    momentum: float = 0.5
    seed: int = 3


@dataclass(frozen=True)
class Early(Gaussian):
    start: int = 5


recipe = RECIPES["gaussian-digits-0.25"].replace(method=HeavyNoise())
"""


def test_fields_of_one_name_in_two_parts_are_options_under_the_names_of_their_parts(here: Path) -> None:
    (here / "own_parts.py").write_text(OF_ONES_OWN)
    given = "--method.momentum 0.25 --optimizer.momentum 0.75 --seed 1 --method.sigma 0.5 --epochs 4"
    recipe = parse_training("own_parts:recipe", shlex.split(given), "train").recipe
    assert (recipe.method.to_dict()["momentum"], recipe.method.to_dict()["seed"]) == (0.25, 3)
    assert (recipe.optimizer.to_dict()["momentum"], recipe.seed, recipe.epochs) == (0.75, 1, 4)
    own = [arg.replace("--n", "--certifier.n") for arg in OWN]
    main([*own, "own_parts:Early", "--certifier.start", "7", "--start", "1"])
    (folder,) = (here / "runs").glob("*/certify-*")
    asked = read_run(folder)["certification"]
    assert (asked["start"], asked["certifier"]["start"], asked["certifier"]["n"]) == (1, 7, 100)


def test_a_reader_that_has_seen_enough_is_no_failed_check(here: Path) -> None:
    log = here / "log.tsv"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.3\t1\t0\n")
    verify = [sys.executable, "-m", "holdfast", "verify", str(log), "--sigma", "0.5", "--n", "100", "--alpha", "0.001"]
    read, write = os.pipe()
    os.close(read)  # as `| head -0` does
    found = subprocess.run(verify, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (found.returncode, found.stderr) == (141, "")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.split() == ["holdfast", importlib.metadata.version("holdfast")]
    assert holdfast.__version__ == importlib.metadata.version("holdfast")


def test_the_list_of_recipes_is_grouped_and_can_be_narrowed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "recipes"])
    everything = capsys.readouterr().out
    assert set(RECIPES) <= set(everything.split())
    assert len(everything.splitlines()) < len(RECIPES) / 2
    main(["list", "recipes", "SmoothMix", "cifar10"])
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:] if line]
    assert shown == [name for name in RECIPES if "smoothmix" in name and "cifar10" in name]
    main(["list", "datasets"])
    assert {"npz:file", "folder:path", "hub:org/name", "mnist-5k"} <= set(capsys.readouterr().out.split())


def test_a_typo_suggests_three_names_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["train", "gausian-mnist-0.5"], capsys)
    assert "gaussian-mnist-0.50" in said
    assert sum(name in said for name in RECIPES) <= 3
    assert "holdfast list recipes" in said
    main(["train", "--help"])
    assert not any(name in capsys.readouterr().out for name in RECIPES)


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


def test_the_next_command_can_be_copied_whatever_the_folder_is_called(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "gaussian-digits-0.25", "--epochs", "1", "--accelerator", "cpu", "--runs", "my runs"])
    (run,) = (here / "my runs").iterdir()
    assert f"holdfast certify 'my runs/{run.name}'" in capsys.readouterr().out


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
    weights, program = load_file(run / "model.safetensors"), program_of(model)
    assert program is not None
    assert all(torch.equal(program.tensors[name], weights[origin]) for name, origin in program.origins.items())
    layers = architecture(run)
    assert weights.keys() == layers.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in layers.state_dict().items())


def test_so_does_a_model_of_ones_own(here: Path) -> None:
    for weights in (None, here / "weights.pt"):
        assert not any(part.training for part in Source("my_classifier:model", weights).load().modules())
