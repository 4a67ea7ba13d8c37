"""Records and the settings they were made with as one Parquet table, and back without loss.

One row per example, evidence as JSON text. What else is known of the run (name, settings, recipe, cap, number of
examples) stands as JSON in the metadata of the schema, under the key `holdfast`.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.certificate import Record
from . import store
from .records import Checked, Limits, record_of

KEY = b"holdfast"
COLUMNS = ("index", "label", "prediction", "radius", "correct", "norm", "confidence", "evidence")


def write_parquet(records: Sequence[Record], path: Path, facts: Mapping[str, Any]) -> None:
    """Write the whole table or nothing; facts: what is known of the run."""
    proofs = [record.certificate for record in records]
    columns = {
        "index": [record.index for record in records],
        "label": [record.label for record in records],
        "prediction": pa.array([proof.prediction for proof in proofs], pa.int64()),
        "radius": pa.array([proof.radius for proof in proofs], pa.float64()),
        "correct": [record.correct for record in records],
        "norm": [proof.norm for proof in proofs],
        "confidence": pa.array([proof.confidence for proof in proofs], pa.float64()),
        "evidence": [json.dumps(dict(proof.evidence)) for proof in proofs],
    }
    content = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({KEY: json.dumps(dict(facts))}), content)
    store.write_whole(path, content.getvalue())


def read_parquet(path: Path, limits: Limits) -> list[Checked]:
    """The records of a table that `write_parquet` wrote.

    Raises:
        ValueError: no such table, or a row is no record of this run; file and row are named.
    """
    table = _open(path).read()
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; expected a table of `holdfast export`")
    found: dict[int, Checked] = {}
    for number, row in enumerate(table.to_pylist(), 1):
        try:
            new = limits.check(_record(row))
            if found.setdefault(new.record.index, new) is not new:
                raise ValueError(f"example {new.record.index} is listed twice")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}, row {number}: not a record of this run: {error}") from error
    return [found[index] for index in sorted(found)]


def read_facts(path: Path) -> dict[str, Any] | None:
    """What the table tells of its run; None for a table of an older holdfast, which tells nothing."""
    text = (_open(path).schema_arrow.metadata or {}).get(KEY)
    return None if text is None else json.loads(text)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path} is no Parquet table, or cut off: {error}") from error


def _record(row: Mapping[str, Any]) -> Record:
    proof = {name: row[name] for name in ("prediction", "radius", "norm", "confidence")}
    evidence = json.loads(row["evidence"])
    record = record_of({"index": row["index"], "label": row["label"], "certificate": proof | {"evidence": evidence}})
    if record.correct is not row["correct"]:
        raise ValueError(
            f"correct is {row['correct']}, but prediction {row['prediction']} and label {row['label']} say otherwise"
        )
    return record
