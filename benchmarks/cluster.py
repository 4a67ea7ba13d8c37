"""50,000 ImageNet images on 1 to 1,000 workers, simulated: how well many workers are used, and where it breaks.

    python benchmarks/cluster.py --radius 0.5
    python benchmarks/cluster.py --full                  # the radius, by 100,000 samples for every image

Images take the samples of `at-radius` on the vote shares of the published log of Cohen et al. (2019) for ImageNet
at sigma 0.5, or fixed; a sample takes --second on one worker. Examples are handed out by the code that does it in real
runs, on a simulated clock. Same seed, same table.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from holdfast.certification.cluster import Cluster, simulate
from holdfast.certifiers.at_radius import AtRadius
from holdfast.core.certifier import Seed
from holdfast.progress import clock
from holdfast.runs.logs import read_log
from holdfast.smoothing.statistics.binomial import radius_cap
from holdfast.smoothing.statistics.planning import shares_from_radii

SIGMA = 0.5

WORLDS = {
    "calm": {},
    "stragglers": {"stragglers": 0.1, "slowness": 4.0},
    "preemptions": {"preemptions": 1.0},
    "both": {"stragglers": 0.1, "slowness": 4.0, "preemptions": 1.0},
}
"""One worker in ten is four times slower; each is taken away once an hour on average."""


@dataclass
class Options:
    """Efficiency of a simulated cluster."""

    radius: float = 0.5
    full: bool = False
    """100,000 samples for every image."""
    images: int = 50_000
    second: float = 1 / 2000
    """Of a sample on one worker: a ResNet-50 on a GPU makes about 2,000 a second."""
    workers: tuple[int, ...] = (1, 10, 30, 100, 300, 1000)
    worlds: tuple[str, ...] = tuple(WORLDS)
    golden: Path = Path(os.environ.get("HOLDFAST_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden"))
    """Folder of the published logs."""


def main(options: Options) -> None:
    rng = np.random.default_rng(0)
    taken = [100_100] if options.full else samples(options, rng)
    seconds = (options.second * rng.choice(taken, options.images)).tolist()
    print(f"{options.images:,} images, {np.mean(taken):,.0f} samples each, {sum(seconds) / 3600:,.1f} device hours")
    print("workers " + " ".join(f"{name:>22}" for name in options.worlds))
    for workers in options.workers:
        cells = []
        for name in options.worlds:
            found = simulate(Cluster(workers, **WORLDS[name]), seconds)
            cells.append(f"{clock(found.wall):>14} {found.efficiency:7.3f}")
        print(f"{workers:7} " + " ".join(cells), flush=True)


def samples(options: Options, rng: np.random.Generator) -> list[int]:
    """What at-radius takes on each vote share of the log."""
    log = read_log(options.golden / "imagenet-resnet50-cohen-noise0.50-test-sigma0.50.tsv.gz")
    radii = np.array([record.certificate.radius for record in log])  # some are above what their n and alpha allow
    shares = shares_from_radii(radii.clip(max=radius_cap(SIGMA, 100_000, 0.001)), SIGMA)
    certifier = AtRadius(sigma=SIGMA, r=(options.radius,))
    return [walked(certifier, float(share), index, rng) for index, share in enumerate(shares)]


def walked(certifier: AtRadius, share: float, index: int, rng: np.random.Generator) -> int:
    """Samples until an image of that share is decided; all other votes go to one rival."""
    procedure, total = certifier.procedure(Seed(1, index), 3 * 224 * 224), 0
    wanted = next(procedure)
    while True:
        top, total = int(rng.binomial(wanted, share)), total + wanted
        try:
            wanted = procedure.send([top, wanted - top, 0])
        except StopIteration:
            return total


if __name__ == "__main__":
    main(tyro.cli(Options))
