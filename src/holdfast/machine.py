"""What a run ran on, and what it asks of the system. Nothing here enters a fingerprint."""

import ctypes
import multiprocessing
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt, from malloc.h."""

MIB = 2**20

_keeping: list[None] = []
"""One entry for each `kept_memory` that is open: the outermost alone sets and restores."""


def describe(device: torch.device) -> dict[str, Any]:
    """What log.jsonl tells of the machine."""
    tensor_cores = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "holdfast": version("holdfast"),
        "commit": commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "tf32": device.type == "cuda" and tensor_cores,
    }


@cache
def commit() -> str | None:
    """The commit that this code is a checkout of, "+" for one that was changed; None where it was installed."""
    here = Path(__file__).resolve().parent
    if not any((folder / ".git").exists() for folder in here.parents[:3]):
        return None
    told = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(told, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def describe_worker() -> dict[str, Any]:
    """What tells one worker process, and what can make it compute otherwise than another, beside `describe`."""
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "cpu": _cpu(),
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
    }


def _cpu() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def choose(device: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        # current_accelerator() alone names what torch was built for, whether it is there or not
        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return here or torch.device("cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"there is no device {device!r} here ({error}); try --device cpu") from error
    return torch.device(device)


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Memory that is freed stays with the process until the end, instead of being mapped and zeroed anew in every pass.

    The C library of Linux gives large blocks back to the system at once. On a CPU, where tensors come from it, that
    cost 13 to 31 % of the time of a training step of LeNet, and 25 % of the passes of a certification. Does nothing on
    a GPU and with other libraries.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    if not _keeping:
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)  # never
    _keeping.append(None)
    try:
        yield
    finally:
        _keeping.pop()
        if not _keeping:  # what it reaches by itself in a process with large tensors
            library.mallopt(MMAP_MAX, 65536)
            library.mallopt(MMAP_THRESHOLD, 32 * MIB)
            library.mallopt(TRIM_THRESHOLD, 64 * MIB)
            library.malloc_trim(0)


def end_with(starter: int) -> None:
    """Let this process end when the one that started it has ended, however that was; nothing where it is the same.

    A process that is killed cannot tell those it started. They would go on with what it alone kept others from, and
    Ctrl-C does not reach them where it started in the background of a script.

    Args:
        starter: the number of that process.
    """
    parent = multiprocessing.parent_process()
    if parent is None or os.getpid() == starter:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Ctrl-C waits; a process that starts meanwhile never hears it, nor do its imports, where nothing handles it."""
    if os.name == "nt":
        yield
        return
    resource_tracker.ensure_running()  # which starts with the first process, and would let interrupts through
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def launched() -> tuple[int, int] | None:
    """Which of the processes this is that torchrun or SLURM has started, and how many; None where neither has.

    Raises:
        ValueError: the environment says what cannot be.
    """
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        place, count = os.environ.get(rank), os.environ.get(size, "1")
        if place is None or count == "1":
            continue
        if not (place.isdecimal() and count.isdecimal() and int(place) < int(count)):
            raise ValueError(
                f"expected whole numbers with {rank} below {size} in the environment, got {rank}={place!r} and "
                f"{size}={count!r}; unset both where neither torchrun nor SLURM has started this process"
            )
        return int(place), int(count)
    return None
