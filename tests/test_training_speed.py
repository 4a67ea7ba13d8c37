"""What makes a training faster: it changes no weight, no name and nothing that a run is known by."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from holdfast.core.recipe import Recipe
from holdfast.core.registry import RECIPES
from holdfast.training import loop as training
from holdfast.training import network
from holdfast.training.launch import Machine
from holdfast.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
"""Dynamo looks at it, and hides the warning unless warnings are errors."""

SHORT = replace(RECIPES["smoothmix-digits-0.25"], epochs=2)
CPU = Machine(accelerator="cpu")
COMPILED = replace(CPU, compile=True)


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """What torch.compile hands over; it is run as it is, without a C++ compiler."""
    found = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(network, "BACKEND", backend)
    torch.compiler.reset()
    return found


def test_a_compiled_training_has_the_name_and_the_weights_of_a_plain_one(tmp_path: Path, graphs: list) -> None:
    plain = train(SHORT, "run", tmp_path / "plain", CPU)
    assert not graphs
    compiled = train(SHORT, "run", tmp_path / "compiled", COMPILED)
    assert len(graphs) >= 2  # in training mode, and in eval mode for the attack
    assert compiled.name == plain.name
    weights, expected = (load_file(run / "model.safetensors") for run in (compiled, plain))
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    assert (compiled / "graph.json").read_bytes() == (plain / "graph.json").read_bytes()


@pytest.mark.parametrize("name", ["emma-digits", "gloro-digits-0.3"])
def test_networks_with_power_iteration_compile_too(tmp_path: Path, graphs: list, name: str) -> None:
    recipe = replace(RECIPES[name], epochs=1)
    plain, compiled = (train(recipe, "run", tmp_path / str(machine.compile), machine) for machine in (CPU, COMPILED))
    assert graphs
    expected = load_file(plain / "model.safetensors")
    for key, value in load_file(compiled / "model.safetensors").items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-5)


def test_killed_and_continued_with_or_without_compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training._save

    def dies(folder: Path, checkpoint: object) -> None:
        real(folder, checkpoint)  # pyright: ignore[reportArgumentType]
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", dies)
    with pytest.raises(KeyboardInterrupt):
        train(SHORT, "run", tmp_path, COMPILED)
    (checkpoint,) = tmp_path.glob("*/checkpoint.pt")
    state = torch.load(checkpoint, weights_only=True)
    assert not [name for name in state["model"] if "orig_mod" in name]
    monkeypatch.setattr(training, "_save", real)
    run = train(SHORT, "run", tmp_path, CPU)
    starts = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [start["compiled"] for start in starts if start["event"] == "train"] == [True, False]


def test_a_finished_run_says_that_it_was_not_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = replace(RECIPES["gaussian-digits-0.25"], epochs=1)
    train(short, "run", tmp_path, CPU)
    train(short, "run", tmp_path, CPU)
    assert "asked for now" not in capsys.readouterr().err
    train(short, "run", tmp_path, COMPILED)
    assert "asked for now: compiled True" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "found", "message"),
    [
        (SHORT, "", "C\\+\\+ compiler.*CXX"),
        (RECIPES["linf-dist-digits-0.1"], "/usr/bin/g++", "no l-inf-distance net"),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, found: str | None, message: str
) -> None:
    monkeypatch.setattr(network.shutil, "which", {"g++": found}.get)
    with pytest.raises(ValueError, match=message) as refused:
        train(recipe, "run", tmp_path, COMPILED)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_the_network_is_its_old_self_after_compiling() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))

    def fails() -> None:
        with network.compiled(net, True):
            assert net._compiled_call_impl is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert net._compiled_call_impl is None


def test_one_process_compiles_any_number_of_networks(graphs: list) -> None:
    for done in range(1, 11):  # torch compiles the same code eight times
        net = torch.nn.Linear(done, 2)
        with network.compiled(net, True):
            net(torch.ones(1, done)).sum().backward()
        assert len(graphs) == done
