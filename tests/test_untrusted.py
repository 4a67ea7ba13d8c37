"""A run folder from any hand: what it names as code runs only where the user has named its package."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import Gaussian, certify_run, train
from holdfast.cli import main
from holdfast.core.config import Config
from holdfast.core.registry import PLUGINS, RECIPES, imported
from holdfast.runs.certified import CertifiedRun, pack
from holdfast.runs.dossier import unpack_model, zipped
from holdfast.runs.find import read_facts

CODE = """
import pathlib
from dataclasses import dataclass
import torch
from holdfast import Gaussian
pathlib.Path("ran").touch()
@dataclass(frozen=True)
class Own(Gaussian):
    pass
def make(data):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
def read(split, where):
    raise AssertionError
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module that leaves a file named `ran` when it is imported, in the working directory."""
    name = "foreign_" + re.sub(r"\W", "_", request.node.name)
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A certify folder."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    certify_run(model, "digits", Gaussian(0.25, n=100), limit=3, runs=tmp_path / "runs", device="cpu")
    (found,) = tmp_path.glob("runs/*/certify-*")
    return found


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run folder of a trained network."""
    recipe = RECIPES["gaussian-digits-0.25"].replace(epochs=1)
    return train(recipe, "mine", tmp_path / "trained")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change the JSON of a file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> None:
    """A command that ends with one line, which says how the package is named, and runs none of its code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in command])
    told = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code in (1, 2)
    assert sum(f"{PLUGINS}=foreign_" in line for line in told) == 1
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", ["report", "recertify", "dossier", "export"])
def test_settings_of_a_certify_folder_import_nothing(
    command: str, foreign: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder / "run.json", lambda run: run["certification"]["certifier"].update(kind=f"{foreign}:Own"))
    refused(capsys, command, folder, *(["--alpha", "0.01"] if command == "recertify" else []))


def test_evidence_of_a_record_imports_nothing(foreign: str, folder: Path) -> None:
    (path,) = folder.glob("records-*")
    lines = path.read_text().splitlines()
    record = json.loads(lines[1])
    record["certificate"]["evidence"]["noise"]["kind"] = f"{foreign}:Own"
    path.write_text("\n".join([lines[0], json.dumps(record), lines[2]]) + "\n")
    with pytest.raises(ValueError, match=f"line 2.*{PLUGINS}={foreign}"):
        CertifiedRun.open(folder)
    assert not Path("ran").exists()


@pytest.mark.parametrize("place", ["method", "dataset", "arch"])
def test_the_recipe_of_a_run_folder_imports_nothing(
    place: str, foreign: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(run: Any) -> None:
        if place == "method":
            run["recipe"]["method"]["kind"] = f"{foreign}:Own"
        else:
            run["recipe"][place] = f"{foreign}:{'make' if place == 'arch' else 'read'}"
        run["program"] = {"none": "as of an earlier version"}

    edit(trained / "run.json", change)
    (trained / "graph.json").unlink()  # the network is built by the code that is named
    refused(capsys, "certify", trained, "--limit", "1", "--n", "100", "--device", "cpu")


def test_what_the_user_names_is_imported(
    foreign: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(trained / "run.json", lambda run: run["recipe"].update(dataset=f"{foreign}:read"))
    options = ["--limit", "1", "--n", "100", "--device", "cpu"]
    main(["certify", str(trained), "--dataset", "digits", *options])  # what the file names is not used
    assert not Path("ran").exists()
    data = {"kind": f"{foreign}:Own", "sigma": 0.5}
    with pytest.raises(ValueError, match=PLUGINS):
        Config.from_dict(data)
    monkeypatch.setenv(PLUGINS, f"other,{foreign}")
    assert Config.from_dict(data).to_dict()["sigma"] == 0.5
    assert Path("ran").exists()


def test_a_name_on_the_command_line_stands_for_its_package(foreign: str, trained: Path) -> None:
    options = ["--limit", "1", "--n", "100", "--device", "cpu"]
    main(["certify", str(trained), f"{foreign}:Own", *options])
    (found,) = trained.glob("certify-*")
    assert json.loads((found / "run.json").read_text())["certification"]["certifier"]["kind"] == f"{foreign}:Own"
    assert len(CertifiedRun.open(found)) == 1


@pytest.mark.parametrize(("place", "value"), [((6, 8), 1), ((8, 10), 99)], ids=["encrypted", "another packing"])
def test_a_dossier_that_cannot_be_unpacked_is_refused(
    place: tuple[int, int], value: int, folder: Path, tmp_path: Path
) -> None:
    path = pack(folder, tmp_path / "certify-1.zip").path
    content = bytearray(path.read_bytes())
    for sign, offset in zip((b"PK\3\4", b"PK\1\2"), place, strict=True):
        for found in re.finditer(re.escape(sign), bytes(content)):
            content[found.start() + offset] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no dossier, or is damaged"):
        CertifiedRun.open(path)


def test_names_in_a_dossier_lead_to_no_other_folder(tmp_path: Path) -> None:
    names = ["model/..", "model/.", "model/a/b", "../a", "model/..\\a", "model/run.json"]
    (tmp_path / "x.zip").write_bytes(zipped(dict.fromkeys(names, b"")))
    (tmp_path / "model").mkdir()
    assert [path.name for path in unpack_model(tmp_path / "x.zip", tmp_path / "model").iterdir()] == ["run.json"]


def test_a_dossier_nested_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({"dossier.json": b"[" * 100_000}))
    with pytest.raises(ValueError, match="is no dossier"):
        read_facts(tmp_path / "x.zip")


@pytest.mark.parametrize("trusted_by", ["an entry point", "the environment", "nobody"])
def test_a_folder_of_its_name_in_the_working_directory_does_not_stand_for_an_installed_package(
    trusted_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "shadowed_by_" + trusted_by.replace(" ", "_")
    for place in ("site", "here"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{name}.py").write_text(f"where = {place!r}\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here"), *sys.path, str(tmp_path / "site")])  # as python -m does
    monkeypatch.setattr("holdfast.discovery.packages", lambda: {name} if trusted_by == "an entry point" else set())
    monkeypatch.setenv(PLUGINS, name if trusted_by == "the environment" else "")
    before = list(sys.path)
    assert imported(f"{name}:where") == ("here" if trusted_by == "nobody" else "site")
    assert sys.path == before
