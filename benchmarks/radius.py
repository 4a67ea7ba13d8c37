"""The radius itself: what fewer samples leave of it, beside an oracle, on vote shares taken from published logs.

    python benchmarks/radius.py

The oracle is told the share of every image, and takes the fixed number of samples at which the expected radius, less a
price for the samples, is largest. Beside it: optimal stopping (`adaptive`); two stages, where the votes of a pilot
choose the number of fresh samples; boundaries that spend alpha over looks and radii (`adaptive --boundaries spending
--first 400 --growth 2`), simulated. All else is an exact expectation. The 100 samples that select the class are not
counted. The loss is that of radius less price, as a part of the mean radius at 100,000 samples. Same seed, same tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tyro
from samplers import ALPHA, BETA, GOLDEN, LOGS, N_MAX, read_shares
from scipy.special import ndtr
from scipy.stats import binom

from holdfast.smoothing.statistics.binomial import radius_cap
from holdfast.smoothing.statistics.planning import expected_radii
from holdfast.smoothing.statistics.sequential import RadiusBoundaries, looks
from holdfast.smoothing.statistics.stopping import FIRST_LOOK, GROWTH, best_stopping


@dataclass
class Options:
    """What fewer samples leave of the radius, on the vote shares of published logs."""

    golden: Path = GOLDEN
    """Folder of the published logs."""
    images: int = 500
    """Images simulated for each log: its examples, as often as it takes."""
    seed: int = 0
    """Seeds the votes."""


def main(options: Options) -> None:
    for name, alpha in LOGS.items():
        shares = read_shares(options.golden / f"{name}.tsv.gz", alpha)
        adaptive(name, np.repeat(shares, max(1, options.images // len(shares))), shares, options.seed)


LADDER = tuple(int(n) for n in np.unique(np.geomspace(50, N_MAX, 34).round()))


def adaptive(name: str, images: np.ndarray, shares: np.ndarray, seed: int) -> None:
    """Fractions of the mean radius at 100,000 samples, the samples they take, and the loss beside the oracle."""
    distinct, where = np.unique(shares, return_inverse=True)
    table = np.stack([expected_radii(distinct, n, ALPHA) for n in LADDER], axis=1)
    full = table[where, -1].mean()
    ladder = (f"{table[where, LADDER.index(n)].mean() / full:.3f} @ {n}" for n in _some())
    print(f"\n### {name}: fraction of the mean radius ({full:.3f} sigma) at mean samples (its loss)\n")
    print(f"fixed n: {', '.join(ladder)}\n\n| min-gain | {' | '.join(map(str, PRICES))} |\n|" + "---|" * 6)
    rows = {
        "oracle": lambda price: _means(*_oracle(table, price), where),
        "optimal stopping": lambda price: _means(*_ended(distinct, price), where),
        "two stages, 100": lambda price: _means(*_two_stages(distinct, table, price, 100), where),
        "two stages, 300": lambda price: _means(*_two_stages(distinct, table, price, 300), where),
        "spending": lambda price: _means(*_stopped(images, DOUBLING, _worth(price), seed)),
    }
    best = {}
    for label, row in rows.items():
        cells = []
        for price in PRICES:
            radius, samples = row(price)
            worth = radius - 1e-4 * price * samples
            lost = best.setdefault(price, worth) - worth
            cells.append(f"{radius / full:.3f} @ {samples:.0f} ({100 * lost / full:.2f} %)")
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def _means(radius: np.ndarray, samples: np.ndarray, where: np.ndarray | slice = slice(None)) -> tuple[float, float]:
    return float(radius[where].mean()), float(samples[where].mean())


PRICES = (1.0, 0.3, 0.1, 0.05, 0.02)
"""Radius, in units of sigma, for which 10,000 more samples are worth it."""


def _ended(shares: np.ndarray, price: float) -> tuple[np.ndarray, np.ndarray]:
    return best_stopping(looks(FIRST_LOOK, N_MAX, GROWTH), ALPHA, price).outcomes(shares, ALPHA)


def _some() -> tuple[int, ...]:
    return LADDER[13::5]


def _oracle(table: np.ndarray, price: float) -> tuple[np.ndarray, np.ndarray]:
    """For each share the number of samples at which radius - price * samples is largest."""
    n = np.array((0, *LADDER))
    value = np.pad(table, ((0, 0), (1, 0)))
    best = np.argmax(value - price * 1e-4 * n, axis=1)
    return value[np.arange(len(best)), best], n[best]


def _two_stages(shares: np.ndarray, table: np.ndarray, price: float, n0: int):
    """As the oracle, with the posterior after n0 votes (prior: Jeffreys); then Clopper-Pearson on fresh samples.

    The first 100 of the votes select the class, and are not counted anywhere here.
    """
    grid = ndtr(np.linspace(-1, 4.2, 300))
    logit = np.gradient(np.log(grid / (1 - grid)))
    posterior = binom.pmf(np.arange(n0 + 1)[:, None], n0, grid) * np.sqrt(grid * (1 - grid)) * logit
    posterior /= posterior.sum(axis=1, keepdims=True)
    _, samples = _oracle(posterior @ _ladder_table(tuple(grid.tolist())), price)
    chance = binom.pmf(np.arange(n0 + 1), n0, shares[:, None])
    chosen = np.searchsorted((0, *LADDER), samples)
    radius = np.einsum("ik,ik->i", chance, np.pad(table, ((0, 0), (1, 0)))[:, chosen])
    return radius, chance @ samples + n0 - 100


@cache
def _ladder_table(grid: tuple[float, ...]) -> np.ndarray:
    return np.stack([expected_radii(np.array(grid), n, ALPHA) for n in LADDER], axis=1)


def _grid(step: float, ns: tuple[int, ...]) -> RadiusBoundaries:
    radii = tuple(np.arange(0, radius_cap(1.0, N_MAX, ALPHA), step).tolist())
    return RadiusBoundaries(radii, ALPHA, ns, BETA)


DOUBLING = _grid(0.005, looks(400, N_MAX, 2))


def _worth(price: float) -> Callable:
    def enough(grid, look, votes, certified, possible):
        return grid.gain(look, votes, certified) < price * 1e-4

    return enough


def _stopped(shares: np.ndarray, grid: RadiusBoundaries, enough: Callable, seed: int):
    rng, size = np.random.default_rng(seed), len(shares)
    votes, certified, possible = (np.full(size, value) for value in (0, 0, len(grid.radii)))
    used, active, before = np.zeros(size), np.arange(size), 0
    for look, n in enumerate(grid.looks):
        votes[active] += rng.binomial(n - before, shares[active])
        used[active], before = n, n
        certified[active] = np.maximum(certified[active], grid.certified(look, votes[active]))
        possible[active] = np.minimum(possible[active], grid.possible(look, votes[active]))
        active = active[~enough(grid, look, votes[active], certified[active], possible[active])]
    return np.array([0.0, *grid.radii])[certified], used


if __name__ == "__main__":
    main(tyro.cli(Options))
