"""The program of a classifier run by other runtimes: which one is a setting, and what differs is counted."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast import Gaussian, LInfBox, Margin, Split, certify, data
from holdfast.certification import runtime as runtimes
from holdfast.certification.look import foretold
from holdfast.certification.run import certify_run, prepare
from holdfast.certification.runtime import RUNTIMES, check_runtime, in_runtime
from holdfast.certification.task import Certification
from holdfast.core.certificate import verified
from holdfast.core.recipe import DataInfo
from holdfast.nn import zoo
from holdfast.nn.stored import captured, network_of
from holdfast.report.summary import summarise

INFO = DataInfo("digits", (1, 8, 8), 10, (0.5,), (0.25,))
FEW = Gaussian(0.25, n0=10, n=100)
OTHERS = [name for name in RUNTIMES if name != "torch"]


def program(arch: str = "cnn") -> nn.Module:
    torch.manual_seed(0)
    return network_of(captured(zoo.build(arch, INFO).eval(), INFO.shape))


def images(count: int = 4) -> Tensor:
    return data.load("digits", "test").pixels(slice(0, count))


@pytest.mark.parametrize("runtime", OTHERS)
def test_a_runtime_computes_what_torch_computes_for_any_number_of_rows(runtime: str) -> None:
    model, x = program(), images(11)
    with torch.inference_mode():
        runs = in_runtime(model, runtime, x, 8)
        for rows in (3, 8, 11):
            assert torch.allclose(runs(x[:rows]), model(x[:rows]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runtime", OTHERS)
def test_a_run_says_which_runtime_its_function_is_of_and_how_many_votes_differ(runtime: str, tmp_path: Path) -> None:
    found = certify_run(program(), "digits", FEW, limit=6, runtime=runtime, runs=tmp_path, device="cpu")
    (folder,) = tmp_path.glob("*/certify-*")
    assert json.loads((folder / "run.json").read_text())["certification"]["runtime"] == runtime
    entry = json.loads((folder / "log.jsonl").read_text().splitlines()[0])
    assert (entry["runtime"], entry["runtime_changed"], entry["noisy_rows"]) == (runtime, 0, 64)
    assert entry["compiling"] > 0
    assert any(f"certified as {runtime} runs it; of 64 noisy images 0" in note for note in summarise([folder]).notes)
    plain = certify(program(), images(6), FEW, seed=0)
    assert [r.certificate.prediction for r in found.records] == [one.prediction for one in plain]


def test_votes_that_differ_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: nn.Module, runtime: str, like: Tensor, batch_size: int) -> nn.Module:
        head = nn.Linear(64, 10)
        return nn.Sequential(nn.Flatten(), head).eval()

    monkeypatch.setattr("holdfast.certification.driver.in_runtime", other)
    certify_run(program(), "digits", FEW, limit=6, runtime="compile", runs=tmp_path, device="cpu")
    (log,) = tmp_path.glob("*/certify-*/log.jsonl")
    assert json.loads(log.read_text().splitlines()[0])["runtime_changed"] > 10


def test_the_right_half_of_a_split_run_is_what_another_runtime_runs() -> None:
    certifier = Split(Gaussian(0.05, n0=10, n=200))
    found, plain = (
        certify(program("cnn@conv1"), images(3), certifier, seed=0, runtime=name) for name in ("onnxruntime", "torch")
    )
    assert {one.evidence["runtime"] for one in found} == {"onnxruntime"}
    assert verified(found[0], certifier.to_dict(), complete=True) is not None
    assert [one.evidence["program"] for one in found] == [one.evidence["program"] for one in plain]
    assert [one.radius for one in found] == pytest.approx([one.radius for one in plain], rel=0.05)


def test_settings_of_a_time_without_runtimes_are_those_of_torch() -> None:
    task = Certification(FEW, "m", "digits")
    old = task.to_dict()
    del old["runtime"]
    assert Certification.from_dict(old) == task
    assert dataclasses.replace(task, runtime="compile").fingerprint() != task.fingerprint()
    assert task.fingerprint() == "9c5688f7db97", "as before there were runtimes"


@pytest.mark.parametrize("certifier", [Margin(), LInfBox()])
def test_proofs_about_the_float64_program_take_no_other_runtime(certifier: Margin | LInfBox, tmp_path: Path) -> None:
    for call in (
        lambda: certify(program(), images(2), certifier, runtime="compile"),
        lambda: prepare(program(), "digits", certifier, runtime="compile", runs=tmp_path, device="cpu"),
    ):
        with pytest.raises(ValueError, match="bounds the rounding of the float64 program"):
            call()


def test_the_runtime_that_was_found_faster_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deep() -> nn.Module:
        convolutions = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(10)]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 10)).eval()

    def told(model: nn.Module, certifier: Gaussian | Margin = FEW, **settings: str) -> str:
        job = prepare(model, "digits", certifier, limit=2, device="cpu", runs=tmp_path, **settings)  # pyright: ignore
        return " ".join(foretold(job))

    assert "--runtime onnxruntime was 1.2 to 1.4 times as fast" in told(deep())
    assert "--runtime" not in told(program())
    assert "--runtime" not in told(deep(), Margin())
    assert "--runtime" not in told(deep(), precision="bf16-true")
    assert "--runtime" not in told(deep(), runtime="compile")
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    assert "--runtime" not in told(deep())


def test_a_limit_of_time_is_told_where_forward_passes_are_all_the_work(tmp_path: Path) -> None:
    def told(certifier: Gaussian | Margin) -> str:
        return " ".join(foretold(prepare(program(), "digits", certifier, limit=2, device="cpu", runs=tmp_path)))

    assert re.search(r"passes: at most about [^,]* in one process\.", told(FEW))
    assert re.search(r"passes: about [^,]* in one process, and what is proven besides\.", told(Margin()))


@pytest.mark.parametrize(("passes", "least"), [([9.0, 1.0, 0.5, 2.0], 0.5), ([9.0, 6.0, 0.5], 6.0)])
def test_a_pass_that_other_processes_halt_does_not_count(
    passes: list[float], least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, left = [0.0], iter(passes)  # the first pass warms up

    class Halted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            clock[0] += next(left)
            return x

    monkeypatch.setattr(runtimes.time, "perf_counter", lambda: clock[0])
    assert runtimes.seconds_per_image(Halted(), torch.zeros(1, 2, 2), 4) == least / 4


def test_what_no_runtime_can_do_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown runtime 'jax'; known: torch, compile, onnxruntime"):
        certify(program(), images(2), FEW, runtime="jax")
    with pytest.raises(ValueError, match="leave the precision at 32-true"):
        check_runtime("compile", FEW, "bf16-true")

    class Undecided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return flat[:, :10] if bool(flat.sum() > 1e9) else flat[:, 10:20]

    for call in (
        lambda: certify(Undecided().eval(), images(2), FEW, runtime="compile"),
        lambda: prepare(Undecided().eval(), "digits", FEW, runtime="compile", runs=tmp_path, device="cpu"),
    ):
        with pytest.raises(ValueError, match="runs programs, and this model has none"):
            call()

    def lacks(module: str, extra: str) -> None:
        raise ValueError(f"{module} is needed here; it comes with: pip install 'holdfast[{extra}]'")

    monkeypatch.setattr(runtimes, "need", lacks)
    with pytest.raises(ValueError, match=r"onnxruntime is needed here.*holdfast\[onnx\]"):
        check_runtime("onnxruntime", FEW)
