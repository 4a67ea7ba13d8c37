"""Train, certify and report on real digits in a few minutes, without a network or a GPU."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

RECIPE = "gaussian-mnist-5k-0.25"
SHOWN = 8


@dataclass
class Options:
    """Train a small convolutional network with Gaussian noise on 4,000 MNIST images, certify held-out ones, report."""

    runs: Path = Path("runs")
    """Folder of all runs."""
    examples: int = 200
    """Held-out images to certify, of 1,000."""
    n: int = 10_000
    """Noisy samples per image."""


def main(args: list[str]) -> None:
    """holdfast demo [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast demo")
    console = Console(soft_wrap=True, highlight=False)
    console.print("1. Train on 4,000 digits with Gaussian noise of sigma 0.25.")
    run = _train(options)
    console.print(f"\n2. Certify {options.examples} held-out digits: {options.n:,} noisy copies of each.")
    folder = _certify(options, run)
    console.print("\n3. Report.")
    _report(folder)
    console.print(NEXT.format(run=run, runs=options.runs))


NEXT = """
Read it so: certified accuracy 90 % at radius 0.25 means that for 90 % of the images the smoothed classifier is right,
and provably stays right under every change of the image with l2 norm below 0.25.

Try next:
  holdfast certify {run} --n 100000          ten times the samples: larger radii
  holdfast report {runs}/*                     runs side by side
  holdfast train gaussian-mnist-5k-0.25 --sigma 0.5   more noise: larger radii, fewer right answers
  holdfast list                              what else there is"""


def _train(options: Options) -> Path:
    from ..registry import recipe
    from ..training import train

    return train(recipe(RECIPE), RECIPE, options.runs)


def _certify(options: Options, run: Path) -> Path:
    from ..certification import Certification, certify_dataset, open_certification
    from ..data import load
    from ..loading import load as load_model
    from ..loading import model_hash, recipe_of
    from ..machine import choose

    recipe, model = recipe_of(run), load_model(run)
    certifier = recipe.method.certifier().replace(n=options.n)
    task = Certification(certifier, model_hash(model), recipe.dataset, limit=options.examples)
    data = load(recipe.dataset, task.split)
    folder = run / f"certify-{task.fingerprint()}"
    open_certification(task, folder, len(data), run.name)
    certify_dataset(task, model, data, folder, device=choose("auto"))
    return folder


def _report(folder: Path) -> None:
    from .. import store
    from ..certification import Certification
    from ..data import load
    from ..report.command import report
    from ..report.examples import examples_figure
    from ..smoothing.sampling import first_noise

    task = Certification.from_dict(store.read_run(folder)["certification"])
    records = store.read_records(folder)[:SHOWN]
    images = load(task.dataset, task.split).pixels(slice(0, len(records)))
    noise = first_noise(images, [task.seed_of(record.index) for record in records])
    sigma = getattr(task.certifier, "sigma", 0.0)
    report([folder])
    examples_figure(images.numpy(), (images + sigma * noise).numpy(), records, folder / "examples.png")
