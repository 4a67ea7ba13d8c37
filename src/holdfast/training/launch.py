"""The machine that a training runs on: processes, devices, precision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import check_fields
from ..progress import say

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Machine:
    """What a training runs on. It changes no fingerprint: a run may be continued with other settings of the machine."""

    accelerator: str = "auto"
    """cpu, cuda, mps, or auto: the best there is."""
    devices: int = 1
    """Processes on this node, one device each. torchrun and SLURM decide this themselves."""
    nodes: int = 1
    """Nodes. torchrun and SLURM decide this themselves; else start each node with NODE_RANK and MASTER_ADDR set."""
    precision: str = "32-true"
    """32-true, 16-mixed, bf16-mixed, bf16-true, ... as in Lightning Fabric."""
    compile: bool = False
    """Compile the network by torch.compile, for its share of every step: a minute or more at the start. On a CPU LeNet
    was slower by it and LiResNet-small faster. The same result up to rounding."""
    workers: int | None = None
    """Processes beside each training process that decode and augment images, where a data set is larger than memory or
    a recipe needs more than shifts and mirrors; 0: none; default: as many as there are cores for each process, up to
    16. They change no result."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after the other, where all of it needs too much
    memory. The same result up to rounding, but for noise, and for batch normalisation, which sees a part at a time."""
    checkpoint_minutes: float = 15.0
    """Minutes between two checkpoints within an epoch, beside the one at its end; 0 writes none."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""

    def __post_init__(self) -> None:
        if isinstance(self.data_dir, str):
            object.__setattr__(self, "data_dir", Path(self.data_dir))
        check_fields(self)

    def told(self, fabric: Fabric) -> str:
        """In words, once it has been started."""
        where = f"{fabric.device}, processes: {fabric.world_size}, precision {self.precision}"
        return where + ", compiled" if self.compile else where


def start(machine: Machine, batch_size: int) -> Fabric:
    """Under torchrun or SLURM the processes exist already; elsewhere several are spawned, also in a notebook.

    Raises:
        ValueError: there is no such machine here, or its processes cannot share a batch of that size equally.
    """
    from lightning_fabric import Fabric  # seconds, which a help need not wait for
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    outside = TorchElasticEnvironment.detect() or SLURMEnvironment.detect()
    devices, nodes = _given(machine) if outside else (machine.devices, machine.nodes)
    _warn_of_restarts()
    strategy: Any = "auto"
    if machine.accumulate < 1 or machine.checkpoint_minutes < 0:
        found = f"{machine.accumulate} and {machine.checkpoint_minutes}"
        raise ValueError(f"expected accumulate of at least 1 and checkpoint-minutes of at least 0, got {found}")
    if batch_size % max(1, processes := devices * nodes):
        raise ValueError(
            f"the batch of {batch_size} images is that of all processes together, and {processes} cannot share it "
            "equally; take a number of processes that divides it"
        )
    if processes > 1:
        strategy = DDPStrategy(start_method="popen" if outside else "spawn", forward_sync_buffers=False)
    try:
        return Fabric(
            accelerator=machine.accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=machine.precision,  # pyright: ignore[reportArgumentType]
            strategy=strategy,
        )
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        asked = f"accelerator {machine.accelerator}, devices {devices}, precision {machine.precision}"
        raise ValueError(f"cannot train with {asked}: {error}") from error


def mistake_of(error: Exception) -> ValueError | None:
    """The user's mistake that a spawned process has ended with, as the one line that it says; None for other errors."""
    kind, _, told = str(error).rstrip().rpartition("\n")[2].partition(": ")
    spawned = type(error).__name__ == "ProcessRaisedException"  # of torch, which a help need not wait for
    return ValueError(told) if spawned and kind == "ValueError" else None


OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""With it, torchrun starts a store anew with the processes; else (torch 2.13) these look for those that died."""


def _warn_of_restarts() -> None:
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get(OWN_STORE) != "1"
    if restarts and shared and first_process():
        say(f"torchrun may not manage to restart these processes; start it with {OWN_STORE}=1")


def first_process() -> bool:
    """Whether this process is the first of those that torchrun or SLURM has started; true where neither has."""
    from ..machine import launched  # imports torch, which a help need not wait for

    return (launched() or (0, 1))[0] == 0


def _given(machine: Machine) -> tuple[int, int]:
    """Processes per node, and nodes, as torchrun or SLURM have started them."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", machine.devices)))
    everywhere = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", here * machine.nodes)))
    return here, max(1, everywhere // here)
