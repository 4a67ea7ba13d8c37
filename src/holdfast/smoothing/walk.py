"""One example on its way over the looks of a sequential test: sample, look, stop when enough is known."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..types import Certifier
from .binomial import check_alpha
from .radius_grid import RadiusBoundaries
from .sampling import sparse


@dataclass(frozen=True)
class Selection:
    """The class that a first sample selects, and the votes that selected it."""

    top: int
    votes: list[int]


def select(n0: int) -> Generator[int, list[int], Selection]:
    """Ask for n0 samples and take the class with most votes."""
    votes = yield n0
    return Selection(int(np.argmax(votes[:-1])), votes)


def add(total: list[int], votes: list[int]) -> list[int]:
    """Votes so far; `total` may be empty."""
    return [a + b for a, b in zip(total, votes, strict=True)] if total else votes


@dataclass(frozen=True)
class Walk:
    """Where an example stands."""

    certified: int
    """How many radii of the grid are certified."""
    possible: int
    """How many are not ruled out."""
    looks: int
    """Looks taken."""
    votes: list[int]
    """Votes of all samples after the selection."""


def walk(boundaries: RadiusBoundaries, top: int, enough: Callable[[Walk], bool]) -> Generator[int, list[int], Walk]:
    """Sample from look to look until `enough` says stop, or the last look is taken.

    The largest number certified at any look counts: the error of ever crossing is what the boundaries bound. Stopping
    early can only lower it.
    """
    now = Walk(0, len(boundaries.radii), 0, [])
    for look, n in enumerate(boundaries.looks):
        votes = add(now.votes, (yield n - sum(now.votes)))
        certified = max(now.certified, int(boundaries.certified(look, votes[top])))
        possible = min(now.possible, int(boundaries.possible(look, votes[top])))
        now = Walk(certified, possible, look + 1, votes)
        if enough(now):
            break
    return now


@lru_cache(maxsize=64)
def boundaries(radii: tuple[float, ...], alpha: float, looks: tuple[int, ...], beta: float) -> RadiusBoundaries:
    """Boundaries, kept for the next example with the same settings."""
    return RadiusBoundaries(radii, alpha, looks, beta)


def evidence(certifier: Certifier, selection: Selection, votes: list[int], looks: int) -> dict[str, Any]:
    """What every sequential certificate records: the settings, the votes, and what they cost."""
    settings = certifier.to_dict()
    settings.pop("kind")
    return settings | {
        "selection": sparse(selection.votes),
        "votes": sparse(votes),
        "invalid": votes[-1],
        "looks": looks,
        "n": sum(votes),
        "samples": sum(selection.votes) + sum(votes),
    }


def check(certifier: Any) -> None:
    """Refuse settings that all sequential certifiers refuse.

    Raises:
        ValueError: it names the field and its value.
    """
    if not 0 < certifier.sigma < math.inf:
        raise ValueError(f"sigma must be positive, got {certifier.sigma}")
    check_alpha(certifier.alpha)
    if certifier.n0 < 1:
        raise ValueError(f"n0 must be at least 1: samples of their own select the class; got {certifier.n0}")
    if not 0 < getattr(certifier, "tolerance", 1.0) < math.inf:
        raise ValueError(f"tolerance must be positive, in units of sigma, got {certifier.tolerance}")
