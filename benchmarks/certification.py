"""What certification costs beside the bare forward pass, beside another library, and in reduced precision.

    python benchmarks/certification.py throughput            # samples per second over that of the bare model
    python benchmarks/certification.py art RUN               # beside adversarial-robustness-toolbox, same model
    python benchmarks/certification.py precision RUN         # float32 beside bfloat16
    python benchmarks/certification.py sequential RUN        # time per sample: fixed n beside at-radius and adaptive

Ratios are measured side by side: the two sides take turns, round by round, and the medians are compared.
`art` needs: pip install adversarial-robustness-toolbox statsmodels packaging
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from timing import seconds
from torch import nn

from holdfast import Gaussian, load
from holdfast.certification.driver import certify
from holdfast.certification.precision import default_batch_size, in_precision
from holdfast.certifiers.adaptive import Adaptive
from holdfast.certifiers.at_radius import AtRadius
from holdfast.core.certifier import Certifier
from holdfast.core.recipe import DataInfo
from holdfast.data import load as load_data
from holdfast.nn.zoo import build
from holdfast.opening import recipe_of

MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))
CIFAR = DataInfo("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = DataInfo("imagenet", (3, 224, 224), 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CASES = {"lenet": (MNIST, 80), "resnet20": (CIFAR, 16), "resnet110": (CIFAR, 40), "resnet50": (IMAGENET, 20)}
"""Data and batches of a round of throughput, on random images."""


@dataclass
class Options:
    """Benchmarks of certification."""

    what: tyro.conf.Positional[str]
    """throughput, art, precision or sequential."""
    run: tyro.conf.Positional[Path | None] = None
    """A trained run, for art and precision."""
    device: str = "cpu"
    archs: tuple[str, ...] = ("lenet", "resnet20")
    """Of throughput: lenet, resnet20, resnet110, resnet50."""
    batches: int | None = None
    """Of a round of throughput, instead of as many as an architecture usually gets."""
    rounds: int = 7
    """Rounds in which the sides take turns."""
    images: int = 8
    """Images to certify in one round of art or precision."""
    n: int = 10_000
    """Samples per image in art and precision."""
    data_dir: Path | None = None


def main() -> None:
    """Run the benchmark that is asked for and print its table."""
    options = tyro.cli(Options)
    torch.manual_seed(0)
    {"throughput": throughput, "art": beside_art, "precision": precision, "sequential": sequential}[options.what](
        options
    )


def throughput(options: Options) -> None:
    """Certification, with its noise and counting, over the forward pass on ready-made noisy batches."""
    print("| model | device | batch | bare images/s | certify images/s | ratio |\n|---|---|---|---|---|---|")
    for arch in options.archs:
        data, batches = CASES[arch][0], options.batches or CASES[arch][1]
        model = build(arch, data).to(options.device).eval()
        model.to(memory_format=torch.channels_last)
        size = default_batch_size(torch.device(options.device))
        certifier = Gaussian(0.25, n=size * batches // 4 - 100)
        images = torch.rand(4, *data.shape, device=options.device)
        noisy = torch.rand(size, *data.shape, device=options.device)

        @torch.inference_mode()
        def bare(model: nn.Module = model, noisy: torch.Tensor = noisy, batches: int = batches) -> None:
            for _ in range(batches):
                model(noisy)

        plain, ours = seconds(
            bare,
            lambda m=model, i=images, c=certifier: certify(m, i, c),
            rounds=options.rounds,
            device=options.device,
        )
        count = size * batches
        row = f"{count / plain:,.0f} | {count / ours:,.0f} | {plain / ours:.2f}"
        print(f"| {arch} | {options.device} | {size} | {row} |", flush=True)


def trained(options: Options) -> tuple[nn.Module, torch.Tensor, float]:
    """The model of the run, test images spread over the set, and its sigma."""
    if options.run is None:
        sys.exit("name a trained run")
    recipe = recipe_of(options.run)
    data = load_data(recipe.dataset, "test", options.data_dir)
    model = load(options.run).to(options.device)
    indices = torch.arange(options.images) * (len(data) // options.images)
    return model, data.pixels(indices).to(options.device), recipe.method.certifier().sigma  # pyright: ignore


def beside_art(options: Options) -> None:
    """The same model, images, n0, n, alpha and batch size."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing  # pyright: ignore

    model, x, sigma = trained(options)
    size = default_batch_size(torch.device(options.device))
    certifier = Gaussian(sigma, n0=100, n=options.n)
    theirs = PyTorchRandomizedSmoothing(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=10,
        sample_size=certifier.n0,
        scale=sigma,
        alpha=certifier.alpha,
        device_type=options.device,
    )
    found: dict[str, list] = {}

    def ours() -> None:
        found["ours"] = [(c.prediction, c.radius) for c in certify(model, x, certifier, batch_size=size)]

    def art() -> None:
        labels, radii = theirs.certify(x.cpu().numpy(), n=certifier.n, batch_size=size)
        found["art"] = [(int(label) if label >= 0 else None, float(r)) for label, r in zip(labels, radii, strict=True)]

    fast, slow = seconds(ours, art, rounds=options.rounds, device=options.device)
    pairs = list(zip(found["ours"], found["art"], strict=True))
    same = sum(a[0] == b[0] for a, b in pairs)
    apart = max((abs(a[1] - b[1]) for a, b in pairs if a[0] == b[0] and a[0] is not None), default=0.0)
    print("| model | images | n | batch | ours s | art s | art / ours | same class | largest difference of radii |")
    print("|---|---|---|---|---|---|---|---|---|")
    row = f"{fast:.2f} | {slow:.2f} | {slow / fast:.2f} | {same} of {len(pairs)} | {apart:.4f}"
    print(f"| {options.run} | {len(pairs)} | {certifier.n} | {size} | {row} |")


