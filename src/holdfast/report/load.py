"""Curves from what a user names: run folders, certify folders, exported tables, logs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from .. import store
from ..records import Limits
from ..spec import differences
from ..types import Record
from . import logs, parquet
from .curve import Curve
from .facts import name_of, read_facts
from .find import find


class Loaded(NamedTuple):
    """What could be read, and a sentence for everything that could not."""

    curves: list[Curve]
    left_out: list[str]


def load(paths: Sequence[Path]) -> Loaded:
    """One curve for every run that the paths stand for (see `find`); what cannot be read is left out, and told."""
    sources, left_out = find(paths)
    curves = []
    for source in sources:
        try:
            curves.append(read_curve(source))
        except (ValueError, OSError) as error:
            left_out.append(str(error))
    return Loaded(_distinguish(curves), left_out)


def read_curve(source: Path) -> Curve:
    """The curve of a certify folder, an exported table or a log.

    Raises:
        ValueError: it is none of these, is damaged, or holds no records.
    """
    facts = read_facts(source)
    records = read_source(source)
    if not records:
        raise ValueError(f"{source} holds no records yet; certify it first")
    return Curve(
        name=str(facts.get("name") or name_of(source)),
        records=records,
        settings=_flat(facts["certification"], source) if "certification" in facts else facts.get("settings", {}),
        recipe=facts.get("recipe", {}),
        explanation=facts.get("explanation", {}),
        total=facts.get("total"),
        cap=facts.get("cap"),
        most_samples=facts.get("samples"),
    )


def read_source(source: Path) -> list[Record]:
    """The records of a certify folder, an exported table or a log.

    A certify folder without records of its own is read from the table of its name that lies in it.

    Raises:
        ValueError: it is none of these, or is damaged.
    """
    table = source / f"{source.name}.parquet" if source.is_dir() else source
    if source.is_dir() and ((records := store.read_records(source)) or not table.exists()):
        return records
    if table.suffix == ".parquet":
        return parquet.read_parquet(table, Limits.of(read_facts(source), source))
    return list(logs.read_log(source))


def _flat(certification: Any, source: Path) -> dict[str, Any]:
    """Settings of the certifier and of the subset, side by side under their field names."""
    outer = dict(certification) if isinstance(certification, Mapping) else {}
    inner = outer.pop("certifier", None)
    if not isinstance(inner, Mapping):
        raise ValueError(f"{source} does not tell its certifier in run.json; was it edited?")
    kind = {"certifier": inner.get("kind", "?")}
    return {key: value for key, value in (kind | {**inner} | outer).items() if key != "kind"}


def _distinguish(curves: Sequence[Curve]) -> list[Curve]:
    """Curves of the same name get the settings in which they differ behind it."""
    named = []
    for curve in curves:
        twins = [other for other in curves if other is not curve and other.name == curve.name]
        found = {key: here for twin in twins for key, (here, _) in differences(curve.settings, twin.settings).items()}
        told = ", ".join(f"{key}={found[key]}" for key in sorted(found) if found[key] is not None)
        named.append(replace(curve, name=f"{curve.name} [{told}]") if told else curve)
    return named
