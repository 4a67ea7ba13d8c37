"""How fast the l-inf-distance operation is, and how much memory a training step takes.

    python benchmarks/linf.py kernels                # pairs per second beside matmul, torch.cdist and torch.compile
    python benchmarks/linf.py memory                 # largest memory of a training step of the published MNIST net
    python benchmarks/linf.py epoch --arch linf-dist-1024x3   # seconds per epoch of MNIST at each exponent

A pair is one input of one example beside one weight: batch * inputs * outputs of them in a layer. Ratios are measured
side by side: all sides take turns, round by round, and the medians are compared. On a CPU seconds are those of the
processor, summed over threads, so that other work on the machine counts little.
"""

import math
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from holdfast.core.recipe import DataInfo
from holdfast.methods.linf_dist import LInfDist, LpAdam
from holdfast.nn.linf import linf_net
from holdfast.nn.linf.layers import LADDER
from holdfast.nn.zoo import build
from holdfast.ops.distance import _dist_backward, dist

MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))
SIZES = [(784, 1024), (5120, 1280)]
"""(inputs, outputs) of the layers."""


@dataclass
class Options:
    """Benchmarks of l-inf-distance nets."""

    what: tyro.conf.Positional[str]
    """kernels, memory or epoch."""
    arch: str = "linf-dist-5120x5"
    batch_size: int = 512
    rounds: int = 3
    """Rounds in which the sides take turns."""
    device: str = "cpu"


@dataclass(frozen=True)
class Side:
    """One of the computations that are compared."""

    name: str
    run: Callable[[Tensor, Tensor], object]
    share: float = 1.0
    """Share of the batch that it gets: less for what is slow."""


def main() -> None:
    """Run the benchmark that is asked for and print its table."""
    options = tyro.cli(Options)
    torch.manual_seed(0)
    {"kernels": kernels, "memory": memory, "epoch": epoch}[options.what](options)


def kernels(options: Options) -> None:
    """Pairs per second of every side, and their ratios to those of a float32 matrix product."""
    for inputs, outputs in SIZES:
        x = torch.randn(options.batch_size, inputs, device=options.device)
        w = torch.randn(outputs, inputs, device=options.device)
        rates = _rates(options, x, w, _sides(x, w, options.device))
        print(f"\n{inputs} -> {outputs}, batch {options.batch_size}, {torch.get_num_threads()} threads")
        print(f"{'':>24} {'Gpair/s':>9} {'/ matmul':>9}")
        for name, rate in rates.items():
            print(f"{name:>24} {rate / 1e9:9.2f} {rate / rates['matmul']:9.3f}")
        for p in ("inf", "8"):
            for other in ("cdist", "compiled broadcast"):
                print(f"ours / {other}, p = {p}: {rates[f'ours, p = {p}'] / rates[f'{other}, p = {p}']:.1f}")


def _sides(x: Tensor, w: Tensor, device: str) -> list[Side]:
    y, grad = dist(x, w, 8), torch.randn(len(x), len(w), device=device)
    farthest = dist(x, w)
    slow = 1 / 16 if device == "cpu" else 1.0
    largest = torch.compile(lambda x, w: (x[:, None] - w).abs().amax(-1))
    eighth = torch.compile(lambda x, w: (x[:, None] - w).pow(8).sum(-1).pow(1 / 8))
    return [
        Side("matmul", lambda x, w: x @ w.T),
        Side("ours, p = inf", dist),
        Side("ours, p = 8", lambda x, w: dist(x, w, 8)),
        Side("ours, p = 64", lambda x, w: dist(x, w, 64)),
        Side("ours, p = 8, backward", lambda x, w: _dist_backward(grad, x, w, y, 8.0, "auto")),
        Side("ours, p = inf, backward", lambda x, w: _dist_backward(grad, x, w, farthest, math.inf, "auto")),
        Side("cdist, p = inf", lambda x, w: torch.cdist(x, w, math.inf), slow),
        Side("cdist, p = 8", lambda x, w: torch.cdist(x, w, 8), slow),
        Side("compiled broadcast, p = inf", largest, slow * 2),
        Side("compiled broadcast, p = 8", eighth, slow * 2),
    ]


def _rates(options: Options, x: Tensor, w: Tensor, sides: list[Side]) -> dict[str, float]:
    """Median pairs per second, after a round that does not count; on a CPU per second of the processor."""
    clock = _clock(options.device)
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(options.rounds + 1):
        for side in sides:
            part = x[: round(len(x) * side.share)]
            started = clock()
            side.run(part, w)
            if options.device != "cpu":
                torch.accelerator.synchronize()
            found[side.name].append(part.numel() * len(w) / (clock() - started))
    return {name: statistics.median(rates[1:]) for name, rates in found.items()}


def _clock(device: str) -> Callable[[], float]:
    return time.process_time if device == "cpu" else time.perf_counter


def memory(options: Options) -> None:
    """The largest memory of a training step at every kind of exponent: of the process on a CPU, of tensors on a GPU."""
    step, _ = _stepper(options)
    for t in (0.1, 0.7, 0.95):
        step(t)
    if options.device == "cpu":
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        largest = torch.cuda.max_memory_allocated()
    print(f"{options.arch}, batch {options.batch_size}: {largest / 2**30:.2f} GiB")


def epoch(options: Options) -> None:
    """Seconds for 60,000 images at p = 8, at a few exponents of the ladder, and at p = inf."""
    step, schedule = _stepper(options)
    clock = _clock(options.device)
    for p in (8.0, 16.0, 64.0, LADDER[-1], math.inf):
        t = next(i / 1000 for i in range(1000) if schedule.exponent(i / 1000) == p)
        times = []
        for _ in range(options.rounds + 1):
            started = clock()
            step(t)
            times.append(clock() - started)
        print(f"p = {p:>4g}: {statistics.median(times[1:]) * 60_000 / options.batch_size:6.1f} s per epoch")


def _stepper(options: Options):
    """A training step as a function of progress, on random images, and the schedule of its exponent."""
    network = linf_net(build(options.arch, MNIST)).to(options.device)
    method, optimizer = LInfDist(), LpAdam().build(network)
    x = torch.rand(options.batch_size, *MNIST.shape, device=options.device)
    y = torch.randint(0, MNIST.classes, (options.batch_size,), device=options.device)

    def step(t: float) -> None:
        loss = method.loss(network, x, y, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if options.device != "cpu":
            torch.accelerator.synchronize()

    return step, method.schedule


if __name__ == "__main__":
    main()