def precision(options: Options) -> None:
    """float32 beside bfloat16: time, and the mean radius of what each proves."""
    _, x, sigma = trained(options)
    certifier = Gaussian(sigma, n=options.n)
    models = [in_precision(trained(options)[0], name) for name in ("32-true", "bf16-true")]
    found: list[list[float]] = [[], []]

    def side(which: int) -> Callable[[], None]:
        def run() -> None:
            found[which] = [certificate.radius for certificate in certify(models[which], x, certifier)]

        return run

    plain, reduced = seconds(side(0), side(1), rounds=options.rounds, device=options.device)
    print("| model | images | n | float32 s | bfloat16 s | speed-up | mean radius float32 | bfloat16 |")
    print("|---|---|---|---|---|---|---|---|")
    row = " | ".join(f"{sum(radii) / len(radii):.4f}" for radii in found)
    print(f"| {options.run} | {len(x)} | {options.n} | {plain:.2f} | {reduced:.2f} | {plain / reduced:.2f} | {row} |")


def sequential(options: Options) -> None:
    """Does time fall with the samples? A sample of a certifier that stops early, beside one of a fixed n."""
    model, x, sigma = trained(options)
    sides: dict[str, tuple[Certifier, torch.Tensor]] = {
        f"fixed n = {options.n}": (Gaussian(sigma, n=options.n), x[: max(1, len(x) // 20)]),
        f"at-radius {sigma}": (AtRadius(sigma, r=(sigma,)), x),
        "adaptive, min-gain 5": (Adaptive(sigma, min_gain=5.0), x),
    }
    samples: dict[str, int] = {}

    def side(name: str) -> Callable[[], None]:
        def run() -> None:
            certifier, images = sides[name]
            samples[name] = sum(c.evidence["samples"] for c in certify(model, images, certifier))

        return run

    times = seconds(*map(side, sides), rounds=options.rounds, device=options.device)
    print("| certifier | images | samples | samples per image | s | s per million samples | over fixed n |")
    print("|---|---|---|---|---|---|---|")
    per = [taken / samples[name] * 1e6 for name, taken in zip(sides, times, strict=True)]
    for name, taken, each in zip(sides, times, per, strict=True):
        count = len(sides[name][1])
        row = f"{samples[name]:,} | {samples[name] / count:,.0f} | {taken:.1f} | {each:.1f} | {each / per[0]:.2f}"
        print(f"| {name} | {count} | {row} |")


if __name__ == "__main__":
    main()
