"""What makes a training faster and changes nothing else: a network that is compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..nn.linf.layers import distance_layers

BACKEND = "inductor"
"""Of torch.compile."""


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
