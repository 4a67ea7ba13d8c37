"""Plans kept on disk, and priors read from runs and logs.

What is kept is never trusted: the type-one error of every design is computed again from its counts when it is loaded.
A plan that was edited, torn or made for another question can cost samples, never validity.
"""

import csv
import dataclasses
import gzip
import hashlib
import json
import operator
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...store import read_records, write_whole
from ..binomial import radius_cap
from ..planning import ABSTAINED, shares_from_radii
from .design import Design
from .selection import Plan, Prior, best_plan

VERSION = 1
"""Counted up when the search finds other plans."""


@lru_cache(maxsize=256)
def plan(p0: float, alpha: float, n_max: int, n0: int, loss: float, prior: Prior | None = None) -> Plan:
    """`best_plan`, kept on disk and for the next example; the same errors."""
    key = json.dumps([VERSION, p0, alpha, n_max, n0, loss, dataclasses.astuple(prior) if prior else None])
    path = folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    kept = load(path, p0, alpha, n_max, n0)
    if kept is None:
        kept = best_plan(p0, alpha, n_max, n0, loss, prior)
        save(kept, path)
    return kept


def folder() -> Path:
    """Where plans are kept: $XDG_CACHE_HOME/holdfast/plans, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdfast" / "plans"


def save(plan: Plan, path: Path) -> None:
    """Write a plan, whole or not at all; where that is impossible, the next process searches again."""
    content = {
        "stages": plan.stages,
        "actions": plan.actions,
        "designs": [{name: getattr(design, name) for name in FIELDS} for design in plan.designs],
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content).encode())


FIELDS = ("looks", "certify_at", "give_up_at")


def load(path: Path, p0: float, alpha: float, n_max: int, n0: int) -> Plan | None:
    """The plan in a file, or None where there is none that answers the question at this level."""
    try:
        content = json.loads(path.read_bytes())
        designs = [Design(p0, *(_integers(design[name]) for name in FIELDS)) for design in content["designs"]]
        actions = tuple(_integers(action) for action in content["actions"])
        plan = Plan(_integers(content["stages"]), actions, tuple(designs))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    fits = plan.stages[-1] <= n0 and all(design.looks[-1] <= n_max for design in designs)
    return plan if fits and plan.type_one_error <= alpha else None


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(operator.index(value) for value in values)


@lru_cache(maxsize=16)
def prior_from(source: str, sigma: float, n: int = 100_000, alpha: float = 1e-3) -> Prior:
    """How the vote shares of a certified run or of a published log are spread.

    Args:
        source: a certify folder, a run folder with one, or a log in the format of Cohen et al.
        sigma: standard deviation of the noise; where the source had another, the prior is off and costs samples.
        n: samples that a log was made with.
        alpha: level that a log was made at.

    Raises:
        ValueError: the source is none of these, or was not certified by sampling; it is named.
    """
    path = Path(source)
    shares = list(_shares_of_log(path, sigma, n, alpha) if path.is_file() else _shares_of_run(path))
    if not shares:
        raise ValueError(f"no vote shares for a prior in {path}: expected a run certified by sampling, or a log")
    return Prior.of(shares)


def _shares_of_log(path: Path, sigma: float, n: int, alpha: float) -> list[float]:
    zipped = path.read_bytes()[:2] == b"\x1f\x8b"
    try:
        with gzip.open(path, "rt") if zipped else path.open() as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        radii = np.array([float(row["radius"]) if int(row["predict"]) >= 0 else 0.0 for row in rows])
    except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a log with the columns predict and radius: {error!r}") from error
    return shares_from_radii(np.minimum(radii, radius_cap(sigma, n, alpha)), sigma, n, alpha).tolist()


def _shares_of_run(path: Path) -> Iterator[float]:
    for found in sorted(path.glob("certify-*")) or [path]:
        for record in read_records(found):
            votes = record.certificate.evidence.get("votes")
            if votes is not None:
                yield (max(votes.values()) + 0.5) / (sum(votes.values()) + 1) if votes else ABSTAINED
