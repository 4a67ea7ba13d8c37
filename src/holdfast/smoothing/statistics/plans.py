"""Plans kept on disk.

What is kept is never trusted: the type-one error of every design is computed again from its counts when it is loaded.
A plan that was edited, torn or made for another question can cost samples, never validity.
"""

import dataclasses
import hashlib
import json
import operator
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...runs.store import cache
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
    """Where plans are kept."""
    return cache() / "plans"


def save(plan: Plan, path: Path) -> None:
    """Write a plan, whole or not at all; where that is impossible, the next process searches again."""
    content = {
        "stages": plan.stages,
        "actions": plan.actions,
        "designs": [{name: getattr(design, name) for name in FIELDS} for design in plan.designs],
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(content))
        draft.replace(path)


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
