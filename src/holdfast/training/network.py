"""The network while it is trained: weights to begin with, checkpoints, compilation, statistics that processes share."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.recipe import DataInfo, Recipe
from ..formats.files import checksum, fit_weights, read_weights
from ..nn import zoo
from ..nn.linf.layers import distance_layers
from ..ops import conv_cpu
from ..program.program import hooked
from ..runs import store
from ..runs.store import read_run

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Beginning:
    """Weights to fine-tune; none for a training from random ones."""

    path: Path | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def read(cls, init: Path | str | None) -> Beginning:
        """The weights of a run folder or of a file.

        Raises:
            ValueError: there are none, or the training of the run is not finished.
        """
        if init is None:
            return cls()
        path = Path(init)
        if path.is_dir():
            read_run(path)
            path /= "model.safetensors"
            if not path.exists():
                raise ValueError(f"{init} holds no finished model to start from; finish its training first")
        return cls(path, read_weights(path, allow_pickle=None))

    def network(self, arch: str, data: DataInfo) -> nn.Module:
        """The architecture with these weights.

        Raises:
            ValueError: they do not fit it.
        """
        network = zoo.build(arch, data)
        return network if self.path is None else fit_weights(network, self.state, self.path)

    def fingerprint(self, recipe: Recipe) -> str:
        """12 hex digits: of the recipe, and of the weights if there are any."""
        if self.path is None:
            return recipe.fingerprint()
        return hashlib.sha256(f"{recipe.fingerprint()} {checksum(self.state)}".encode()).hexdigest()[:12]

    def asked(self) -> dict[str, str]:
        """What run.json compares: the checksum of the weights."""
        return {} if self.path is None else {"init": checksum(self.state)}

    def facts(self) -> dict[str, str]:
        """What run.json tells besides: where they were found."""
        return {} if self.path is None else {"init_from": str(self.path)}

    def told(self) -> str:
        """A further line of what is said beforehand."""
        return "" if self.path is None else f"\nstart    weights of {self.path}"


CHECKPOINT = "checkpoint.pt"

LOOK = 20
"""Steps between two looks at the clock of the first process, which decides for all of them."""


class Checkpoint:
    """What a training that is killed continues from.

    Args:
        model, optimizer: written and put back.
        minutes: between two checkpoints within an epoch; 0 writes none.
    """

    def __init__(
        self, fabric: Fabric, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, minutes: float
    ) -> None:
        self._fabric, self._path, self._minutes = fabric, folder / CHECKPOINT, minutes
        self._model, self._optimizer = model, optimizer
        self.rows: list[dict[str, float]] = []
        """Metrics of the epochs that are done."""
        self._within: dict[str, Any] = {}
        self._written = time.monotonic()

    def resume(self) -> list[dict[str, float]]:
        """Put back what the file holds, if there is one; `rows`.

        Raises:
            ValueError: it is damaged.
        """
        if not self._path.exists():
            return self.rows
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.rows, self._within = state["metrics"], state.get("within", {})
        except (RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
            told = f"{self._path} is no checkpoint of this training ({str(error)[:80]!r})"
            raise ValueError(f"{told}; remove it to train from the beginning") from error
        return self.rows

    def begun(self) -> list[Tensor]:
        """The losses of the steps of this epoch that are done; with the random numbers that follow them."""
        within, self._within = self._within, {}
        if not within:
            return []
        random = within["random"]
        if len(random) == self._fabric.world_size:  # with other processes it is another training anyway
            _set_random(self._fabric.device, random[self._fabric.global_rank])
        buffers = dict(self._model.named_buffers())
        for name, value in within["buffers"].items():
            buffers[name].copy_(value)
        return list(within["losses"].to(self._fabric.device))

    def after_step(self, losses: list[Tensor]) -> None:
        """Write the checkpoint if it is time to; every process calls this after every step of an epoch."""
        if not self._minutes or len(losses) % LOOK:
            return
        due = time.monotonic() - self._written >= 60 * self._minutes
        if self._fabric.broadcast(due):
            states = self._fabric.all_gather(_random(self._fabric.device).to(self._fabric.device))
            random = torch.as_tensor(states).cpu().reshape(self._fabric.world_size, -1)
            kept = self._model.state_dict()
            buffers = {name: value for name, value in self._model.named_buffers() if name not in kept}
            self.write(within={"losses": torch.stack(losses).cpu(), "random": random, "buffers": buffers})

    def write(self, **more: Any) -> None:
        """Write it, by the first process."""
        self._written = time.monotonic()
        if self._fabric.is_global_zero:
            states = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
            buffer = io.BytesIO()
            torch.save({**states, "metrics": self.rows, **more}, buffer)
            store.write_whole(self._path, buffer.getvalue())

    def remove(self) -> None:
        """The training is finished."""
        self._path.unlink()


def _random(device: torch.device) -> Tensor:
    """The state of the generators that a training draws from."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.cat([torch.get_rng_state(), *own])


def _set_random(device: torch.device, state: Tensor) -> None:
    state = state.cpu()
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:], device)


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
        torch.compiler.reset()  # it compiles the code of `plain` for 8 networks, and leaves the ninth as it is


@contextmanager
def quick(network: nn.Module) -> Iterator[None]:
    """Let passes take less time: layers run as in `ops.conv_cpu`, and a max-pool behind a ReLU in an `nn.Sequential`
    runs before it, on fewer ReLUs. Values and gradients are the same bits in that order, because ReLU keeps the order
    of numbers and passes no gradient where the largest is not positive.
    """
    faster: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for part in network.modules():
        if type(part) in QUICK and not hooked(part):
            faster[part] = partial(QUICK[type(part)], part)
        if type(part) is nn.Sequential and not hooked(part):  # its parts stay where they are, for who takes one by one
            faster[part] = partial(_in_turn, _pools_first(list(part)))
    for part, call in faster.items():
        part.forward = call
    try:
        yield
    finally:
        for part in faster:
            del part.forward


def _pools_first(layers: list[nn.Module]) -> list[nn.Module]:
    for place, (relu, pool) in enumerate(pairwise(layers[:])):
        kinds = (type(relu), type(pool))
        if kinds == (nn.ReLU, nn.MaxPool2d) and not (hooked(relu) or hooked(pool) or pool.return_indices):
            layers[place : place + 2] = pool, relu
    return layers


def _in_turn(layers: list[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


QUICK = {nn.MaxPool2d: conv_cpu.max_pool, nn.Conv2d: conv_cpu.conv2d}


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that batch normalisation keeps: means and variances."""
    layers = (part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None)
    return [buffer for part in layers for buffer in (part.running_mean, part.running_var) if buffer is not None]


@torch.no_grad()
def share_statistics(fabric: Fabric, kept: list[Tensor]) -> None:
    """Replace them by their means over all processes: else those of one share would be kept, and the others lost.

    Called after every step, so that a checkpoint holds what every process has.
    """
    if fabric.world_size == 1 or not kept:
        return
    flat = fabric.all_reduce(torch.cat([buffer.flatten() for buffer in kept]))
    assert isinstance(flat, Tensor)
    for buffer, values in zip(kept, flat.split([buffer.numel() for buffer in kept]), strict=True):
        buffer.copy_(values.view_as(buffer))
