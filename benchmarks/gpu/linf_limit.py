"""The l-inf-distance kernels beside what the instruction rate of the GPU allows.

    python benchmarks/gpu/linf_limit.py --device cuda

A pair is one input of one example beside one weight. At p = inf it takes two instructions at least (a difference, and a
maximum, which takes absolute values for nothing), at p = 8 four (a difference and three squares; the sum is fused with
the last), and its backward pass, for inputs and for weights, about eight. The limit is
multiprocessors x 128 lanes x clock / instructions.
"""

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

sys.path.append(str(Path(__file__).parents[1]))

from timing import seconds  # in the folder above

from holdfast.ops.distance import _dist_backward, dist

INSTRUCTIONS = {"p = inf": 2, "p = 8": 4, "p = 8, backward": 8}
LANES = 128
WANTED = 0.3


@dataclass
class Options:
    """Layers of l-inf-distance nets."""

    device: str = "cuda"
    batch: int = 512
    sizes: tuple[tuple[int, int], ...] = ((784, 5120), (5120, 5120))
    """(inputs, outputs) of the layers."""
    rounds: int = 5


def main(options: Options) -> None:
    """Print the table."""
    limit = instructions_per_second(options.device)
    print("| layer | what | Gpair/s | limit | share | wanted |\n|---|---|---|---|---|---|")
    for inputs, outputs in options.sizes:
        x = torch.randn(options.batch, inputs, device=options.device)
        w = torch.randn(outputs, inputs, device=options.device)
        y, grad = dist(x, w, 8), torch.randn(options.batch, outputs, device=options.device)
        sides = {
            "p = inf": lambda x=x, w=w: dist(x, w, math.inf),
            "p = 8": lambda x=x, w=w: dist(x, w, 8),
            "p = 8, backward": lambda x=x, w=w, y=y, grad=grad: _dist_backward(grad, x, w, y, 8.0, "auto"),
        }
        times = seconds(*sides.values(), rounds=options.rounds, device=options.device)
        for name, taken in zip(sides, times, strict=True):
            rate = x.numel() * outputs / taken
            floor = limit / INSTRUCTIONS[name] if limit else math.nan
            told = (
                f"{rate / 1e9:,.1f} | {floor / 1e9:,.0f} | {rate / floor:.2f} | {WANTED if name == 'p = inf' else ''}"
            )
            print(f"| {inputs} -> {outputs} | {name} | {told} |", flush=True)


def instructions_per_second(device: str) -> float | None:
    """Of all float32 lanes at the highest clock; None where it is not known."""
    if device != "cuda":
        return None
    asked = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    megahertz = float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0])
    return torch.cuda.get_device_properties(device).multi_processor_count * LANES * megahertz * 1e6


if __name__ == "__main__":
    main(tyro.cli(Options))
