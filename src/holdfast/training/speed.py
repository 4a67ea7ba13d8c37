"""What makes a training faster and changes nothing else: memory that is kept, and a network that is compiled."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..nn.linf.layers import distance_layers

BACKEND = "inductor"
"""Of torch.compile."""

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt, from malloc.h."""

MIB = 2**20


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Memory that is freed stays with the process until the end, instead of being mapped and zeroed anew in every step.

    The C library of Linux gives large blocks back to the system at once. On a CPU, where tensors come from it, that
    cost 13 to 31 % of the time of a step of LeNet. Does nothing on a GPU and with other libraries.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:  # what it reaches by itself in a process with large tensors
        library.mallopt(MMAP_MAX, 65536)
        library.mallopt(MMAP_THRESHOLD, 32 * MIB)
        library.mallopt(TRIM_THRESHOLD, 64 * MIB)
        library.malloc_trim(0)


def check_compiler(network: nn.Module, device: torch.device) -> None:
    """Refuse a network, or a machine, for which torch.compile cannot work, before any work.

    Raises:
        ValueError: it says what is missing.
    """
    if distance_layers(network):
        raise ValueError("--compile serves no l-inf-distance net: its kernels are compiled already; leave it out")
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl"))):
        raise ValueError("--compile needs a C++ compiler and found none: install g++, or name one in CXX")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ValueError("--compile needs triton on a GPU and did not find it: pip install triton")


@contextmanager
def compiled(network: nn.Module, wanted: bool) -> Iterator[None]:
    """Let calls that compute gradients run a compiled form; parameters, their names and the network stay as they are.

    Calls without gradients, such as those for accuracy, would be compiled once more for little, and are not.
    """
    if not wanted:
        yield
        return

    def plain(*args: Any, **kwargs: Any) -> Any:
        return nn.Module._call_impl(network, *args, **kwargs)

    fast = torch.compile(plain, backend=BACKEND)

    def call(*args: Any, **kwargs: Any) -> Any:
        return (fast if torch.is_grad_enabled() else plain)(*args, **kwargs)

    # what nn.Module.compile sets; that itself leaves a container of torch's own, such as nn.Sequential, as it is
    network._compiled_call_impl = call
    try:
        yield
    finally:
        network._compiled_call_impl = None
