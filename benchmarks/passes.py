"""Did a run at given radii take as many samples as simulation says? Predicted from other votes of the same images.

    python benchmarks/passes.py CERTIFY_FOLDER --pilot OTHER_CERTIFY_FOLDER --prior LOG

The pilot holds votes of the same classifier with other noise (another seed). Given its k of n votes, the share of an
image is drawn from the shares of a published log, as likely as they make k; votes at that share go through the
certifier's own procedure. The error is that of the mean over the images: what the draws of shares and votes leave open.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from samplers import certify_once
from scipy.special import xlog1py, xlogy

from holdfast.certification.task import Certification
from holdfast.certifiers._prior import read_prior
from holdfast.certifiers.at_radius import AtRadius
from holdfast.runs import store
from holdfast.runs.records import read_records


@dataclass
class Options:
    """Samples and certified images of a run at given radii, beside their prediction."""

    folder: tyro.conf.Positional[Path]
    """Certify folder of the run."""
    pilot: Path
    """Certify folder of the same classifier with a fixed number of samples and another seed."""
    prior: Path
    """Published log of a like classifier."""
    draws: int = 40
    """Simulated certificates of each image."""
    seed: int = 0
    """Seeds the simulation."""


def main(options: Options) -> None:
    task = Certification.from_dict(store.read_run(options.folder)["certification"])
    certifier, rng = task.certifier, np.random.default_rng(options.seed)
    assert isinstance(certifier, AtRadius)
    prior = read_prior(str(options.prior), certifier.sigma).prior
    shares, weights = np.array(prior.shares), np.log(prior.weights)
    found = {record.index: record.certificate for record in read_records(options.folder)}
    pilots = {record.index: record.certificate.evidence for record in read_records(options.pilot)}
    both = sorted(found.keys() & pilots.keys())
    simulated = []
    for index in both:
        votes = pilots[index]
        k, n = max(votes["votes"].values()), votes["n"]
        posterior = np.exp((likely := weights + xlogy(k, shares) + xlog1py(n - k, -shares)) - likely.max())
        drawn = rng.choice(shares, options.draws, p=posterior / posterior.sum())
        simulated.append([certify_once(certifier, float(share), rng) for share in drawn])
    outcomes = np.array(simulated)
    used = np.array([found[index].evidence["samples"] for index in both])
    print(f"{len(both)} images, {used.sum():,} samples")
    _tell("samples per image", used, outcomes[:, :, 0])
    proven = np.array([-1.0 if found[i].prediction is None else found[i].radius for i in both])
    for r in certifier.r:
        _tell(f"% certified at {r:g}", 100 * (proven >= r), 100 * (outcomes[:, :, 1] >= r))


def _tell(what: str, actual: np.ndarray, predicted: np.ndarray) -> None:
    error = math.sqrt(predicted.var(axis=1, ddof=1).sum()) / len(actual)
    off = (actual.mean() - predicted.mean()) / error if error else 0.0
    print(
        f"{what}: {actual.mean():,.1f}, predicted {predicted.mean():,.1f} +- {error:,.1f} ({off:+.1f} standard errors)"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
