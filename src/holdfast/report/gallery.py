"""The examples of a run that are looked at one by one, and what is kept of the evidence of all others."""

import heapq
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from ..core.certificate import Certificate, Record

SHOWN = 8
"""Examples of each kind."""

KEPT = ("alpha", "samples", "p_lower", "one_class_radius", "invalid", "ends")
"""Numbers of every example that a report counts or averages."""

WHOLE = {"profile", "inner"}
"""What certificates through two halves hold, of which the report has a table."""

RADIUS = attrgetter("certificate.radius")


def gallery(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Examples of four kinds, at most `SHOWN` each, the most telling ones first, and of equal ones
    those that stand first; kinds without any are left out."""
    right = [record for record in records if record.correct]
    silent = [record for record in records if record.certificate.prediction is None]
    wrong = [record for record in records if not record.correct and record.certificate.prediction is not None]
    found = {
        "smallest certified radii": heapq.nsmallest(SHOWN, right, RADIUS),
        "certified as another class": heapq.nlargest(SHOWN, wrong, RADIUS),
        "abstentions": silent[:SHOWN],
        "largest radii": heapq.nlargest(SHOWN, right, RADIUS),
    }
    return {kind: shown for kind, shown in found.items() if shown}


def thinned(records: Sequence[Record]) -> list[Record]:
    """The same records; those outside of the gallery with the part of their evidence that a report reads."""
    whole = {record.index for shown in gallery(records).values() for record in shown}
    kept: dict[Any, Any] = {}  # equal numbers of many examples are one object
    return [record if record.index in whole else _thin(record, kept) for record in records]


def _thin(record: Record, kept: dict[Any, Any]) -> Record:
    proof = record.certificate
    if not WHOLE.isdisjoint(proof.evidence):
        return record
    told = {name: _one(proof.evidence[name], kept) for name in KEPT if name in proof.evidence}
    norm = kept.setdefault(proof.norm, proof.norm)
    thin = Certificate(proof.prediction, proof.radius, norm, _one(proof.confidence, kept), told)
    return Record(record.index, record.label, thin)


def _one(value: Any, kept: dict[Any, Any]) -> Any:
    return value if isinstance(value, list) else kept.setdefault((type(value), value), value)


def votes(evidence: Mapping[str, Any]) -> dict[str, int]:
    """How the noise samples voted, by class, most votes first; empty for a proof without sampling."""
    found = evidence.get("votes") or evidence.get("selection") or {}
    return dict(sorted(found.items(), key=lambda item: (-item[1], int(item[0]))))
