"""The device that is chosen is one that is there."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from holdfast import machine
from holdfast.machine import choose, commit, describe


@pytest.fixture
def cuda_build_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch as PyPI serves it, on a computer without a driver: it names cuda and cannot use it."""

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.usefixtures("cuda_build_without_a_gpu")
def test_auto_is_the_cpu_where_torch_was_built_for_a_gpu_that_is_not_there() -> None:
    assert choose("auto") == torch.device("cpu")
    assert torch.zeros(1, device=choose("auto")) == 0


@pytest.mark.usefixtures("cuda_build_without_a_gpu")
def test_training_finds_the_cpu_too() -> None:
    assert Fabric(accelerator="auto", devices=1).device == torch.device("cpu")


def test_auto_takes_the_accelerator_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert choose("auto") == torch.device("meta")


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no device 'cuda:77'"):
        choose("cuda:77")


def test_a_run_tells_the_versions_and_the_commit_that_it_ran_on() -> None:
    told = describe(torch.device("cpu"))
    assert told["torch"] == torch.__version__
    assert told["holdfast"]
    assert told["commit"] == commit()
    assert commit() is None or re.fullmatch(r"[0-9a-f]{40}\+?", str(commit()))


STARTS = """
import multiprocessing, os, sys, time
from holdfast.machine import end_with

def work(starter):
    end_with(starter)
    print(os.getpid(), flush=True)
    time.sleep(60)
    print("lived on", flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work, args=(os.getpid(),))
    process.start()
    process.join()
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_process_ends_with_the_one_that_started_it_also_where_that_is_killed(tmp_path: Path) -> None:
    (file := tmp_path / "starts.py").write_text(STARTS)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        starter = subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with starter:
        assert starter.stdout is not None
        started = int(starter.stdout.readline())
        os.kill(started, 0)
        starter.kill()
        assert starter.stdout.read() == ""  # until no process holds the other end


def test_memory_is_kept_on_a_cpu_with_glibc_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            told.append((parameter, value))
            return 1

        def malloc_trim(self, pad: int) -> int:
            told.append("trim")
            return 1

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("glibc", "2.36"))
    with machine.kept_memory(torch.device("cuda")):
        pass
    assert not told
    with machine.kept_memory(torch.device("cpu")):
        with machine.kept_memory(torch.device("cpu")):
            pass  # the outermost alone counts
        assert told == [(-4, 0), (-1, -1)]
    assert told[2:] == [(-4, 65536), (-3, 32 << 20), (-1, 64 << 20), "trim"]
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: pytest.fail("this is another C library"))
    with machine.kept_memory(torch.device("cpu")):
        pass
