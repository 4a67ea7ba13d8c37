"""A classifier that knows no noise, certified as it is and behind a denoiser that is trained here.

    python benchmarks/denoised.py cifar10 --data-dir DATA --runs runs --epochs 3 --precision bf16-mixed
    python benchmarks/denoised.py cifar10 --data-dir DATA --model runs/standard-cifar10-... --denoiser runs/denoise-...

Without --model the classifier is a user's: docs/plain_classifier.py trains it in plain PyTorch and writes ONNX. Both
are certified at the same images with the same settings, which makes the comparison paired. Killed and called again, it
goes on.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import nn

from holdfast import AtRadius, CertifiedRun
from holdfast.certification.run import prepare
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


def compared(plain: CertifiedRun, denoised: CertifiedRun) -> None:
    """Certified accuracies at the same images, and a sign test on those that only one of them certifies."""
    for radius in RADII:
        one, two = plain.reaches(radius), denoised.reaches(radius)
        gained, lost = int((two & ~one).sum()), int((one & ~two).sum())
        p = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
        print(
            f"radius {radius}: {100 * one.mean():.1f} % as it is, {100 * two.mean():.1f} % behind the denoiser "
            f"(of {len(one)}; only there {gained}, only before {lost}, p = {p:.1g})"
        )
    print(f"noise samples: {plain.samples:,} as it is, {denoised.samples:,} behind the denoiser")


@torch.inference_mode()
def cost(models: list[nn.Module], x: torch.Tensor, rounds: int = 5) -> list[float]:
    """Milliseconds of the processor for a noise sample, of each in turns; the least of the rounds."""
    found: list[list[float]] = [[] for _ in models]
    for _ in range(rounds + 1):
        for model, times in zip(models, found, strict=True):
            started = time.process_time()
            model(x)
            times.append(1e3 * (time.process_time() - started) / len(x))
    return [min(times[1:]) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=["mnist", "cifar10"])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--model", help="what --model of `holdfast certify` takes; default: a user's, trained here")
    parser.add_argument("--denoiser", help="a run folder; default: trained here")
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
    denoiser = options.denoiser or a_denoiser(options, model)
    sources = Source(model), Source(model, denoiser=denoiser, sigma=options.sigma)
    compared(*(certified(source, options) for source in sources))
    x, _ = load(options.dataset, "test", options.data_dir).batch(torch.arange(64))
    plain, behind = cost([source.load() for source in sources], x)
    print(f"a noise sample: {plain:.2f} ms as it is, {behind:.2f} ms behind the denoiser, of the processor")


if __name__ == "__main__":
    main()
