"""Records out of JSON: every value of the right type, and nothing that the run cannot hold."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from .types import Certificate, Norm, Record

FIELDS = {field.name for field in dataclasses.fields(Certificate)}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the records of a run can be, as its run.json tells it."""

    indices: range | None = None
    """The examples that the run asked for; None where unknown."""
    cap: float = math.inf
    """The largest radius that its settings can prove."""

    @classmethod
    def of(cls, run: Mapping[str, Any], source: Path) -> "Limits":
        """The limits that the content of a run.json sets; none where it does not say.

        Raises:
            ValueError: the content cannot be that of a run.json; `source` says where it was found.
        """
        try:
            asked, total = run.get("certification", {}), run.get("total")
            cap = math.inf if run.get("cap") is None else _value(run, "cap", (int, float), "a number")
            first, step = asked.get("start", 0), asked.get("every", 1)
            indices = None if total is None else range(first, first + step * total, step)
            return cls(indices, float(cap))
        except (AttributeError, TypeError, ValueError) as error:
            found = f"{source} tells no valid start, every, total and cap"
            raise ValueError(f"{found} in its run.json ({error}); was it edited?") from error

    def check(self, record: Record) -> Record:
        """The record.

        Raises:
            ValueError: the run did not ask for this example, or cannot prove this radius.
        """
        if self.indices is not None and record.index not in self.indices:
            raise ValueError(f"index is {record.index}, and the run did not ask for that example; was it edited?")
        if not record.certificate.radius <= self.cap * (1 + 1e-9):  # another processor may round the cap otherwise
            found = f"radius is {record.certificate.radius:.6g}, above {self.cap:.6g}, the largest that this run"
            raise ValueError(f"{found} can prove; was it edited?")
        return record


def record_of(data: Any) -> Record:
    """The record that a line of JSON holds, with the type of every value checked.

    Raises:
        ValueError: a value is missing or of another type; it is named, with what was expected.
    """
    if not isinstance(data, dict):
        raise ValueError(f"found {data!r:.80}, expected an object")
    proof = _value(data, "certificate", dict, "an object")
    if strange := proof.keys() - FIELDS:
        raise ValueError(f"the certificate has unknown fields: {', '.join(sorted(strange))}")
    norm = _value(proof, "norm", str, "a string")
    if norm not in get_args(Norm):
        raise ValueError(f"norm is {norm!r}, expected one of {', '.join(get_args(Norm))}")
    certificate = Certificate(
        prediction=None if proof.get("prediction", 0) is None else _count(proof, "prediction"),
        radius=float(_value(proof, "radius", (int, float), "a number")),
        norm=norm,
        confidence=float(_value(proof, "confidence", (int, float), "a number")),
        evidence=_value({"evidence": {}} | proof, "evidence", dict, "an object"),
    )
    return Record(_count(data, "index"), _value(data, "label", int, "an integer"), certificate)


def _count(data: Mapping[str, Any], name: str) -> int:
    value = _value(data, name, int, "an integer, 0 or more")
    if value < 0:
        raise ValueError(f"{name} is {value}, expected an integer, 0 or more")
    return value


def _value(data: Mapping[str, Any], name: str, kind: type | tuple[type, ...], expected: str) -> Any:
    """The value under a name; true and false are no numbers."""
    if name not in data:
        raise ValueError(f"{name} is missing, expected {expected}")
    if isinstance(data[name], bool) or not isinstance(data[name], kind):
        raise ValueError(f"{name} is {data[name]!r:.80}, expected {expected}")
    return data[name]
