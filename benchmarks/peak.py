"""Peak memory of certifying images of 224 x 224, beside one forward pass of a batch: each in a process of its own.

    python benchmarks/peak.py
    python benchmarks/peak.py --arch resnet50 --images 128

Wanted: no more than the batch, its activations, and 64 MiB. Both processes have loaded the same code and compiled the
same kernels; images come from a formula, so that no data set stands in memory.
"""

import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from holdfast import Gaussian, certify
from holdfast.certification.driver import certify_share
from holdfast.certification.runtime import faster_format
from holdfast.certification.task import Certification, open_certification
from holdfast.core.recipe import DataInfo
from holdfast.data import Images
from holdfast.nn.zoo import build

MIB = 2**20
FEW = Gaussian(0.5, n0=16, n=48)
IMAGENET = DataInfo("imagenet", (3, 224, 224), 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass
class Options:
    """Benchmark of peak memory."""

    arch: str = "small"
    """resnet50, or a network with one convolution, whose passes take little."""
    batch: int = 64
    images: int = 256
    """To certify, with 64 samples each."""
    side: Literal["both", "pass", "certify"] = "both"
    """One side, in this process, or both in processes of their own."""


class Formula(Images):
    """As many images as are wanted, each made when it is asked for."""

    info, split = IMAGENET, "test"

    def __init__(self, count: int) -> None:
        self.labels = torch.zeros(count, dtype=torch.int64)

    def raw(self, indices: Tensor | slice) -> Tensor:
        first = torch.arange(len(self))[indices].to(torch.uint8)
        return first[:, None, None, None] + torch.arange(150528).to(torch.uint8).view(3, 224, 224)

    def picture(self, index: int) -> Any: ...

    def where(self, chosen: Tensor, split: str = "") -> "Formula":
        return self

    def to(self, device: torch.device | str) -> "Formula":
        return self


def main() -> None:
    """Print the table, or the peak of this process in bytes."""
    options = tyro.cli(Options)
    if options.side != "both":
        _run(options)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    plain, ours = (_measured(options, side) / MIB for side in ("pass", "certify"))
    batch = 4 * options.batch * 150528 / MIB
    print(f"{options.arch}, batch of {options.batch}: {batch:.1f} MiB; {options.images} images of 224 x 224")
    print(f"a process with one forward pass of the batch: {plain:.0f} MiB")
    print(f"certification: {ours:.0f} MiB, {ours - plain:+.0f} (wanted: +64 at most)")


def _run(options: Options) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build(options.arch, IMAGENET).eval() if options.arch != "small" else _small()
    certify(Constant(), torch.zeros(1, 1, 4, 4), FEW, seed=0, batch_size=2)  # the kernels
    if options.side == "pass":
        batch = torch.rand(options.batch, 3, 224, 224)
        batch = batch.contiguous(memory_format=faster_format(network, batch[:2]))
        with torch.inference_mode():
            network(batch)
        return
    data, task = Formula(options.images), Certification(FEW, "m", "formula")
    with tempfile.TemporaryDirectory() as folder:
        open_certification(task, Path(folder) / "c", data, "formula")
        settings: dict[str, Any] = {"identity": "m", "batch_size": options.batch, "visible": False}
        certify_share(task, network, data, Path(folder) / "c", **settings)


def _small() -> nn.Module:
    layers = nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1000)
    return nn.Sequential(*layers).eval()


class Constant(nn.Module):
    """Class 0, always."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


def _measured(options: Options, side: str) -> int:
    told = [f"--{name}={getattr(options, name)}" for name in ("arch", "batch", "images")]
    command = [sys.executable, __file__, f"--side={side}", *told]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
