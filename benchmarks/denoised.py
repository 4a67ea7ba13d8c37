"""A classifier that knows no noise, certified as it is and behind a denoiser that is trained here.

    python benchmarks/denoised.py FOLDER --data-dir DATA

The classifier is trained by the plain PyTorch of this file, as a user's is, and given to holdfast as a file of weights.
Both are then certified at the same images with the same noise, which makes the comparison paired.
"""

import argparse
import time
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import nn
from torch.nn.functional import cross_entropy

from holdfast import AtRadius, CertifiedRun, Denoised, as_classifier, certify_run
from holdfast.core.registry import RECIPES
from holdfast.data import load
from holdfast.formats.opened import open_denoiser
from holdfast.nn import zoo
from holdfast.training.launch import Machine
from holdfast.training.loop import train

RADII = (0.25, 0.5)


def trained_without_noise(file: Path, data_dir: Path, epochs: int) -> None:
    """LeNet on MNIST, cross-entropy, Adam; no line of holdfast but the architecture."""
    data = load("mnist", "train", data_dir)
    torch.manual_seed(0)
    model = zoo.build("lenet", data.info)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for part in torch.randperm(len(data)).split(128):
            x, y = data.batch(part)
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch} is done", flush=True)
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, file)


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
    for name, run in (("as it is", plain), ("behind the denoiser", denoised)):
        print(f"{name}: {run.samples:,} noise samples")


def seconds_per_sample(model: nn.Module, x: torch.Tensor) -> float:
    with torch.inference_mode():
        model(x)
        started = time.perf_counter()
        for _ in range(5):
            model(x)
    return (time.perf_counter() - started) / 5 / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier")
    parser.add_argument("--denoiser-epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--n-max", type=int, default=1000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    weights = options.folder / "classifier.pt"
    if not weights.exists():
        trained_without_noise(weights, options.data_dir, options.epochs)
    recipe = RECIPES[f"denoise-mnist-{options.sigma:.2f}"].replace(arch="dncnn-small", epochs=options.denoiser_epochs)
    machine = Machine(accelerator="cpu", data_dir=options.data_dir)
    started = time.perf_counter()
    run = train(recipe, "denoiser", options.folder, machine)
    print(f"denoiser: {time.perf_counter() - started:.0f} s", flush=True)
    test = load("mnist", "test", options.data_dir)
    plain = as_classifier("lenet", weights, data=test.info)
    models = {"plain": plain, "denoised": Denoised(open_denoiser(str(run)), plain)}
    certifier = AtRadius(sigma=options.sigma, r=RADII, n_max=options.n_max)
    every = len(test) // options.images
    x, y = test.batch(torch.arange(0, len(test), 10))
    found = {}
    for name, model in models.items():
        with torch.inference_mode():
            right = float((torch.cat([model(part).argmax(1) for part in x.split(100)]) == y).float().mean())
        print(f"{name}: {100 * right:.1f} % of {len(x)} images without noise, ", end="")
        print(f"{1e3 * seconds_per_sample(model, x[:64]):.2f} ms for a noise sample", flush=True)
        settings = {"every": every, "runs": options.folder / name, "device": "cpu", "data_dir": options.data_dir}
        started = time.perf_counter()
        found[name] = certify_run(model, "mnist", certifier, **settings)
        print(f"{name}: certified in {time.perf_counter() - started:.0f} s", flush=True)
    compared(found["plain"], found["denoised"])


if __name__ == "__main__":
    main()
