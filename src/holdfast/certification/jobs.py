"""Certifying a data set in one process or many: each takes its share of the examples and writes its own file."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from ..data import Dataset, load
from ..machine import choose
from ..opening import Source
from ..progress import Progress
from ..runs import store
from .driver import Certification, certify_dataset

EXPLAINED = 8
"""Images that a certifier may look at to explain a classifier."""


@dataclass(frozen=True)
class Job:
    """All that a process needs to do its share; it can be sent to another process."""

    source: Source
    task: Certification
    folder: Path
    data_dir: Path | None
    device: str
    batch_size: int | None
    processes: int = 1
    """Processes on this machine."""
    shard: tuple[int, int] | None = None
    """(i, n): do only every n-th example from the i-th on."""

    def __post_init__(self) -> None:
        if self.processes < 1 or (self.processes > 1 and self.shard):
            found = f"{self.processes} and {self.shard}"
            raise ValueError(f"expected one process or more, and either several processes or a shard, got {found}")

    def run(self) -> None:
        """Do the share that was asked for, or the one that torchrun or SLURM gives this process, or all of it."""
        if self.processes > 1:
            _spawn(self)
            return
        outside = _from_environment()
        device = choose(self.device)
        if outside and device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))
        self.certify(self.shard or outside or (0, 1), device, visible=True)

    def certify(self, shard: tuple[int, int], device: torch.device, visible: bool) -> None:
        """Certify a share of the examples in this process."""
        certify_dataset(
            self.task,
            self.source.load(),
            load(self.task.dataset, self.task.split, self.data_dir),
            self.folder,
            device=device,
            batch_size=self.batch_size,
            shard=shard,
            visible=visible,
        )


def explain(task: Certification, model: nn.Module, data: Dataset, folder: Path) -> None:
    """Write explanation.json: what the certifier says about the classifier as a whole, unless it is there.

    Args:
        model: on the device to work on, in eval mode.
        data: the data set of the task.
    """
    path = folder / "explanation.json"
    if path.exists():
        return
    like = next(model.parameters(), torch.zeros(()))
    some = data.pixels(torch.tensor(task.indices(len(data))[:EXPLAINED])).to(like.device)
    if found := task.certifier.explain(model, some):
        store.write_whole(path, (json.dumps(found, indent=2) + "\n").encode())


def _from_environment() -> tuple[int, int] | None:
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if int(os.environ.get(size, "1")) > 1 and rank in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return None


def _spawn(job: Job) -> None:
    device, processes = choose(job.device), job.processes
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(
            f"expected at most {torch.cuda.device_count()} devices, the GPUs that are here, got {processes}"
        )
    threads = max(1, torch.get_num_threads() // processes)
    context = spawn(_work, args=(job, device.type, threads), nprocs=processes, join=False)
    total = store.read_run(job.folder)["total"]
    with Progress(f"certifying, {processes} processes", total) as progress:
        done = 0
        while context is not None and not context.join(timeout=1):
            now = store.count_records(job.folder)
            progress.advance(now - done)
            done = now
            time.sleep(0.2)
        progress.advance(store.count_records(job.folder) - done)


def _work(rank: int, job: Job, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    here = torch.device(device, rank) if device == "cuda" else torch.device(device)
    job.certify((rank, job.processes), here, visible=False)
