"""Train, certify and report on real digits in a few minutes, without a network or a GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

if TYPE_CHECKING:
    from ..certification.run import Job

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
    job = _certify(options, run)
    console.print("\n3. Report.")
    _report(job)
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
    from ..core.registry import RECIPES
    from ..training.loop import train

    return train(RECIPES[RECIPE], RECIPE, options.runs)


def _certify(options: Options, run: Path) -> "Job":
    """The job, done."""
    from ..certification.run import prepare
    from ..opening import Source, recipe_of

    recipe = recipe_of(run)
    certifier = recipe.method.certifier().replace(n=options.n)
    job = prepare(Source(str(run)), recipe.dataset, certifier, limit=options.examples)
    job.run()
    return job


def _report(job: "Job") -> None:
    """The report, and a picture of the first images with one noisy copy of each."""
    import torch

    from ..report.command import report
    from ..report.figure import examples_figure
    from ..runs.records import read_records

    report([job.folder])
    records = read_records(job.folder)[:SHOWN]
    images = job.read()[1].pixels(torch.tensor([record.index for record in records]))
    noisy, sampling = torch.empty_like(images), job.task.certifier.sampling
    for image, out, record in zip(images, noisy, records, strict=True):
        if sampling is not None:
            sampling.noise.stream(image, sampling.sigma, job.task.seed_of(record.index)).fill(out[None])
    examples_figure(images.numpy(), noisy.numpy(), records, job.folder / "examples.png")
