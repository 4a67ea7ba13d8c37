"""Checkpoints within an epoch, for epochs that take hours: what is done, what it drew, what it iterates on."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..runs import store

if TYPE_CHECKING:
    from lightning_fabric import Fabric

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
        """Put back what the file holds, if there is one; `rows`."""
        if not self._path.exists():
            return self.rows
        state = torch.load(self._path, map_location=self._fabric.device, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.rows, self._within = state["metrics"], state.get("within", {})
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
