"""Priors on vote shares, read from certified runs and logs."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..core.certificate import Record
from ..runs.certified import CertifiedRun
from ..runs.find import read_facts, sources
from ..smoothing.statistics.binomial import radius_cap
from ..smoothing.statistics.planning import ABSTAINED, shares_from_radii
from ..smoothing.statistics.selection import Prior

N, ALPHA = 100_000, 0.001
"""Samples and level of a log that does not tell its own."""


class Source(NamedTuple):
    """A prior, and what it was made with."""

    prior: Prior
    seeds: frozenset[int]
    """Of the noise; empty for a published log."""


@lru_cache(maxsize=16)
def read_prior(source: str, sigma: float) -> Source:
    """How the vote shares of a certified run or of a published log are spread.

    Args:
        source: a run folder, a certify folder, an exported table, or a log in the format of Cohen et al.
        sigma: standard deviation of the noise; where the source had another, the prior is off and costs samples.

    Raises:
        ValueError: the source is none of these, or was not certified by sampling; it is named.
    """
    shares, seeds = list[float](), set[int]()
    try:
        for path in sources(Path(source)):
            run = CertifiedRun.open(path)
            counted = list(_shares(run.records))
            logged = path.is_file() and run.records and not counted
            shares += _shares_of_log(run, sigma) if logged else counted
            seeds |= {int(asked["seed"]) for asked in [read_facts(path).get("certification", {})] if "seed" in asked}
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    if not shares:
        raise ValueError(f"no vote shares for a prior in {source}: expected a run certified by sampling, or a log")
    return Source(Prior.of(shares), frozenset(seeds))


def _shares(records: Iterable[Record]) -> Iterator[float]:
    """Of the top class; where a first sample left no hope, among the votes of that."""
    for record in records:
        evidence = record.certificate.evidence.get("inner", record.certificate.evidence)
        if "votes" in evidence:
            votes = (evidence["votes"] or evidence.get("selection") or {}).values()
            yield (max(votes) + 0.5) / (sum(votes) + 1) if votes else ABSTAINED


def _shares_of_log(run: CertifiedRun, sigma: float) -> list[float]:
    """By the settings of the log as far as they are known."""
    sigma, n, alpha = run.sigma or sigma, run.settings.get("n", N), run.alpha or ALPHA
    radii = np.array([record.certificate.radius for record in run.records])
    return shares_from_radii(np.minimum(radii, radius_cap(sigma, n, alpha)), sigma, n, alpha).tolist()
