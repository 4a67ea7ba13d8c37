"""Did a run at given radii take as many samples as simulation says? Predicted from other votes on the same images.

    python benchmarks/passes.py CERTIFY_FOLDER --log LOG [--pilot OTHER_CERTIFY_FOLDER]

The log is that of a like classifier: another training run of the same recipe. Without a pilot, its images stand for
those of the run. The pilot holds votes of the classifier itself, with other noise (another seed): given its k of n
votes, the share of an image is drawn from the shares in the log, as likely as they make k. Votes at these shares go
through the certifier's own procedure. The error is that of the mean over the images: what the draws leave open.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from samplers import certify_once
from scipy.special import xlog1py, xlogy

from holdfast.certification.task import Certification
from holdfast.certifiers.at_radius import AtRadius
from holdfast.runs import store
from holdfast.runs.certified import read
from holdfast.runs.logs import read_log
from holdfast.smoothing.statistics.planning import shares_from_radii


@dataclass
class Options:
    """Samples and certified images of a run at given radii, beside their prediction."""

    folder: tyro.conf.Positional[Path]
    """Certify folder of the run."""
    log: Path
    """Published log of a like classifier, n = 100,000 and alpha = 0.001."""
    pilot: Path | None = None
    """Certify folder of the same classifier with a fixed number of samples and another seed."""
    draws: int = 40
    """Simulated certificates of each image."""
    seed: int = 0
    """Seeds the simulation."""


def main(options: Options) -> None:
    certifier = Certification.from_dict(store.read_run(options.folder)["certification"]).certifier
    assert isinstance(certifier, AtRadius)
    rng = np.random.default_rng(options.seed)
    found = {record.index: record.certificate for record in read(options.folder)}
    likely = (
        _from_log(options, certifier.sigma) if options.pilot is None else _from_pilot(options, certifier.sigma, rng)
    )
    both = sorted(found.keys() & likely.keys())
    outcomes = np.array([[certify_once(certifier, float(share), rng) for share in likely[index]] for index in both])
    used = np.array([found[index].evidence["samples"] for index in both])
    print(f"{len(both)} images, {used.sum():,} samples")
    _tell("samples per image", used, outcomes[:, :, 0])
    proven = np.array([-1.0 if found[i].prediction is None else found[i].radius for i in both])
    for r in certifier.r:
        _tell(f"% certified at {r:g}", 100 * (proven >= r), 100 * (outcomes[:, :, 1] >= r))


def _log_shares(path: Path, sigma: float) -> dict[int, float]:
    records = list(read_log(path))
    shares = shares_from_radii(np.array([record.certificate.radius for record in records]), sigma)
    return {record.index: float(share) for record, share in zip(records, shares, strict=True)}


def _from_log(options: Options, sigma: float) -> dict[int, np.ndarray]:
    return {index: np.full(options.draws, share) for index, share in _log_shares(options.log, sigma).items()}


def _from_pilot(options: Options, sigma: float, rng: np.random.Generator) -> dict[int, np.ndarray]:
    assert options.pilot is not None
    shares, times = np.unique([*_log_shares(options.log, sigma).values()], return_counts=True)
    drawn = {}
    for record in read(options.pilot):
        votes = record.certificate.evidence["votes"]
        k, n = max(votes.values(), default=0), record.certificate.evidence["n"]
        chance = np.log(times) + xlogy(k, shares) + xlog1py(n - k, -shares)
        chance = np.exp(chance - chance.max())
        drawn[record.index] = rng.choice(shares, options.draws, p=chance / chance.sum())
    return drawn


def _tell(what: str, actual: np.ndarray, predicted: np.ndarray) -> None:
    error = math.sqrt(predicted.var(axis=1, ddof=1).sum()) / len(actual)
    off = (actual.mean() - predicted.mean()) / error if error else 0.0
    print(
        f"{what}: {actual.mean():,.1f}, predicted {predicted.mean():,.1f} +- {error:,.1f} ({off:+.1f} standard errors)"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
