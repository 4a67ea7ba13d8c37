"""Tell how many samples are worth it, before certifying."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    radius: float | None = None
    """Radius at which to show certified accuracy, in pixel units; default sigma."""


def main(args: list[str]) -> None:
    """holdfast plan [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast plan")
    if not options.sigma > 0:
        raise ValueError(f"sigma must be positive, got {options.sigma}")
    shares = None if options.source is None else _shares(options.source, options)
    Console().print(_table(options, shares))
    for line in _words(options, shares):
        Console(soft_wrap=True).print(f"- {line}", highlight=False)


def _table(options: Options, shares: "np.ndarray | None") -> Table:
    from ..smoothing import planning
    from ..smoothing.binomial import radius_cap

    radius = options.radius or options.sigma
    table = Table(box=None, header_style="bold")
    for name in ("n", "largest radius", "radius kept, closed form", "accuracy lost, at most"):
        table.add_column(name, justify="right")
    if shares is not None:
        for name in ("mean radius", "kept, exact", f"certified at {radius:g}, exact"):
            table.add_column(name, justify="right")
        full = planning.expected_radii(shares, options.n_max, options.alpha).mean()
    for n in [n for n in N if n < options.n_max] + [options.n_max]:
        row = [
            f"{n:,}",
            f"{radius_cap(options.sigma, n, options.alpha):.3f}",
            f"{planning.radius_ratio(n, options.alpha):.3f}",
            f"{planning.accuracy_loss(n, options.alpha):.3f}",
        ]
        if shares is not None:
            mean = planning.expected_radii(shares, n, options.alpha).mean()
            accuracy = planning.certified_probability(shares, radius / options.sigma, n, options.alpha).mean()
            row += [f"{mean * options.sigma:.4f}", f"{mean / full:.3f}", f"{accuracy:.3f}"]
        table.add_row(*row)
    return table


def _words(options: Options, shares: "np.ndarray | None") -> list[str]:
    from ..smoothing import planning

    lines = [
        "radius kept, closed form: 1 - 1.64 z / sqrt(n); accuracy lost, at any radius, at most: z / sqrt(n), "
        "with z = Phi^-1(1 - alpha / 2) (Seferis, Kollias & Cheng, 2024)",
    ]
    if options.loss is not None:
        n = planning.samples_for_loss(options.loss, options.alpha)
        lines.append(f"to lose {options.loss:.0%} of the average radius: n = {n:,} by the closed form")
        if shares is not None:
            n = planning.samples_for_share_loss(shares, options.loss, options.alpha, options.n_max)
            lines.append(
                f"to lose {options.loss:.0%} of that at n = {options.n_max:,}: n = {n:,} for these shares, exactly"
            )
    lines.append(
        "the closed form is optimistic for strong classifiers: its constant depends on how the vote shares are spread, "
        "and where most of them are near 1, a hundredth of the samples costs 28 to 34 % of the radius, not 20 %"
    )
    if shares is None:
        lines.append("for the exact answer, name a pilot run or a log: --from PATH")
    else:
        lines.append("certified counts every example of which a class is certified, also a wrong one")
    lines.append("`holdfast certify RUN at-radius` or `adaptive` takes only as many samples as each image needs")
    return lines


def _shares(source: Path, options: Options) -> "np.ndarray":
    """The vote share of the top class of each example: counted in a run, inverted from the radius in a log."""
    import numpy as np

    from ..report.load import read_source, sources
    from ..smoothing import planning

    (path, *others) = sources(source)
    if others:
        raise ValueError(f"{source} holds several certified sets; name one: {path}, {others[0]}, ...")
    records = read_source(path)
    if path.is_file():
        radii = np.array([record.certificate.radius for record in records])
        return planning.shares_from_radii(radii, options.sigma, options.n_max, options.alpha)
    votes = [record.certificate.evidence.get("votes") for record in records]
    if not all(votes):
        raise ValueError(f"{path} was not certified by sampling; a plan needs votes")
    options.sigma = records[0].certificate.evidence["sigma"]
    return np.array([max(v.values()) / sum(v.values()) for v in votes if v])
