"""The machine that a training runs on: processes, devices, precision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    workers: int | None = None
    """Processes beside each training process that decode and augment images, where a data set is larger than memory or
    a recipe needs more than shifts and mirrors; 0: none; default: as many as there are cores for each process, up to
    16. They change no result."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""


def start(machine: Machine, batch_size: int) -> Fabric:
    """Under torchrun or SLURM the processes exist already; elsewhere several are spawned, also in a notebook.

    Raises:
        ValueError: there is no such machine here, or a batch has less images than there are processes.
    """
    from lightning_fabric import Fabric  # seconds, which a help need not wait for
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    outside = TorchElasticEnvironment.detect() or SLURMEnvironment.detect()
    devices, nodes = _given(machine) if outside else (machine.devices, machine.nodes)
    strategy: Any = "auto"
    if devices * nodes > batch_size:
        raise ValueError(f"expected no more processes than images in a batch, {batch_size}; got {devices * nodes}")
    if devices * nodes > 1:
        strategy = DDPStrategy(start_method="popen" if outside else "spawn", broadcast_buffers=False)
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


def _given(machine: Machine) -> tuple[int, int]:
    """Processes per node, and nodes, as torchrun or SLURM have started them."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", machine.devices)))
    everywhere = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", here * machine.nodes)))
    return here, max(1, everywhere // here)
