"""The figures of Seferis, Kollias & Cheng (2024): what fewer samples leave, by their formulas and exactly."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import binom

from ..smoothing.statistics import planning
from ..smoothing.statistics.binomial import lower_bounds, share_needed
from .plan import Pilot, Plan

SHARES = np.linspace(0.5, 0.9999, 200)
"""Vote shares at which the radius of a point is shown."""

N_SHOWN = (100, 1000, 10_000, 100_000)
"""Numbers of samples that have a curve of their own."""

N_LAWS = (25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000)
"""Numbers of samples at which the laws are compared with what is exact."""

RADII = 61
"""Radii of a curve of certified accuracy."""

Rows = list[dict[str, float]]


def point_radii(plan: Plan) -> Rows:
    """The radius of a point by its vote share, in pixel units: eq. (1) beside the exact expectation."""
    rows: Rows = []
    for n in _shown(plan):
        shore = plan.sigma * planning.shore_radius(SHARES, n, plan.alpha)
        exact = plan.sigma * planning.expected_radii(SHARES, n, plan.alpha)
        found = zip(SHARES, shore, exact, strict=True)
        rows += [{"n": n, "share": float(p), "shore": float(s), "exact": float(e)} for p, s, e in found]
    return rows


def certified_accuracy(plan: Plan, pilot: Pilot) -> Rows:
    """Certified accuracy by radius, expected over the noise of n samples, for several n."""
    cap = float(planning.radii_of_counts(plan.n_max, plan.alpha)[-1])
    rows: Rows = []
    for n in _shown(plan):
        found = _accuracy(pilot, np.linspace(0, cap, RADII), n, plan.alpha)
        pairs = zip(np.linspace(0, plan.sigma * cap, RADII), found, strict=True)
        rows += [{"n": n, "radius": float(radius), "accuracy": float(share)} for radius, share in pairs]
    return rows


def laws(plan: Plan, pilot: Pilot) -> Rows:
    """For each n, against n_max: mean radius kept, largest drop of certified accuracy; by the formulas and exactly."""
    full = planning.expected_radii(pilot.shares, plan.n_max, plan.alpha).mean()
    grid = np.linspace(0, float(planning.radii_of_counts(plan.n_max, plan.alpha)[-1]), RADII)
    best = _accuracy(pilot, grid, plan.n_max, plan.alpha)
    rows: Rows = []
    for n in [n for n in N_LAWS if n <= plan.n_max]:
        drops = best - _accuracy(pilot, grid, n, plan.alpha)
        rows.append(
            {
                "n": n,
                "kept, formula": planning.radius_ratio(n, plan.alpha),
                "kept, exact": float(planning.expected_radii(pilot.shares, n, plan.alpha).mean() / full),
                "drop, formula": planning.accuracy_loss(n, plan.alpha),
                "drop, exact": float(drops.max()),
                "drop, mean over radii": float(drops.mean()),
            }
        )
    return rows


def write(plan: Plan, folder: Path) -> list[str]:
    """Write the figure curves.png and a table of each curve; the names of the files."""
    tables = {"point-radii": point_radii(plan)}
    if plan.pilot is not None:
        tables |= {"certified-accuracy": certified_accuracy(plan, plan.pilot), "laws": laws(plan, plan.pilot)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    _draw(tables, plan, folder / "curves.png")
    return [*(f"{name}.csv" for name in tables), "curves.png"]


def _accuracy(pilot: Pilot, grid: Float[NDArray, " radius"], n: int, alpha: float) -> Float[NDArray, " radius"]:
    """At radii in units of sigma: `planning.certified_probability` for all of them at once."""
    bounds = lower_bounds(np.arange(n + 1), n, alpha)
    enough = np.searchsorted(bounds, [share_needed(float(radius), 1.0) for radius in grid])
    return (binom.sf(enough[:, None] - 1, n, pilot.shares) * pilot.correct).mean(1)


def _shown(plan: Plan) -> list[int]:
    return [n for n in N_SHOWN if n <= plan.n_max]


def _draw(tables: dict[str, Rows], plan: Plan, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * (1 if len(tables) == 1 else 4), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 if len(tables) == 1 else 4, squeeze=False)[0]
    for n, rows in _by_n(tables["point-radii"]).items():
        (line,) = axes[0].plot([row["share"] for row in rows], [row["exact"] for row in rows], label=f"n = {n:,.0f}")
        axes[0].plot([row["share"] for row in rows], [row["shore"] for row in rows], "--", color=line.get_color())
    axes[0].set(xlabel="vote share", ylabel="radius of a point; dashed: eq. (1)")
    axes[0].legend()
    if len(tables) > 1:
        for n, rows in _by_n(tables["certified-accuracy"]).items():
            axes[1].plot([row["radius"] for row in rows], [row["accuracy"] for row in rows], label=f"n = {n:,.0f}")
        axes[1].set(xlabel="l2 radius", ylabel="certified accuracy")
        axes[1].legend()
        found = tables["laws"]
        for axis, what, words in ((axes[2], "kept", "mean radius kept"), (axes[3], "drop", "drop of accuracy")):
            for name in [name for name in found[0] if name.startswith(what)]:
                style = "--" if name.endswith("formula") else "o-"
                axis.plot([row["n"] for row in found], [row[name] for row in found], style, label=name)
            axis.set(xlabel="samples", ylabel=f"{words}, against {plan.n_max:,}", xscale="log")
            axis.legend()
    figure.savefig(path, dpi=150)


def _by_n(rows: Rows) -> dict[float, Rows]:
    found: dict[float, Rows] = {}
    for row in rows:
        found.setdefault(row["n"], []).append(row)
    return found
