"""What certification costs beside the bare forward pass, beside another library, and in reduced precision.

    python benchmarks/certification.py throughput            # samples per second over that of the bare model
    python benchmarks/certification.py art RUN               # beside adversarial-robustness-toolbox, same model
    python benchmarks/certification.py precision RUN         # float32 beside bfloat16
    python benchmarks/certification.py sequential RUN        # time per sample: fixed n beside at-radius and adaptive

Ratios are measured side by side: the sides take turns, round by round. `throughput` counts seconds of the processor on
a CPU and prints medians of the ratios of neighboring turns, which other work on the machine moves least.
`art` needs: pip install adversarial-robustness-toolbox statsmodels packaging
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from timing import busy, machine, ratio, seconds, turns
from torch import nn

from holdfast import Gaussian, load
from holdfast.certification.images import certify
from holdfast.certification.runtime import default_batch_size, faster_format, in_precision
from holdfast.certifiers.adaptive import Adaptive
from holdfast.certifiers.at_radius import AtRadius
from holdfast.core.certifier import Certifier, Classifier, Seed
from holdfast.core.recipe import DataInfo
from holdfast.data import load as load_data
from holdfast.machine import kept_memory
from holdfast.nn.zoo import build
from holdfast.opening import recipe_of
from holdfast.smoothing.certifier import SamplingCertifier
from holdfast.smoothing.votes import batch_like

MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))
CIFAR = DataInfo("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = DataInfo("imagenet", (3, 224, 224), 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CASES = {"lenet": (MNIST, 40), "resnet20": (CIFAR, 8), "resnet110": (CIFAR, 40), "resnet50": (IMAGENET, 20)}
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
    rounds: int = 15
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
    """Certification, with its noise and counting, over the forward pass on one ready-made noisy batch.

    The batch has the memory format and precision of certification, and the memory of both is kept. What comes once for
    a run, the checks of the model, is not in it.
    """
    print(machine(options.device))
    print("| model | batch | bare images/s | certify images/s | ratio |\n|---|---|---|---|---|")
    for arch in options.archs:
        data, batches = CASES[arch][0], options.batches or CASES[arch][1]
        model = build(arch, data).to(options.device).eval()
        memory = faster_format(model, torch.rand(2, *data.shape, device=options.device))
        size = default_batch_size(torch.device(options.device))
        images = torch.randint(0, 256, (1, *data.shape), device=options.device) / 255
        sides = beside_bare(model, images.contiguous(memory_format=memory), Gaussian(0.25), size, batches)
        with kept_memory(images.device):
            bare, ours = turns(*sides, rounds=options.rounds, device=options.device, clock=busy(options.device))
        rates = " | ".join(f"{size * batches / median(times):,.0f}" for times in (bare, ours))
        print(f"| {arch} | {size} | {rates} | {ratio(bare, ours):.3f} |", flush=True)


def beside_bare(
    model: Classifier, row: torch.Tensor, certifier: SamplingCertifier, size: int, batches: int
) -> list[Callable[[], None]]:
    """So many forward passes; and certification of one row with as many."""
    certifier = certifier.replace(n0=size, n=size * (batches - 1))
    noisy = batch_like(row, size)
    certifier.noise.stream(row[0], certifier.sigma, Seed(0, 0)).fill(noisy)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(batches):
            model(noisy)

    @torch.inference_mode()
    def ours() -> None:
        list(certifier.certify_batch(model, row, [Seed(0, 0)], size))

    return [bare, ours]


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
