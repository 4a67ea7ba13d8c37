"""What certifying a classifier in two halves costs, beside its right half alone, and what it saves.

    python benchmarks/split.py            # samples per second, and what running the left half once saves
    python benchmarks/split.py --device cuda

Sampling is the certifier of the right half on ready features; the proof bounds the left half, once for an image.
The sides take turns, round by round, and the medians are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from timing import seconds

from holdfast import Gaussian, Split, certify
from holdfast.core.recipe import DataInfo
from holdfast.nn.split import SplitClassifier
from holdfast.nn.zoo import build

MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))
CIFAR = DataInfo("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CASES = (
    ("lenet@conv1", MNIST, 64, 20_000),
    ("lenet@pool1", MNIST, 64, 20_000),
    ("lenet@conv2", MNIST, 64, 20_000),
    ("resnet110@conv1", CIFAR, 64, 640),
)
"""Architecture, data, batch size on a CPU, samples of one image."""


@dataclass
class Options:
    """Benchmarks of certification in two halves."""

    device: str = "cpu"
    rounds: int = 5
    """Rounds in which the sides take turns."""
    cases: int = 3
    """How many of the cases; the last one is slow on a CPU."""


def main() -> None:
    """Print the table."""
    options = tyro.cli(Options)
    print("| model | bare right half/s | sampling/s | ratio | seconds of proof | left half: share of a forward pass |")
    print("|---|---|---|---|---|---|")
    for arch, data, batch, n in CASES[: options.cases]:
        torch.manual_seed(0)
        model = build(arch, data).eval().to(options.device).to(memory_format=torch.channels_last)  # pyright: ignore
        assert isinstance(model, SplitClassifier)
        _row(options, arch, model, torch.rand(1, *data.shape, device=options.device), batch, n)


@torch.inference_mode()
def _row(options: Options, arch: str, model: SplitClassifier, image: torch.Tensor, batch: int, n: int) -> None:
    batch = batch if options.device == "cpu" else 1024
    n = n if options.device == "cpu" else 50 * batch
    gaussian = Gaussian(sigma=0.5, n0=100, n=n)
    images, batches = image.repeat(batch, 1, 1, 1), n // batch
    features = model(images, "left")

    def bare(part: Callable[[], torch.Tensor]) -> Callable[[], None]:
        return lambda: [part() for _ in range(batches)] and None

    right, whole, sampled, certified = seconds(
        bare(lambda: model(features, "right")),
        bare(lambda: model(images)),
        lambda: certify(model.right, features[:1], Split(gaussian).drawing, batch_size=batch),
        lambda: certify(model, image, Split(gaussian, bisections=12), batch_size=batch),
        rounds=options.rounds,
        device=options.device,
    )
    bare_rate, rate, proof = batches * batch / right, (n + 100) / sampled, certified - sampled
    saved = 1 - right / whole
    print(
        f"| {arch} | {bare_rate:,.0f} | {rate:,.0f} | {rate / bare_rate:.2f} | {proof:.2f} | {saved:.2f} |", flush=True
    )


if __name__ == "__main__":
    main()
