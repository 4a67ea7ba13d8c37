"""Tell how many samples are worth it, before certifying."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import numpy as np

N = (25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000)


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
    n_max: int = 100_000
    """The number of samples to compare with."""
    loss: float | None = None
    """Answer with the number of samples that loses this fraction of the average radius, such as 0.2."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A certify folder, or a log in Cohen's format that was made with n_max samples at alpha."""
    every: int = 1
    """Take only the examples of --from whose index is a multiple of this."""
    radius: float | None = None
    """Radius at which to show certified accuracy, in pixel units; default sigma."""


def main(args: list[str]) -> None:
    """holdfast plan [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast plan")
    if not options.sigma > 0:
        raise ValueError(f"sigma must be positive, got {options.sigma}")
    pilot = None if options.source is None else _pilot(options.source, options)
    Console().print(_table(options, pilot))
    for line in _words(options, pilot):
        Console(soft_wrap=True).print(f"- {line}", highlight=False)


class Pilot(NamedTuple):
    """What a pilot run or a log tells of a classifier."""

    shares: "np.ndarray"
    """The share of the votes that the top class of each example gets."""
    correct: "np.ndarray"
    """Whether that class is the label."""


def _table(options: Options, pilot: Pilot | None) -> Table:
    from ..smoothing.statistics import planning
    from ..smoothing.statistics.binomial import radius_cap

    table = Table(box=None, header_style="bold")
    names = ["n", "largest radius", "radius kept, closed form", "accuracy lost, at most"]
    if pilot is not None:
        names += ["ACR", "radius kept, exact", f"certified accuracy at {options.radius or options.sigma:g}"]
    for name in names:
        table.add_column(name, justify="right")
    for n in [n for n in N if n < options.n_max] + [options.n_max]:
        row = [
            f"{n:,}",
            f"{radius_cap(options.sigma, n, options.alpha):.3f}",
            f"{planning.radius_ratio(n, options.alpha):.3f}",
            f"{planning.accuracy_loss(n, options.alpha):.3f}",
        ]
        table.add_row(*row, *([] if pilot is None else _exact(options, pilot, n)))
    return table


def _exact(options: Options, pilot: Pilot, n: int) -> list[str]:
    """ACR, the part of the radius that is kept, and certified accuracy, all expected over the noise of n samples."""
    from ..smoothing.statistics import planning

    radii, full = (planning.expected_radii(pilot.shares, m, options.alpha) for m in (n, options.n_max))
    radius = (options.radius or options.sigma) / options.sigma
    certified = planning.certified_probability(pilot.shares, radius, n, options.alpha)
    acr = options.sigma * (radii * pilot.correct).mean()
    return [f"{acr:.4f}", f"{radii.mean() / full.mean():.3f}", f"{(certified * pilot.correct).mean():.3f}"]


def _words(options: Options, pilot: Pilot | None) -> list[str]:
    from ..smoothing.statistics import planning

    lines = [
        "radius kept, closed form: 1 - 1.64 z / sqrt(n); accuracy lost, at any radius, at most: z / sqrt(n), "
        "with z = Phi^-1(1 - alpha / 2) (Seferis, Kollias & Cheng, 2024)",
    ]
    if options.loss is not None:
        n = planning.samples_for_loss(options.loss, options.alpha)
        lines.append(f"to lose {options.loss:.0%} of the average radius: n = {n:,} by the closed form")
        if pilot is not None:
            n = planning.samples_for_share_loss(pilot.shares, options.loss, options.alpha, options.n_max)
            told = f"that at n = {options.n_max:,}: n = {n:,}, exactly, for this classifier"
            lines.append(f"to lose {options.loss:.0%} of {told}")
    lines.append(
        "the closed form is optimistic for strong classifiers: its constant depends on how the vote shares are spread, "
        "and where most of them are near 1, a hundredth of the samples costs 28 to 34 % of the radius, not 20 %"
    )
    if pilot is None:
        lines.append("for the exact answer, name a pilot run or a log: --from PATH")
    lines.append("`holdfast certify RUN at-radius` or `adaptive` takes only as many samples as each image needs")
    return lines


def _pilot(source: Path, options: Options) -> Pilot:
    """Vote shares: counted in a run, inverted from the radius in a log."""
    import numpy as np

    from ..runs.certified import read
    from ..runs.find import sources
    from ..smoothing.statistics import planning

    (path, *others) = sources(source)
    if others:
        raise ValueError(f"{source} holds several certified sets; name one: {path}, {others[0]}, ...")
    records = [record for record in read(path) if record.index % options.every == 0]
    correct = np.array([record.correct for record in records])
    if path.is_file():
        radii = np.array([record.certificate.radius for record in records])
        return Pilot(planning.shares_from_radii(radii, options.sigma, options.n_max, options.alpha), correct)
    evidence = [record.certificate.evidence for record in records]
    votes = [found.get("votes") or found.get("selection") for found in evidence]  # none where the selection sufficed
    if not all(votes):
        raise ValueError(f"{path} was not certified by sampling; a plan needs votes")
    options.sigma = records[0].certificate.evidence["sigma"]
    return Pilot(np.array([max(v.values()) / sum(v.values()) for v in votes if v]), correct)
