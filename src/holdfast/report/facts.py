"""What lies beside the records of a run: how training went, what certification cost, what attacks found."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.certificate import OWN
from ..runs import store
from ..runs.find import run_of
from .curve import Curve
from .statistics import Estimate, share


@dataclass(frozen=True)
class Attack:
    """Accuracy under an attack: an upper bound of what can be certified."""

    epsilon: float
    """Pixel units."""
    examples: int
    accuracy: Estimate


@dataclass(frozen=True)
class Facts:
    """Of one run; empty where nothing was kept."""

    training: dict[str, list[float]] = field(default_factory=dict)
    """The columns of metrics.csv."""
    training_seconds: float | None = None
    seconds: float | None = None
    """Of all processes that certified, together."""
    devices: tuple[str, ...] = ()
    torch: tuple[str, ...] = ()
    attacks: tuple[Attack, ...] = ()


def facts_of(curve: Curve) -> Facts:
    """What its folders tell; a file that cannot be read tells nothing."""
    folder = run_of(curve.source) if curve.source else None
    if folder is None:
        return Facts()
    certified, trained = list(store.entries(folder)), list(store.entries(folder.parent))
    return Facts(
        training=_columns(folder.parent / "metrics.csv"),
        training_seconds=_seconds(trained, "trained"),
        seconds=_seconds(certified, "certified"),
        devices=_told(certified, "device"),
        torch=_told(certified, "torch"),
        attacks=attacks_of(curve),
    )


def _columns(path: Path) -> dict[str, list[float]]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = {name: [float(row[name] or math.nan) for row in rows] for name in rows[0]} if rows else {}
    except (ValueError, TypeError, OSError):
        return {}
    return {name: values for name, values in found.items() if len(values) > 1}


def _seconds(entries: list[dict[str, Any]], event: str) -> float | None:
    found = [entry["seconds"] for entry in entries if entry.get("event") == event and "seconds" in entry]
    return float(sum(found)) if found else None


def _told(entries: list[dict[str, Any]], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(entry[name]) for entry in entries if name in entry))


def attacks_of(curve: Curve) -> tuple[Attack, ...]:
    """What attacks left of the function that was certified, in its norm, by epsilon: of several the strongest."""
    folder = run_of(curve.source) if curve.source else None
    strongest: dict[float, Attack] = {}
    for found in _attacks(folder.parent, curve) if folder else ():
        other = strongest.get(found.epsilon, found)
        strongest[found.epsilon] = min(found, other, key=lambda attack: attack.accuracy.value)
    return tuple(strongest[epsilon] for epsilon in sorted(strongest))


def _attacks(run: Path, curve: Curve) -> Iterator[Attack]:
    for path in sorted(run.glob("attack-*.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            asked, found = told["attack"], told["found"]
            if _is_of(curve, asked) and found["total"]:
                standing = share(found["standing"], found["total"])
                yield Attack(float(asked["epsilon"]), found["total"], standing)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            continue


def _is_of(curve: Curve, asked: Mapping[str, Any]) -> bool:
    """Whether the attacked function is the certified one: noise makes another one of a network."""
    attacked = asked["certifier"]
    threat = "l2" if "sigma" in attacked else attacked.get("threat", OWN)
    same = all(asked.get(name) == curve.settings.get(name) for name in ("model", "dataset", "split"))
    return same and attacked.get("sigma") == curve.settings.get("sigma") and threat in (curve.norm, OWN)
