"""How many samples a certificate needs: ours beside the published procedures, on vote shares taken from published logs.

    python benchmarks/samplers.py at-radius     # is it certified at r? samples and certified accuracy
    python benchmarks/samplers.py optimal       # the same for optimal stopping, beside the least that is possible
    python benchmarks/samplers.py many-radii    # several radii from the same samples

Every image of a log is one vote share (its radius inverted; 0.45 where it abstained) and is certified afresh several
times by drawing Binomial votes. "Certified" counts every image whose share is proven above Phi(r / sigma), whatever its
label. The samples that select the class (100 in each published procedure) are counted under `optimal` only. Same seed,
same tables.

Published procedures, from their papers: betting and union-bound confidence sequences (Voracek, "Treatment of
statistical estimation problems in randomized smoothing", 2024, Algorithms 1 and 2) and the levels of Horvath et al.,
"Boosting randomized smoothing with variance reduced classifiers" (2022), with fresh samples at every level.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tyro
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import binom

from holdfast.certifiers.at_radius import AtRadius
from holdfast.core.certifier import Seed
from holdfast.runs.logs import read_log
from holdfast.smoothing.statistics.binomial import lower_bounds, share_needed, upper_bounds
from holdfast.smoothing.statistics.design import Design
from holdfast.smoothing.statistics.optimal import share_grid
from holdfast.smoothing.statistics.planning import certified_probability, shares_from_radii
from holdfast.smoothing.statistics.selection import Plan, Prior, best_plan
from holdfast.smoothing.statistics.selection import plan as kept_plan
from holdfast.smoothing.statistics.sequential import (
    GroupSequential,
    log_evidence_above,
    log_evidence_below,
    log_kt,
    looks,
)

GOLDEN = Path(os.environ.get("HOLDFAST_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden"))
ALPHA = BETA = 1e-3
N_MAX = 100_000
CIFAR = "cifar10-resnet110"
LOGS = {  # sigma 0.5 all; the level that the caps in the log say it was made at
    f"{CIFAR}-gaussian-sigma0.50": 1e-3,
    f"{CIFAR}-consistency-sigma0.50": 1e-3,
    f"{CIFAR}-smoothmix-sigma0.50": 1e-3,
    f"{CIFAR}-smoothmix-onestep-sigma0.50": 1e-3,
    f"{CIFAR}-cohen-noise0.12-test-sigma0.50": 1e-3,
    f"{CIFAR}-cohen-noise0.25-test-sigma0.50": 1e-3,
    f"{CIFAR}-cohen-noise0.50-test-sigma0.50": 1e-2,
    f"{CIFAR}-cohen-noise1.00-test-sigma0.50": 1e-3,
    "imagenet-resnet50-cohen-noise0.50-test-sigma0.50": 1e-2,
    "mnist-lenet-gaussian-sigma0.50": 1e-3,
}
MORE_RADII = {  # the rows of the table in the specification beside r = 0.5
    f"{CIFAR}-gaussian-sigma0.50": (0.25, 1.0, 1.5),
    f"{CIFAR}-smoothmix-onestep-sigma0.50": (1.0, 1.5),
    "imagenet-resnet50-cohen-noise0.50-test-sigma0.50": (1.0, 1.5),
}


@dataclass
class Options:
    """Samples that certificates need, simulated on the vote shares of published logs."""

    what: tyro.conf.Positional[str]
    """at-radius, optimal or many-radii."""
    golden: Path = GOLDEN
    """Folder of the published logs."""
    images: int = 40_000
    """Images simulated for each log: its examples, as often as it takes."""
    seed: int = 0
    """Seeds the votes."""


def main(options: Options) -> None:
    logs = {name: read_shares(options.golden / f"{name}.tsv.gz", alpha) for name, alpha in LOGS.items()}
    run = {"at-radius": at_radius, "optimal": optimal, "many-radii": many_radii}[options.what]
    for name, shares in logs.items():
        run(name, np.repeat(shares, max(1, options.images // len(shares))), shares, options.seed)


def read_shares(path: Path, alpha: float) -> np.ndarray:
    return shares_from_radii(np.array([record.certificate.radius for record in read_log(path)]), 0.5, N_MAX, alpha)


# --- is it certified at r?


@dataclass(frozen=True)
class Levels:
    """Counts that decide at some numbers of samples, cumulative or with fresh samples at each."""

    looks: tuple[int, ...]
    certify_at: np.ndarray
    give_up_at: np.ndarray
    fresh: bool = False


def at_radius(name: str, images: np.ndarray, shares: np.ndarray, seed: int) -> None:
    """A table of samples per image and percentage certified for one log."""
    print(f"\n### {name}: mean samples, % certified\n")
    print("| r | fixed | " + " | ".join(PROCEDURES) + " |\n|" + "---|" * (len(PROCEDURES) + 2))
    for r in sorted({0.5, *MORE_RADII.get(name, ())}):
        fixed = 100 * certified_probability(shares, r / 0.5, N_MAX, ALPHA).mean()
        cells = [f"{N_MAX} {fixed:.2f}"]
        for procedure in PROCEDURES.values():
            certified, used = _decide(images, procedure(float(ndtr(r / 0.5))), np.random.default_rng(seed))
            cells.append(f"{used.mean():.0f} {100 * certified.mean():.2f}")
        print(f"| {r} | " + " | ".join(cells) + " |", flush=True)


def _decide(shares: np.ndarray, levels: Levels, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    certified, used, votes = np.zeros(len(shares), bool), np.zeros(len(shares)), np.zeros(len(shares), np.int64)
    active, before = np.arange(len(shares)), 0
    for n, certify_at, give_up_at in zip(levels.looks, levels.certify_at, levels.give_up_at, strict=True):
        drawn = n if levels.fresh else n - before
        used[active] += drawn
        new = rng.binomial(drawn, shares[active])
        votes[active] = new if levels.fresh else votes[active] + new
        certified[active] = votes[active] >= certify_at
        active, before = active[~certified[active] & (votes[active] > give_up_at)], n
    return certified, used


def _group_sequential(p0: float, beta: float = BETA) -> Levels:
    test = GroupSequential(p0, ALPHA, looks(100, N_MAX), beta)
    return Levels(test.looks, test.certify_at, test.give_up_at)


@cache
def _horvath(p0: float) -> Levels:
    ns = (100, 1000, 10_000, 120_000)
    certify = [int(np.argmax(np.append(lower_bounds(np.arange(n + 1), n, ALPHA / 4), 2) >= p0)) for n in ns]
    give_up = [int(np.sum(upper_bounds(np.arange(n + 1), n, 1e-4 / 3) < p0)) - 1 for n in ns[:-1]]
    return Levels(ns, np.array(certify), np.array([*give_up, ns[-1]]), fresh=True)


@cache
def _betting(p0: float) -> Levels:
    ns = looks(100, N_MAX, 1.05)
    return _thresholds(ns, p0, lambda k, n, _: log_kt(k, n, p0), lambda k, n, _: log_kt(k, n, p0))


@cache
def _one_sided(p0: float) -> Levels:
    ns = looks(100, N_MAX, 1.05)
    return _thresholds(
        ns, p0, lambda k, n, _: log_evidence_above(k, n, p0), lambda k, n, _: log_evidence_below(k, n, p0)
    )


@cache
def _union_bound(p0: float) -> Levels:
    """At look j a Clopper-Pearson bound at 5 alpha / ((j + 4) (j + 5)): these sum to alpha."""
    ns = sorted({math.ceil(100 * 1.1**j / 100) * 100 for j in range(80) if 100 * 1.1**j < N_MAX} | {N_MAX})

    def surprise(tail: Callable) -> Callable:
        return lambda k, n, j: -np.log(np.maximum(tail(k, n, p0), 1e-300)) + np.log(5 / ((j + 5) * (j + 6)))

    return _thresholds(tuple(ns), p0, surprise(lambda k, n, p: binom.sf(k - 1, n, p)), surprise(binom.cdf))


def _thresholds(ns: tuple[int, ...], p0: float, above: Callable, below: Callable) -> Levels:
    """The first count above p0 n, and the last below, whose log-evidence (monotone in the count) reaches log(1000)."""
    n, j = np.array(ns), np.arange(len(ns))
    low, high = np.floor(p0 * n).astype(np.int64), n + 1
    worst, best = np.full(len(ns), -1), np.ceil(p0 * n).astype(np.int64)
    while np.any(high - low > 1) or np.any(best - worst > 1):
        middle = (low + high) // 2
        reached = (above(middle, n, j) >= -math.log(ALPHA)) & (high - low > 1)
        high, low = np.where(reached, middle, high), np.where(reached | (high - low <= 1), low, middle)
        middle = (worst + best) // 2
        reached = (below(np.maximum(middle, 0), n, j) >= -math.log(BETA)) & (best - worst > 1)
        worst, best = np.where(reached, middle, worst), np.where(reached | (best - worst <= 1), best, middle)
    return Levels(ns, high, worst)


PROCEDURES = {
    "Horvath et al.": _horvath,
    "union bound": _union_bound,
    "betting": _betting,
    "one-sided betting": _one_sided,
    "group-sequential": _group_sequential,
    "beta = 0.05": lambda p0: _group_sequential(p0, 0.05),
}


# --- the fewest samples


def optimal(name: str, images: np.ndarray, shares: np.ndarray, seed: int) -> None:
    """Expected samples, selection votes counted, and percentage certified: today's boundaries, optimal ones, the floor.

    Exact, by forward recursion on a grid of shares, but for interpolation; the other votes go to one rival.
    """
    names = "spending", "designed", "designed, own prior", "known shares"
    print(f"\n### {name}: mean samples, % certified\n")
    print("| r | fixed | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 2))
    for r in sorted({0.5, *MORE_RADII.get(name, ())}):
        p0 = share_needed(r, 0.5)
        fixed = certified_probability(shares, r / 0.5, N_MAX, ALPHA)
        test = GroupSequential(p0, ALPHA, looks(100, N_MAX), 0.05)
        today = Design(p0, test.looks, tuple(test.certify_at.tolist()), tuple(test.give_up_at.tolist()))
        selected = Plan((100,), ((0,) * 101,), (today,))  # 100 votes, whatever they are
        own = best_plan(p0, ALPHA, N_MAX, 100, LOSS, Prior.of(shares))
        cells = [f"{N_MAX + 100} {100 * fixed.mean():.2f}"]
        for plan in (selected, kept_plan(p0, ALPHA, N_MAX, 100, LOSS), own):
            power, samples = _expected(plan, shares)
            cells.append(f"{samples.mean():.0f} {100 * power.mean():.2f}")
        samples, power = _floor(shares, p0, 100 * fixed.mean() - LOSS)
        print(f"| {r} | " + " | ".join([*cells, f"{samples:.0f} {power:.2f}"]) + " |", flush=True)


LOSS = 0.1
"""Percentage points of certified accuracy that may be lost: the default of at-radius."""


def _expected(plan: Plan, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power and samples at each share, interpolated in Phi^-1(share)."""
    z = share_grid(plan.designs[0].p0, N_MAX)
    z = z[z > -0.3]
    power, samples = np.array([plan.outcome(float(share)) for share in ndtr(z)]).T
    at = ndtri(np.clip(shares, 0.4, ndtr(z[-1])))
    return np.interp(at, z, power), np.interp(at, z, samples)


