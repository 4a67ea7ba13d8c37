"""Training by several processes, in parts, and killed within an epoch: the weights of one that was left alone."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from holdfast.cli import main
from holdfast.core.certifier import Classifier
from holdfast.core.recipe import Recipe
from holdfast.core.registry import RECIPES
from holdfast.methods.gaussian import GaussianNoise
from holdfast.training import loop as training
from holdfast.training import network
from holdfast.training.launch import OWN_STORE, Machine, start
from holdfast.training.loop import train
from holdfast.training.network import running_statistics, share_statistics

CPU = Machine(accelerator="cpu")
EXACT = Machine(accelerator="cpu", precision="64-true")
"""Rounding stays small, which the steps of Adam enlarge where gradients are small."""
EVEN = 18
"""Holding out so many leaves a number of digits that two processes share in every batch."""


@dataclass(frozen=True)
class Plain(GaussianNoise):
    """Training without noise."""

    def loss(self, model: Classifier, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
        return cross_entropy(model(x), y)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * float(value.abs().max()))


@pytest.mark.parametrize(
    ("name", "randaugment"), [("gaussian-digits-0.25", 0.0), ("gaussian-digits-0.25", 0.5), ("emma-digits", 0.0)]
)
def test_killed_within_an_epoch_it_continues_to_the_same_weights(
    name: str, randaugment: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise is drawn at every step, images are augmented one by one, a power iteration continues."""
    recipe = RECIPES[name].replace(epochs=2, flip=True, crop=1, randaugment=randaugment)
    whole = train(recipe, "whole", tmp_path, replace(CPU, workers=0))
    monkeypatch.setattr(network, "LOOK", 5)
    steps, real = iter(range(1000)), training._backward
    often = replace(CPU, workers=0, checkpoint_minutes=1e-9)

    def dies(*args: Any) -> torch.Tensor:
        if next(steps) == 23 + 13:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "_backward", dies)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, "killed", tmp_path, often)
    done: list[int] = []
    monkeypatch.setattr(training, "_backward", lambda *args: done.append(1) or real(*args))
    killed = train(recipe, "killed", tmp_path, often)
    assert len(done) == 23 - 10
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (killed / "metrics.csv").read_text().count("\n") == 3


def test_a_batch_in_parts_gives_the_same_weights(tmp_path: Path) -> None:
    recipe = RECIPES["gaussian-digits-0.25"].replace(epochs=1, method=Plain())
    whole, parts = (
        weights(train(recipe, f"in-{count}", tmp_path, replace(EXACT, accumulate=count))) for count in (1, 3)
    )
    assert_close(parts, whole, 1e-3)


@pytest.mark.parametrize(("accumulate", "minutes"), [(0, 15), (1, -1)])
def test_parts_and_minutes_that_cannot_be_are_refused(accumulate: int, minutes: float) -> None:
    with pytest.raises(ValueError, match="expected accumulate of at least 1 and checkpoint-minutes of at least 0"):
        start(replace(CPU, accumulate=accumulate, checkpoint_minutes=minutes), 64)


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPES["emma-digits"].replace(epochs=1, held_out=EVEN),
        pytest.param(RECIPES["linf-dist-digits-0.1"].replace(epochs=1, held_out=EVEN), marks=pytest.mark.slow),
        pytest.param(RECIPES["gloro-digits-0.3"].replace(epochs=1, held_out=EVEN), marks=pytest.mark.slow),
    ],
    ids=["emma-lookahead-batch-means", "linf-exponents", "gloro"],
)
def test_two_processes_give_the_weights_of_one(tmp_path: Path, recipe: Recipe) -> None:
    one = weights(train(recipe, "one", tmp_path, EXACT))
    two = weights(train(recipe, "two", tmp_path, replace(EXACT, devices=2)))
    assert_close(two, one, 1e-3)


def test_running_statistics_are_those_of_all_processes() -> None:
    class Two:
        """Fabric, beside another process whose statistics are larger by 2."""

        world_size = 2

        def all_reduce(self, flat: torch.Tensor) -> torch.Tensor:
            return (flat + (flat + 2)) / 2

    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm1d(2, track_running_stats=False))
    kept = running_statistics(network)
    before = [buffer.clone() for buffer in kept]
    share_statistics(Two(), kept)  # pyright: ignore[reportArgumentType]
    assert [buffer.tolist() for buffer in kept] == [(buffer + 1).tolist() for buffer in before]
    assert len(kept) == 2


def test_seconds_of_the_processor_are_those_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        """Fabric, beside another process that worked for 3 seconds more."""

        def all_reduce(self, seconds: torch.Tensor, reduce_op: str) -> torch.Tensor:
            assert reduce_op == "sum"
            return 2 * seconds + 3

    monkeypatch.setattr(time, "process_time", lambda: 15.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 30.0)
    found = training._spent(Two(), started=10.0, worked=11.0)  # pyright: ignore[reportArgumentType]
    assert found == {"seconds": 20.0, "processor_seconds": 11.0}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills a process by a POSIX signal")
def test_under_torchrun_a_killed_process_is_replaced_and_the_weights_are_those_of_an_unbroken_run(
    tmp_path: Path,
) -> None:
    whole = weights(torchrun(tmp_path / "whole"))
    assert_same(weights(torchrun(tmp_path / "killed", kill=True)), whole)


def test_a_torchrun_whose_restarts_would_fail_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    start(CPU, 64)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in capsys.readouterr().err
    monkeypatch.setenv(OWN_STORE, "1")
    start(CPU, 64)
    assert not capsys.readouterr().err


def test_of_the_processes_of_torchrun_the_first_says_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "gaussian-digits-0.25", "--epochs", "1", "--accelerator", "cpu", "--runs", str(tmp_path)]
    main(command)
    for rank, size, expected in (("0", "2", "trained: "), ("1", "2", ""), ("1", "1", "trained: ")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        capsys.readouterr()
        main(command)
        out, err = capsys.readouterr()
        assert (out[:9], bool(err)) == (expected, bool(expected))


def torchrun(runs: Path, kill: bool = False) -> Path:
    """Train with two processes; kill one of them when there is a checkpoint."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    command += ["-m", "holdfast", "train", "gaussian-digits-0.25", "--epochs", "12", "--accelerator", "cpu"]
    environment = os.environ | {OWN_STORE: "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--runs", str(runs)], stderr=subprocess.PIPE, text=True, env=environment)
    while kill and process.poll() is None and not list(runs.glob("*/checkpoint.pt")):
        time.sleep(0.05)
    if kill:
        os.kill(children(process.pid)[1], signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert not kill or "exitcode: -9" in told
    (run,) = runs.iterdir()
    return run


def children(parent: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        text = status.read_text()
        if re.search(rf"^PPid:\s+{parent}$", text, re.MULTILINE):
            found.append(int(status.parent.name))
    return sorted(found)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_mistake_in_a_spawned_process_is_one_line(tmp_path: Path) -> None:
    recipe = RECIPES["gaussian-digits-0.25"].replace(epochs=1)
    recipe = recipe.replace(optimizer=recipe.optimizer.replace(lr=1e30))
    with pytest.raises(ValueError, match=r"^the loss became \S+ in epoch 0; lower the learning rate [^\n]*$"):
        train(recipe, "run", tmp_path, replace(CPU, devices=2))
    assert not list(tmp_path.iterdir())
