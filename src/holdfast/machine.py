"""What a run ran on. Nothing here enters a fingerprint."""

import platform
import subprocess
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def describe(device: torch.device) -> dict[str, Any]:
    """What log.jsonl tells of the machine."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "holdfast": version("holdfast"),
        "commit": commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
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
