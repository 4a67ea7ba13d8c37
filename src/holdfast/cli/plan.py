"""Tell how many samples are worth it, before certifying."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table


@dataclass
class Options:
    """What n samples leave of the radius and of certified accuracy.

    By the closed forms of Seferis, Kollias & Cheng (2024) and, with --from, exactly, for the vote shares of a pilot run
    or of a published log.
    """

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images; with --from, that of the run or log."""
    alpha: float = 0.001
    """Probability that the certificate of an example is wrong."""
    log_alpha: float | None = None
    """The alpha that a log named by --from was made with; default: that of a log that is known, else 0.001."""
    n_max: int = 100_000
    """The number of samples to compare with."""
    loss: float | None = None
    """Answer with the number of samples that loses this fraction of the average radius, such as 0.2."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A certify folder, or a log in Cohen's format; one that is not known was made with n_max samples at log_alpha."""
    every: int = 1
    """Take only the examples of --from whose index is a multiple of this."""
    cluster: bool = False
    """Answer with hours and wall time on clusters, by a simulation that hands out examples like those of --from, a
    certify folder of a pilot run on one of their machines."""
    images: int = 50_000
    """With --cluster, images to certify."""
    workers: tuple[int, ...] = (1, 10, 100, 1000)
    """With --cluster, numbers of workers."""
    preemptions: float = 0.0
    """With --cluster, how often an hour a worker is taken away, and another started."""
    radius: float | None = None
    """Radius at which to show certified accuracy, in pixel units; default sigma."""
    curves: Path | None = None
    """Folder for the figures of the paper and their numbers: radius by vote share and, with --from, certified accuracy
    at several n, the mean radius kept and the largest drop of certified accuracy against the closed forms."""


def main(args: list[str]) -> None:
    """holdfast plan [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast plan")
    if options.cluster:
        _cluster(options)
        return
    from ..report.plan import Pilot, Plan

    pilot = (
        None
        if options.source is None
        else Pilot.of(options.source, options.sigma, options.log_alpha, options.n_max, options.every)
    )
    plan = Plan(pilot.sigma if pilot else options.sigma, options.alpha, options.n_max, options.radius, pilot)
    _print(plan.names(), plan.rows())
    for line in plan.advice(options.loss):
        Console(soft_wrap=True).print(f"- {line}", highlight=False)
    if options.curves:
        from ..report.plan import write

        written = write(plan, options.curves)
        Console(soft_wrap=True).print(f"written to {options.curves}: {', '.join(written)}", highlight=False)


def _cluster(options: Options) -> None:
    from ..certification.cluster import Cluster, rows

    if options.source is None:
        raise ValueError("--cluster needs --from, a certify folder of a pilot run: it tells how long a sample takes")
    if options.images < 1 or min(options.workers, default=0) < 1 or options.preemptions < 0:
        raise ValueError("expected images and workers of at least 1, and preemptions of at least 0")
    cluster = Cluster(1, preemptions=options.preemptions)
    names = ("workers", "samples", "device hours", "wall time", "efficiency")
    _print(names, rows(options.source, options.images, options.workers, cluster))


def _print(names: Iterable[str], rows: Iterable[list[str]]) -> None:
    table = Table(box=None, header_style="bold")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
