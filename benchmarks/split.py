"""What certifying a classifier in two halves costs, beside its right half alone.

    python benchmarks/split.py            # samples per second
    python benchmarks/split.py --proof    # and what the proof of the left half takes, once for an image
    python benchmarks/split.py --device cuda

Sampling is the certifier of the right half on ready features, with its noise and counting. The sides take turns as in
`certification.py throughput`.
"""

from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import tyro
from certification import beside_bare
from timing import busy, machine, ratio, seconds, turns

from holdfast import Gaussian, Split, certify
from holdfast.core.certifier import Seed
from holdfast.core.recipe import DataInfo
from holdfast.machine import kept_memory
from holdfast.nn.split import SplitClassifier
from holdfast.nn.zoo import build
from holdfast.smoothing.noise import Batch
from holdfast.smoothing.votes import batch_like

MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))
CIFAR = DataInfo("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CASES = (
    ("lenet@conv1", MNIST, 64, 3_200),
    ("lenet@pool1", MNIST, 64, 3_200),
    ("lenet@conv2", MNIST, 64, 12_800),
    ("resnet110@conv1", CIFAR, 64, 640),
)
"""Architecture, data, batch size on a CPU, samples of one image."""


@dataclass
class Options:
    """Benchmarks of certification in two halves."""

    device: str = "cpu"
    rounds: int = 15
    """Rounds in which the sides take turns."""
    proof: bool = False
    """Also the time of a whole certificate, which is mostly the proof of the left half."""
    cases: int = 3
    """How many of the cases; the last one is slow on a CPU."""


def main() -> None:
    """Print the table."""
    options = tyro.cli(Options)
    print(machine(options.device))
    print("| model | bare right half/s | sampling/s | ratio | numbers | noise, ns a number | its share |")
    print("|---|---|---|---|---|---|---|")
    for arch, data, batch, n in CASES[: options.cases]:
        torch.manual_seed(0)
        model = build(arch, data).eval().to(options.device).to(memory_format=torch.channels_last)  # pyright: ignore
        assert isinstance(model, SplitClassifier)
        _row(options, arch, model, torch.rand(1, *data.shape, device=options.device), batch, n)


@torch.inference_mode()
def _row(options: Options, arch: str, model: SplitClassifier, image: torch.Tensor, batch: int, n: int) -> None:
    batch = batch if options.device == "cpu" else 1024
    batches = n // batch if options.device == "cpu" else 50
    split = Split(Gaussian(sigma=0.5))
    features, right = split.smoothed_part(model, image.contiguous(memory_format=torch.channels_last))
    stream = split.drawing.noise.stream(features[0], 0.5, Seed(0, 0))
    noisy = Batch(batch_like(features, batch))

    def noise() -> None:
        for _ in range(batches):
            stream.write(noisy, 0, batch)

    sides = [*beside_bare(right, features, split.drawing, batch, batches), noise]
    with kept_memory(image.device):
        bare, ours, drawing = turns(*sides, rounds=options.rounds, device=options.device, clock=busy(options.device))
    rates = " | ".join(f"{batch * batches / median(times):,.0f}" for times in (bare, ours))
    numbers = features.numel()
    noise_told = f"{numbers:,} | {1e9 * median(drawing) / (batch * batches * numbers):.2f} | {ratio(drawing, ours):.2f}"
    print(f"| {arch} | {rates} | {ratio(bare, ours):.3f} | {noise_told} |", flush=True)
    if not options.proof:
        return
    whole = partial(certify, model, image, split.replace(inner=Gaussian(0.5, n0=batch, n=batch)), batch_size=batch)
    print(f"| {arch}: proof of one image | {seconds(whole, rounds=1, clock=busy('cpu'))[0]:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
