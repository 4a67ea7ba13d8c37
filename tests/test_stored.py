"""A run folder runs the program that its training stored: the code of the architecture may change, files may not."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from holdfast import Gaussian, LInfBox, Margin, Split, certify, data, lipschitz_bound
from holdfast.certification.driver import certify_share
from holdfast.certification.identity import model_hash
from holdfast.certification.run import certify_run, prepare
from holdfast.certification.task import Certification, open_certification
from holdfast.core.recipe import DataInfo, Recipe
from holdfast.core.registry import ARCHITECTURES, RECIPES
from holdfast.formats.opened import architecture, load, store_program
from holdfast.nn import zoo
from holdfast.nn.stored import SplitProgram, captured, network_of, program_of
from holdfast.opening import Source
from holdfast.runs import store
from holdfast.training.launch import Machine
from holdfast.training.loop import train

INFO = DataInfo("digits", (1, 8, 8), 10, (0.5,), (0.25,))
FEW = Gaussian(0.25, n0=10, n=100)


def stored(folder: Path, recipe: Recipe) -> Path:
    """A run folder as training leaves it, with random weights."""
    torch.manual_seed(0)
    store.open_run(folder, {"recipe": recipe.to_dict()}, {"data": dataclasses.asdict(INFO)})
    weights = zoo.build(recipe.arch, INFO).state_dict()
    store_program(folder, weights)
    save_file(weights, folder / "model.safetensors")
    return folder


def images(count: int = 4) -> Tensor:
    return data.load("digits", "test").pixels(slice(0, count))


def numbers(model: nn.Module, certifier: Margin | LInfBox | Split) -> list[tuple[int | None, float]]:
    return [(found.prediction, found.radius) for found in certify(model, images(), certifier, seed=1)]


def test_other_code_of_the_architecture_changes_no_certificate_of_a_trained_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPES["gaussian-digits-0.25"], epochs=1)
    run = train(recipe, "run", tmp_path, Machine(accelerator="cpu"))
    told = store.read_run(run)["program"]
    source, settings = Source(str(run)), {"limit": 5, "device": "cpu"}
    before = certify_run(source, "digits", FEW, **settings, seed=0)
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: -x)
    assert not torch.allclose(architecture(run)(images()), load(run)(images())), "the code changed, and matters"
    assert told["identity"] == load(run).program.identity  # pyright: ignore
    votes = [record.certificate.evidence["votes"] for record in before.records]
    shutil.rmtree(next(run.glob("certify-*")))
    after = certify_run(source, "digits", FEW, **settings, seed=0)
    assert [record.certificate.evidence["votes"] for record in after.records] == votes


@pytest.mark.parametrize(
    ("recipe", "certifier"),
    [
        ("gloro-digits-0.3", Margin()),
        ("gaussian-digits-0.25", Margin()),
        ("linf-dist-digits-0.1", Margin()),
        ("linf-dist-digits-0.1", LInfBox()),
        ("splitz-digits-0.25", Split(FEW)),
    ],
)
def test_proofs_through_the_stored_program_are_nothing_looser_than_through_the_layers(
    recipe: str, certifier: Margin | LInfBox | Split, tmp_path: Path
) -> None:
    run = stored(tmp_path / "run", RECIPES[recipe])
    for (prediction, radius), (expected, other) in zip(
        numbers(load(run), certifier), numbers(architecture(run), certifier), strict=True
    ):
        assert prediction == expected
        assert radius == pytest.approx(other, rel=1e-9)


def test_a_split_run_is_cut_where_it_was_trained_and_tells_how_far_each_layer_moves(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", RECIPES["splitz-digits-0.25"])
    model, layers = load(run), architecture(run)
    x = images()
    assert isinstance(model, SplitProgram)
    assert torch.equal(model.features(x), layers.features(x))  # pyright: ignore
    certifier = Split(Gaussian(0.05, n0=10, n=200))
    ours, theirs = (
        [one.evidence.get("profile", {}).keys() for one in certify(m, x, certifier, seed=1)] for m in (model, layers)
    )
    assert ours == theirs
    assert any(ours), "some image has a radius"


def test_the_constant_of_a_stored_program_is_nothing_looser_than_that_of_its_layers(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", RECIPES["gloro-digits-0.3"])
    through_layers = lipschitz_bound(architecture(run), INFO.shape)
    assert 0 < lipschitz_bound(load(run), INFO.shape) <= through_layers * (1 + 1e-12)


def test_where_noise_is_added_is_part_of_what_a_program_is(tmp_path: Path) -> None:
    first = captured(zoo.build("cnn@conv1", INFO).eval(), INFO.shape)
    assert replace(first, halves=1).identity != first.identity
    assert network_of(replace(first, halves=None)).program.identity != first.identity  # pyright: ignore


@pytest.mark.parametrize("file", ["graph.json", "model.safetensors"])
def test_an_edited_file_makes_another_model_whose_records_are_not_mixed(file: str, tmp_path: Path) -> None:
    run = stored(tmp_path / "run", RECIPES["gaussian-digits-0.25"])
    job = prepare(Source(str(run)), "digits", FEW, limit=3, device="cpu")
    job.run()
    if file == "graph.json":
        text = (run / file).read_text()
        assert "aten.relu.default" in text
        (run / file).write_text(text.replace("aten.relu.default", "aten.tanh.default", 1))
    else:
        weights = load_file(run / file)
        weights[next(iter(weights))].view(-1)[0] += 1
        save_file(weights, run / file)
    again = prepare(Source(str(run)), "digits", FEW, limit=3, device="cpu")
    assert again.task.model != job.task.model
    assert again.folder != job.folder
    assert again.others() == [job.folder]
    with pytest.raises(ValueError, match=f"another model: the task names {job.task.model}"):
        certify_share(job.task, load(run), data.load("digits", "test"), job.folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: (run / "graph.json").write_text("{"), "holds no program that can be read"),
        (lambda run: (run / "graph.json").unlink(), "lacks graph.json, the program that its run.json names"),
        (lambda run: (run / "model.safetensors").write_bytes(b"\xff" * 50), "holds no program that can be read"),
        (lambda run: (run / "model.safetensors").unlink(), "holds no finished model"),
        (
            lambda run: save_file({"0.mean": torch.zeros(1, 1, 1)}, run / "model.safetensors"),
            "holds no program that can be read",
        ),
    ],
)
def test_a_damaged_run_is_one_clear_line(damage: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    run = stored(tmp_path / "run", RECIPES["gaussian-digits-0.25"])
    damage(run)
    with pytest.raises(ValueError, match=reason) as found:
        load(run)
    assert "\n" not in str(found.value)


def test_a_run_of_an_earlier_version_is_opened_as_it_was(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", RECIPES["gaussian-digits-0.25"])
    told = store.read_run(run)
    del told["program"]
    (run / "run.json").write_text(json.dumps(told))
    (run / "graph.json").unlink()
    layers = load(run)
    assert program_of(layers) is None
    assert model_hash(layers) == model_hash(architecture(run))


class Undecided(nn.Module):
    """Looks at its numbers to decide what to compute, which no program does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.linear(flat) if bool(flat.sum() > 1e9) else self.linear(-flat)


