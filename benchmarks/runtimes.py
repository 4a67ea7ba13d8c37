"""What runs a classifier fastest: its layers, its program, that program compiled by torch, or by onnxruntime.

    python benchmarks/runtimes.py                       # noisy samples per second of the processor, side by side
    python benchmarks/runtimes.py --archs resnet20 --rounds 9

The sides take turns, round by round, and the medians of processor seconds are compared; what `certify` does besides the
forward pass is in the numbers. `votes` counts noisy rows, of 1,024, whose class is not that of the layers.
"""

import time
from dataclasses import dataclass
from statistics import median

import torch
import tyro
from certification import CIFAR, MNIST

from holdfast import Gaussian
from holdfast.certification.runtime import RUNTIMES, faster_format, in_runtime
from holdfast.core.certifier import Seed
from holdfast.nn.stored import captured, network_of
from holdfast.nn.zoo import build


@dataclass
class Options:
    """Benchmark of runtimes."""

    archs: tuple[str, ...] = ("lenet", "resnet20", "resnet110")
    runtimes: tuple[str, ...] = ("layers", *RUNTIMES)
    rounds: int = 5
    batch_size: int = 64
    seconds: float = 2.0
    """Of the processor, for one turn."""


def main() -> None:
    """Print a line for each architecture and runtime."""
    options = tyro.cli(Options)
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, batch size {options.batch_size}, rounds {options.rounds}")
    for arch in options.archs:
        _compare(arch, options)


def _compare(arch: str, options: Options) -> None:
    info = MNIST if arch == "lenet" else CIFAR
    layers = build(arch, info).eval()
    program = network_of(captured(layers, info.shape))
    rows = torch.rand(2, *info.shape)
    memory = {model: faster_format(model, rows) for model in (layers, program)}[program]
    image = rows[:1].contiguous(memory_format=memory)
    sides: dict[str, tuple[torch.nn.Module, torch.Tensor]] = {}
    made: dict[str, float] = {}
    for name in options.runtimes:
        started = time.process_time()
        model = layers if name == "layers" else in_runtime(program, name, image, options.batch_size)
        made[name] = time.process_time() - started
        sides[name] = model, image.contiguous() if name == "onnxruntime" else image
    probe = torch.rand(1024, *info.shape).contiguous(memory_format=memory)
    with torch.inference_mode():
        answers = {
            name: torch.cat([m(part) for part in probe.split(options.batch_size)]) for name, (m, _) in sides.items()
        }
    first = options.runtimes[0]
    once = _seconds(*sides[first], options.batch_size, 4 * options.batch_size)
    n = options.batch_size * max(1, round(4 * options.seconds / once))
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            found[name].append(n / _seconds(*side, options.batch_size, n))
    for name, rates in found.items():
        moved = int((answers[name].argmax(1) != answers[first].argmax(1)).sum())
        same = "same bits" if torch.equal(answers[name], answers[first]) else f"votes {moved}"
        ratio = median(one / other for one, other in zip(rates, found[first], strict=True))
        print(
            f"{arch:10} {name:12} {median(rates):9,.0f} / s {ratio:7.3f}  made in {made[name]:5.1f} s  {same}",
            flush=True,
        )


@torch.inference_mode()
def _seconds(model: torch.nn.Module, image: torch.Tensor, size: int, n: int) -> float:
    """Of the processor, to certify one image with n samples."""
    started = time.process_time()
    list(Gaussian(0.25, n0=size, n=n).certify_batch(model, image, [Seed(0, 0)], size))
    return time.process_time() - started


if __name__ == "__main__":
    main()
