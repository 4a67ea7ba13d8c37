"""What waits for a GPU: each of it at toy size on a CPU, and the list that stops and goes on."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.runs.certified import CertifiedRun

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, BENCHMARKS / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


gpu = script("gpu/run.py")


def toy(out: Path, **changes: object) -> Any:
    return gpu.Options(out=out, device="cpu", toy=True, **changes)


MEASURED = [item.name for item in gpu.items(toy(Path("nowhere"))) if not item.resumes]


@pytest.mark.parametrize("name", MEASURED)
def test_a_measurement_prints_a_table(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (item,) = (item for item in gpu.items(toy(tmp_path)) if item.name == name)
    monkeypatch.setattr(sys, "argv", list(item.command[1:]))
    monkeypatch.setattr(sys, "path", [str(Path(item.command[1]).parent), *sys.path])
    runpy.run_path(item.command[1], run_name="__main__")
    rows = gpu.tables(capsys.readouterr().out)
    assert rows
    assert all(len(row) >= 4 for row in rows)
    assert any(float(value) > 0 for value in rows[0].values() if value.replace(".", "").isdigit())


def test_the_list_in_full_names_recipes_and_options_that_there_are() -> None:
    from holdfast.cli.train import parse
    from holdfast.core.registry import ARCHITECTURES, RECIPES

    named = 0
    for item in gpu.items(gpu.Options()):
        if "train" in item.command:
            recipe, *options = item.command[item.command.index("train") + 1 :]
            assert parse(recipe, options, "train").recipe == RECIPES[recipe]
            named += 1
        for flag, known in (("--recipes", RECIPES), ("--arch", ARCHITECTURES), ("--archs", ARCHITECTURES)):
            if flag in item.command:
                for name in item.command[item.command.index(flag) + 1 :]:
                    if name.startswith("--"):
                        break
                    assert known[name]
                    named += 1
    assert named == 4 + 2 * 8 + 4 + 4


def item(name: str, code: str, **more: bool) -> object:
    return gpu.Item(name, (sys.executable, "-c", code), **more)


def test_what_is_stopped_or_fails_is_tried_again_and_what_is_done_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one sleeps until it finds what its first start left; the third fails until the second is done."""
    mark = tmp_path / "mark"
    slow = (
        f"import pathlib, time; p = pathlib.Path({str(mark)!r}); there = p.exists(); p.touch(); there or time.sleep(60)"
    )
    found = [
        item("one", "print('| a | b |\\n|---|---|\\n| 1 | x |')"),
        item("two", slow, resumes=True),
        item("three", "import sys; sys.exit('no data: see README')"),
    ]
    monkeypatch.setattr(gpu, "items", lambda options: found)
    monkeypatch.setattr(gpu, "LEAST", 0.0)
    real = gpu.subprocess.Popen.wait

    def wait(self: object, timeout: float | None = None) -> int:
        if timeout is not None and "time.sleep" in str(self.args):  # pyright: ignore[reportAttributeAccessIssue]
            while not mark.exists():
                time.sleep(0.01)
            timeout = 0.05 if not (tmp_path / "went-on").exists() else None
        return real(self, timeout)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(gpu.subprocess.Popen, "wait", wait)
    assert gpu.main(toy(tmp_path, minutes=1)) == 2
    said = capsys.readouterr().out
    assert "two: time is up, goes on next time" in said
    assert "no data: see README" in said
    assert "three: ended with 1" in said
    assert json.loads((tmp_path / "one.json").read_text())["tables"] == [{"a": "1", "b": "x"}]
    (tmp_path / "went-on").touch()
    assert gpu.main(toy(tmp_path, minutes=1)) == 1
    said = capsys.readouterr().out
    assert "one: done before" in said
    assert "two: done, " in said
    assert "left: three" in said


def test_nothing_is_begun_when_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "items", lambda options: [item("one", "print(1)")])
    assert gpu.main(toy(tmp_path, minutes=0)) == 1
    assert list(tmp_path.iterdir()) == []


def test_sigterm_leaves_nothing_running(tmp_path: Path) -> None:
    told = ["--toy", "--device", "cpu", "--only", "train-gaussian-digits", "--out", str(tmp_path)]
    command = [sys.executable, str(BENCHMARKS / "gpu" / "run.py"), *told]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(tmp_path.glob("runs/*/log.jsonl")):
        time.sleep(0.01)
    process.terminate()
    process.wait()
    with pytest.raises(ProcessLookupError):  # nobody is left in its group
        os.killpg(process.pid, 0)


def test_a_training_that_was_killed_goes_on_and_is_certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: a training of the list in a process of its own, killed once it has begun, started again."""
    options = toy(tmp_path, minutes=30, only=("train-gaussian-digits", "certify-gaussian-digits"))
    real = gpu.subprocess.Popen.wait

    def until_it_has_begun(self: object, timeout: float | None = None) -> int:
        while timeout is not None and not list(tmp_path.glob("runs/*/log.jsonl")):
            time.sleep(0.01)
        return real(self, timeout and 0.0)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(gpu.subprocess.Popen, "wait", until_it_has_begun)
    first = next(one for one in gpu.items(options) if one.name.startswith(options.only))
    assert not gpu.run(first, tmp_path, time.monotonic() + 1800)
    assert not list(tmp_path.glob("runs/*/model.safetensors"))
    monkeypatch.setattr(gpu.subprocess.Popen, "wait", real)
    assert gpu.main(options) == 0
    (run,) = tmp_path.glob("runs/*")
    starts = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert starts == ["train", "train", "trained"]
    (certified,) = run.glob("certify-*")
    assert len(CertifiedRun.open(certified).records) == 2
