"""What Lipschitz training and sound bounds cost.

    python benchmarks/lipschitz.py step                      # EMMA beside plain cross-entropy, same network and batch
    python benchmarks/lipschitz.py seconds --arch gloro-2c2f # seconds per training step, to plan a run
    python benchmarks/lipschitz.py bound --arch liresnet-12x512  # seconds until every step has a proven bound

Ratios are measured side by side: the two sides take turns, round by round, and the medians are compared.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import timing
import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.bounds import l2, norms
from holdfast.bounds.affine import IDENTITY, Bound
from holdfast.bounds.steps import Step, Steps
from holdfast.core.recipe import DataInfo
from holdfast.methods.emma import Emma
from holdfast.methods.gloro import Gloro
from holdfast.nn.zoo import build
from holdfast.optim import LookaheadNAdam
from holdfast.program import capture

MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))
CIFAR = DataInfo("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@dataclass
class Options:
    """Benchmarks of Lipschitz networks."""

    what: tyro.conf.Positional[str]
    """step, seconds or bound."""
    arch: str = "liresnet-small"
    batch_size: int = 256
    rounds: int = 5
    """Rounds in which the sides take turns."""
    device: str = "cpu"


def main() -> None:
    """Run the benchmark that is asked for and print its table."""
    options = tyro.cli(Options)
    torch.manual_seed(0)
    {"step": step, "seconds": seconds, "bound": bound}[options.what](options)


def step(options: Options) -> None:
    """A step with EMMA, power iteration included, over a step with cross-entropy and none."""
    data = _data(options.arch)
    plain = _stepper(options, data, lambda model, x, y: cross_entropy(model(x), y))
    emma = _stepper(options, data, lambda model, x, y: Emma().loss(model, x, y, 0.5))
    base, ours = timing.seconds(plain, emma, rounds=options.rounds, device=options.device)
    print(f"{'':>16} seconds per step")
    for name, value in (("cross-entropy", base), ("EMMA", ours)):
        print(f"{name:>16} {value:.4f}")
    print(f"{'ratio':>16} {ours / base:.3f}")


def seconds(options: Options) -> None:
    """Seconds of one training step by the method that the architecture is published with."""
    data = _data(options.arch)
    method = Gloro(0.3) if options.arch.startswith("gloro") else Emma()
    train = _stepper(options, data, lambda model, x, y: method.loss(model, x, y, 0.5))
    (found,) = timing.seconds(train, rounds=options.rounds, device=options.device)
    threads = torch.get_num_threads()
    print(f"{options.arch}: {found:.4f} seconds per step of {options.batch_size} images, threads: {threads}")


def bound(options: Options) -> None:
    """Seconds to prove a bound on every step of the program, by the clock and of the processor, and the bounds."""
    data = _data(options.arch)
    steps = Steps(capture(build(options.arch, data).eval(), data.shape).to(torch.device(options.device)))
    norms._KNOWN.clear()  # norms that were computed before are kept, here and on disk, and would take no time
    with (
        tempfile.TemporaryDirectory() as nothing,
        patch.dict(os.environ, XDG_CACHE_HOME=nothing),
        torch.device(options.device),
    ):
        _bound(options, steps)


def _bound(options: Options, steps: Steps) -> None:
    def timed(step: Step, *values: Bound) -> Bound:
        started = _clocks(options)
        found = l2.RULES[step.op](step, *values)
        spent = _clocks(options) - started
        if spent[0] > 0.01:
            factor = found.norm / max(value.norm for value in values)
            print(f"| {step.node} | {spent[0]:.2f} | {spent[1]:.2f} | {factor:.6f} |", flush=True)
        return found

    print("| step | seconds | of the processor | bound |\n|---|---|---|---|")
    started = _clocks(options)
    found = steps.follow(IDENTITY, dict.fromkeys(l2.RULES, timed))
    spent = _clocks(options) - started
    print(f"| all of {options.arch} | {spent[0]:.2f} | {spent[1]:.2f} | {found.norm:.6f} |")


def _clocks(options: Options) -> np.ndarray:
    if options.device != "cpu":
        torch.accelerator.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def _stepper(
    options: Options, data: DataInfo, loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
) -> Callable[[], None]:
    model = build(options.arch, data).to(options.device).train()
    optimizer = LookaheadNAdam().build(model)
    x = torch.rand(options.batch_size, *data.shape, device=options.device)
    y = torch.randint(0, data.classes, (options.batch_size,), device=options.device)

    def take() -> None:
        optimizer.zero_grad()
        loss(model, x, y).backward()
        optimizer.step()

    return take


def _data(arch: str) -> DataInfo:
    return MNIST if arch in ("gloro-2c2f", "gloro-4c3f", "gloro-mlp-8x128") else CIFAR


if __name__ == "__main__":
    main()
