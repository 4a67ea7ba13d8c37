"""A classifier that knows no noise, certified as it is and behind denoisers, one of which can be trained here.

    python benchmarks/denoised.py cifar10 --data-dir DATA --runs runs --epochs 3 --precision bf16-mixed
    python benchmarks/denoised.py cifar10 --data-dir DATA --model runs/standard-cifar10-... --denoiser runs/denoise-...

Without --model the classifier is a user's: docs/plain_classifier.py trains it in plain PyTorch and writes ONNX. All are
certified at the same images with the same settings, which makes the comparisons paired. Killed and called again, it
goes on.
"""

import argparse
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import nn

from holdfast import AtRadius, CertifiedRun
from holdfast.certification.run import prepare
from holdfast.certification.runtime import prepared
from holdfast.core.registry import RECIPES
from holdfast.data import load
from holdfast.opening import Source
from holdfast.training.launch import Machine
from holdfast.training.loop import train

PLAIN = Path(__file__).parents[1] / "docs" / "plain_classifier.py"
RADII = (0.25, 0.5)


def a_users_classifier(options: argparse.Namespace) -> str:
    """Trained once, by a script that does not know holdfast."""
    file = options.runs / f"cnn-{options.dataset}.onnx"
    if not file.exists():
        subprocess.run([sys.executable, PLAIN, options.dataset, options.data_dir / options.dataset, file], check=True)
    return str(file)


def a_denoiser(options: argparse.Namespace, model: str) -> str:
    """Six layers of 24 channels, trained by the recipe of the data set for few epochs."""
    stability = options.objective == "stability"
    name = f"denoise-{'stability-' if stability else ''}{options.dataset}-{options.sigma:.2f}"
    recipe = RECIPES[name].replace(arch="dncnn-small", epochs=options.epochs, batch_size=128)
    if stability:
        recipe = recipe.replace(method=recipe.method.replace(classifier=model))
    machine = Machine(accelerator="cpu", precision=options.precision, data_dir=options.data_dir)
    return str(train(recipe, name, options.runs, machine, options.init))


def certified(source: Source, options: argparse.Namespace) -> CertifiedRun:
    """As `holdfast certify --model NAME [--denoiser NAME] at-radius --r 0.25 0.5` does."""
    certifier = AtRadius(sigma=options.sigma, r=RADII, n_max=options.n_max)
    where = {"runs": options.runs, "data_dir": options.data_dir, "device": "cpu"}
    job = prepare(source, options.dataset, certifier, every=options.every, **where)
    print(f"\n{job.folder}", *job.look().words(), sep="\n", flush=True)
    job.run()
    return CertifiedRun.open(job.folder)


def compared(first: CertifiedRun, second: CertifiedRun, names: tuple[str, str]) -> None:
    """Certified accuracies at the same images, and a sign test on those that only one of them certifies."""
    for radius in RADII:
        one, two = first.reaches(radius), second.reaches(radius)
        lost, gained = int((one & ~two).sum()), int((two & ~one).sum())
        p = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
        print(
            f"radius {radius}: {100 * one.mean():.1f} % {names[0]}, {100 * two.mean():.1f} % {names[1]} "
            f"(of {len(one)}; only the first {lost}, only the second {gained}, p = {p:.1g})"
        )


@torch.inference_mode()
def cost(models: list[nn.Module], x: torch.Tensor, rounds: int = 5) -> list[float]:
    """Milliseconds of the processor for a noise sample, of each in turns, as it is certified; least of the rounds."""
    found: list[list[float]] = [[] for _ in models]
    ready = [prepared(model, x, x[:3]) for model in models]
    for _ in range(rounds + 1):
        for (model, images), times in zip(ready, found, strict=True):
            started = time.process_time()
            model(images)
            times.append(1e3 * (time.process_time() - started) / len(x))
    return [min(times[1:]) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=["mnist", "cifar10"])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--model", help="what --model of `holdfast certify` takes; default: a user's, trained here")
    parser.add_argument("--denoiser", nargs="+", help="run folders; default: one, trained here")
    parser.add_argument("--objective", choices=["mse", "stability"], default="mse")
    parser.add_argument("--init", type=Path, help="weights that the denoiser starts from")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=1, help="of the denoiser")
    parser.add_argument("--precision", default="32-true", help="of its training; bf16-mixed is faster")
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--n-max", type=int, default=1000)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    model = options.model or a_users_classifier(options)
    denoisers = options.denoiser or [a_denoiser(options, model)]
    names = ["as it is", *(f"behind {Path(name).name}" for name in denoisers)]
    sources = [Source(model), *(Source(model, denoiser=name, sigma=options.sigma) for name in denoisers)]
    runs = [certified(source, options) for source in sources]
    for one, two in combinations(range(len(runs)), 2):
        compared(runs[one], runs[two], (names[one], names[two]))
    print("noise samples:", ", ".join(f"{run.samples:,} {name}" for name, run in zip(names, runs, strict=True)))
    x, _ = load(options.dataset, "test", options.data_dir).batch(torch.arange(64))
    times = cost([source.load() for source in sources], x)
    told = ", ".join(f"{time:.2f} ms {name}" for name, time in zip(names, times, strict=True))
    print(f"a noise sample: {told}, of the processor")


if __name__ == "__main__":
    main()