class Constants(nn.Module):
    """Numbers that stand in its code, and weights under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) + torch.arange(10.0) * torch.tensor([0.25])


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Architectures of a user's own."""
    _ = list(ARCHITECTURES)
    for made in (Undecided, Constants):
        monkeypatch.setitem(ARCHITECTURES._found, made.__name__.lower(), lambda info, made=made: made())


@pytest.mark.usefixtures("own")
def test_a_network_that_cannot_be_captured_is_built_from_code_and_run_json_says_so(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", replace(RECIPES["gaussian-digits-0.25"], arch="undecided"))
    assert "cannot be captured" in store.read_run(run)["program"]["none"]
    assert not (run / "graph.json").exists()
    assert isinstance(load(run), Undecided)
    found = certify_run(Source(str(run)), "digits", FEW, limit=2, device="cpu")
    assert len(found.records) == 2


@pytest.mark.usefixtures("own")
def test_numbers_that_stand_in_code_are_kept_beside_the_weights(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", replace(RECIPES["gaussian-digits-0.25"], arch="constants"))
    assert load_file(run / "model.safetensors").keys() == {"linear.weight", "linear.bias"}
    assert (run / "constants.safetensors").exists()
    assert torch.equal(load(run)(images()), architecture(run)(images()))


def test_what_was_changed_after_it_was_read_is_no_longer_the_program(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", RECIPES["gaussian-digits-0.25"])
    model = load(run)
    program, twin = program_of(model), copy.deepcopy(model)
    assert program is not None
    assert model_hash(model) == model_hash(twin) == model_hash(pickle.loads(pickle.dumps(model)))
    assert model_hash(model) == program.identity[:16] == Source(str(run)).identity(model)
    next(model.buffers()).add_(1)
    assert program_of(model) is None
    assert model_hash(model) != program.identity[:16]
    assert program_of(twin) is program
    assert torch.equal(program(images()), twin(images())), "the program shares no memory with the network"


def test_a_hook_on_a_program_is_no_part_of_it_and_is_proven_and_hashed(tmp_path: Path) -> None:
    for recipe in ("gaussian-digits-0.25", "splitz-digits-0.25"):
        model = load(stored(tmp_path / recipe, RECIPES[recipe]))
        radius = certify(model, images(1), Margin())[0].radius
        named = model_hash(model)
        model.register_forward_hook(lambda module, args, out: out.mul(1000))
        assert program_of(model) is None
        assert model_hash(model) != named
        assert certify(model, images(1), Margin())[0].radius == pytest.approx(radius, rel=1e-6), "both grow alike"
        model.register_forward_pre_hook(lambda module, args: 10 * args[0])
        assert certify(model, images(1), Margin())[0].radius != pytest.approx(radius, rel=1e-2)


def test_the_programs_of_one_run_are_one_in_every_form(tmp_path: Path) -> None:
    from holdfast.formats.export import export_model

    run = stored(tmp_path / "run", RECIPES["splitz-digits-0.25"])
    folder = export_model(run, "hf")
    assert model_hash(Source(str(folder)).load()) == model_hash(load(run))
    assert isinstance(Source(str(folder)).load(), SplitProgram)
    assert model_hash(Source(str(run / "graph.json")).load()) == model_hash(load(run))


def test_a_certification_of_a_stored_program_names_it(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", RECIPES["gaussian-digits-0.25"])
    job = prepare(Source(str(run)), "digits", FEW, limit=3, device="cpu")
    assert job.task == Certification(FEW, store.read_run(run)["program"]["identity"][:16], "digits", limit=3)


def test_a_data_set_is_certified_with_the_program_of_a_model_of_ones_own(tmp_path: Path) -> None:
    model = zoo.build("cnn", INFO).eval()
    job = prepare(model, "digits", FEW, limit=2, device="cpu", runs=tmp_path)
    ran = job.read()[0]
    assert job.task.model == captured(model, INFO.shape).identity[:16] == model_hash(ran) != model_hash(model)
    assert program_of(dataclasses.replace(job, loaded=None).read()[0]) is not None, "in another process, too"
    model.register_forward_hook(lambda module, args, out: out.flip(1))
    assert prepare(model, "digits", FEW, limit=2, device="cpu", runs=tmp_path).task.model != job.task.model
    assert torch.equal(ran(images()), captured(ran, INFO.shape)(images()))


def test_a_certification_that_was_begun_with_the_layers_goes_on_with_them(tmp_path: Path) -> None:
    model = zoo.build("cnn", INFO).eval()
    settings = {"limit": 3, "device": "cpu", "runs": tmp_path}
    before = Certification(FEW, model_hash(model), "digits", "test", limit=3)
    folder = tmp_path / f"{type(model).__name__.lower()}-{model_hash(model)}" / f"certify-{before.fingerprint()}"
    images_of = data.load("digits", "test")
    open_certification(before, folder, images_of, folder.parent.name)
    certify_share(before, model, images_of, folder, shard=(0, 2))
    job = prepare(model, "digits", FEW, **settings)
    assert (job.folder, job.task.model) == (folder, model_hash(model))
    assert dataclasses.replace(job, loaded=None).read()[0] is model
    assert len(certify_run(model, "digits", FEW, **settings).records) == 3


def test_what_torch_compiled_runs_as_it_is(tmp_path: Path) -> None:
    model = zoo.build("cnn", INFO).eval()
    model._orig_mod = nn.Identity().eval()  # what torch.compile calls the model inside
    assert prepare(model, "digits", FEW, limit=2, device="cpu", runs=tmp_path).read()[0] is model