def _floor(shares: np.ndarray, p0: float, certified: float) -> tuple[float, float]:
    """The least mean samples of any sequential procedure, even one that is told every share beforehand.

    Wald's bound: a procedure that certifies p0 with probability alpha and p with probability w takes at p at least
    kl(w, alpha) / kl(p, p0) samples. The w are the cheapest that certify so many percent in all.
    """
    p = np.minimum(shares[shares > p0], 1 - 1e-9)
    apart = p * np.log(p / p0) + (1 - p) * np.log((1 - p) / (1 - p0))

    def best(price: float) -> tuple[np.ndarray, np.ndarray]:
        w = np.maximum(expit(np.minimum(price * apart, 40) + logit(ALPHA)), ALPHA)
        kl = w * np.log(w / ALPHA) + (1 - w) * np.log(np.maximum(1 - w, 1e-300) / (1 - ALPHA))
        return kl / apart, w

    low, high = 0.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        power = 100 * best(math.exp(middle))[1].sum() / len(shares)
        low, high = (low, middle) if power > certified else (middle, high)
    samples, w = best(math.exp(high))
    return samples.sum() / len(shares), 100 * w.sum() / len(shares)


RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def many_radii(name: str, images: np.ndarray, shares: np.ndarray, seed: int) -> None:
    """Mean samples for all radii from the same votes, through the certifier's own procedure, beside one radius each."""
    rng, some = np.random.default_rng(seed), images[:: max(1, len(images) // 2000)]
    all_at_once = AtRadius(0.5, r=RADII)
    used, radii = np.array([certify_once(all_at_once, share, rng) for share in some]).T
    alone = [_expected(kept_plan(share_needed(r, 0.5), ALPHA, N_MAX, 100, LOSS), some) for r in RADII]
    print(f"\n### {name}: {len(some)} images, {used.mean():.0f} samples each for all radii\n")
    print("| r | alone | % certified | with the others |\n|---|---|---|---|")
    for r, (power, samples) in zip(RADII, alone, strict=True):
        print(f"| {r} | {samples.mean():.0f} | {100 * power.mean():.2f} | {100 * (radii >= r).mean():.2f} |")
    print(f"| sum | {sum(samples.mean() for _, samples in alone):.0f} | | |")
    least = [_floor_of(shares, radii) for radii in (RADII, *((r,) for r in RADII))]
    told = ", ".join(f"{samples:.0f}" for samples in least[1:])
    print(f"\nno procedure, told every share: fewer than {least[0]:.0f} for all, {told} for one each", flush=True)


def _floor_of(shares: np.ndarray, radii: tuple[float, ...]) -> float:
    """The least mean samples that lose LOSS points, at most, at each radius, for who is told every share beforehand.

    The images between a radius and the next may lose LOSS points of all images there, and each has to be certified at
    the radius below it, if at any: `_floor` of one band after the other.
    """
    needed, least = [*(share_needed(r, 0.5) for r in radii), 2.0], 0.0
    for r, p0, above in zip(radii, needed, needed[1:], strict=False):
        band = (shares > p0) & (shares <= above)
        fixed = certified_probability(shares, r / 0.5, N_MAX, ALPHA) * band
        least += _floor(np.where(band, shares, 0.0), p0, 100 * fixed.mean() - LOSS)[0]
    return least


def certify_once(certifier: AtRadius, share: float, rng: np.random.Generator) -> tuple[int, float]:
    procedure = certifier.procedure(Seed(0, 0), 1)
    wanted = next(procedure)
    while True:
        count = int(rng.binomial(wanted, share))
        try:
            wanted = procedure.send([count, wanted - count, 0])
        except StopIteration as finished:
            found = finished.value
            prediction, radius = found.claim()
            return found.derived()["samples"], radius if prediction == 0 else 0.0


if __name__ == "__main__":
    main(tyro.cli(Options))
