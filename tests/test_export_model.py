"""A model written for other tools and read again: the same votes in every form; the card tells what was certified."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from formats import SHAPE, processor, transformer
from torch import Tensor, nn

from holdfast import CertifiedRun, Gaussian, as_classifier, certify
from holdfast.certification.identity import as_program, model_hash
from holdfast.cli import main
from holdfast.core.registry import RECIPES
from holdfast.formats.export import export_model, write_folder, write_onnx, write_pt2
from holdfast.opening import load
from holdfast.training.launch import Machine
from holdfast.training.loop import train

N = 300


def cnn() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 5)
    ).eval()


def mlp() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5)).eval()


NETWORKS = {
    "cnn": cnn,
    "mlp": mlp,
    **{kind: lambda kind=kind: transformer(kind) for kind in ("resnet", "vit", "convnext", "swin")},
}
"""Swin has relative positions."""


def votes(model: nn.Module) -> list[Counter]:
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    return [Counter(proof.evidence["votes"]) for proof in certify(model, x, Gaussian(0.5, n0=20, n=N), seed=0)]


def moved(one: list[Counter], other: list[Counter]) -> int:
    """Votes that are for another class."""
    return sum((a - b).total() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_six_architectures_get_the_same_votes_in_every_form(name: str, tmp_path: Path) -> None:
    network = as_classifier(NETWORKS[name]())
    expected = votes(network)
    assert any(len(found) > 1 for found in expected), "an image whose noisy copies are not all of one class"
    write_onnx(network, SHAPE, tmp_path / "m.onnx")
    write_pt2(network, SHAPE, tmp_path / "m.pt2")
    write_folder(network, SHAPE, tmp_path / "hf")
    forms = {
        "onnx": as_classifier(tmp_path / "m.onnx"),
        "pt2": as_classifier(tmp_path / "m.pt2", allow_pickle=True),
        "hf": as_classifier(f"hf:{tmp_path / 'hf'}"),
    }
    found = {form: moved(votes(model), expected) for form, model in forms.items()}
    assert max(found.values()) <= 2 * N // 100, found


@pytest.mark.parametrize("name", ["resnet", "vit", "convnext", "swin"])
def test_a_folder_of_transformers_gets_the_votes_of_the_module(name: str, tmp_path: Path) -> None:
    transformer(name).save_pretrained(tmp_path / "hf")
    processor(tmp_path / "hf", image_mean=[0.0] * 3, image_std=[1.0] * 3)
    found = votes(as_classifier(f"hf:{tmp_path / 'hf'}"))
    assert moved(found, votes(as_classifier(transformer(name)))) <= 2 * N // 100


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = replace(RECIPES["gaussian-digits-0.25"], epochs=2)
    folder = train(recipe, "small", tmp_path_factory.mktemp("runs"), Machine(accelerator="cpu"))
    main(["certify", str(folder), "--limit", "20", "--n", "100", "--device", "cpu"])
    return folder


def digits() -> Tensor:
    from holdfast.data import load as load_data

    return load_data("digits", "test").pixels(slice(0, 20))


@pytest.mark.parametrize("form", ["onnx", "hf", "pt2"])
def test_an_exported_run_answers_as_before_and_is_certified_by_its_name(
    run: Path, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / {"onnx": "m.onnx", "hf": "card", "pt2": "m.pt2"}[form]
    main(["export-model", str(run), "--format", form, "--out", str(out)])
    name = f"hf:{out}" if form == "hf" else str(out)
    assert f"--model {name}" in capsys.readouterr().out
    model = as_classifier(name, allow_pickle=True)
    assert torch.allclose(model(digits()), load(run)(digits()), atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name], "nothing else is left"
    asked = ["--dataset", "digits", "--limit", "3", "--n", "100", "--device", "cpu"]
    main(["certify", "--model", name, *asked, *(["--allow-pickle"] if form == "pt2" else [])])
    (folder,) = Path("runs").glob("*/certify-*")
    assert json.loads((folder / "run.json").read_text())["certification"]["model"] == model_hash(
        as_program(model, (1, 8, 8))
    )
    with pytest.raises(SystemExit):
        main(["export-model", str(run), "--format", form, "--out", str(out)])
    assert "is there already" in capsys.readouterr().err


def test_the_card_holds_the_certified_numbers(run: Path, tmp_path: Path) -> None:
    main(["export-model", str(run), "--format", "hf", "--out", str(tmp_path / "card")])
    text = (tmp_path / "card" / "README.md").read_text()
    (folder,) = run.glob("certify-*")
    found = CertifiedRun.open(folder)
    assert text.startswith("---\nlibrary_name: holdfast\n")
    radii, shares = (
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith(("| r", "| c"))
    )
    assert len(radii) > 1
    for radius, share in zip(radii, shares, strict=True):
        assert share == f"{100 * found.reaches(float(radius)).mean():.1f} %"
    assert (
        "20 images of digits test; l2 radii in pixels of [0, 1] images, each wrong with probability at most 0.001"
        in text
    )
    files = {path.name: path.read_bytes() for path in (tmp_path / "card").iterdir()}
    assert files.keys() == {"README.md", "config.json", "graph.json", "model.safetensors"}
    assert not any(str(Path.cwd()).encode() in content for content in files.values()), "where its author keeps files"


def test_the_card_says_what_is_unfinished_and_is_not_written_over_damage(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (records,) = copy.glob("certify-*/records-*.jsonl")
    whole = records.read_text().splitlines(keepends=True)
    records.write_text("".join(whole[:7]))
    main(["export-model", str(copy), "--format", "hf", "--out", str(tmp_path / "card")])
    assert "7 of 20 images (unfinished) of digits test" in (tmp_path / "card" / "README.md").read_text()
    records.write_text(whole[0] + "no record\n" + whole[1])
    with pytest.raises(ValueError, match=r"records-0-of-1\.jsonl"):
        export_model(copy, "hf", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_huggingface_hub_reads_the_certified_numbers_and_takes_every_file(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    main(["export-model", str(run), "--format", "hf", "--out", str(tmp_path / "card")])
    told = hub.ModelCard.load(tmp_path / "card" / "README.md").data
    assert (told.library_name, told.pipeline_tag, told.tags) == (
        "holdfast",
        "image-classification",
        ["certified-robustness"],
    )
    found = CertifiedRun.open(next(run.glob("certify-*")))
    assert len(told.eval_results) > 1
    for result in told.eval_results:
        assert (result.dataset_name, result.dataset_split, result.metric_args["alpha"]) == ("digits", "test", 0.001)
        assert result.metric_value == pytest.approx(found.reaches(result.metric_args["radius"]).mean())
    for file in (tmp_path / "card").iterdir():  # what upload_folder makes of each: checked names and sizes
        added = hub.CommitOperationAdd(file.name, file)
        assert added.upload_info.size == file.stat().st_size


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(x.flatten(2))

    for write, place in ((write_onnx, "m.onnx"), (write_folder, "folder")):
        with pytest.raises(ValueError, match="svd") as caught:
            write(Strange().eval(), SHAPE, tmp_path / place)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
