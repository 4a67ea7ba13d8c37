"""`holdfast export`: the records of a run as one file, for other people's tools."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.certificate import Record
from .load import name_of, read_source, sources
from .logs import write_log


def export(path: Path, format: Literal["tsv", "parquet"] = "tsv", out: Path | None = None) -> list[Path]:
    """Write one file per certify folder: Cohen's tab-separated log (`tsv`), or a table with all evidence (`parquet`).

    Args:
        path: a run folder, a certify folder or a log.
        format: what to write.
        out: folder for the files; by default `path`, or the folder around a log.

    Returns:
        the files written.

    Raises:
        ValueError: the path is no run or log, radii not in l2 cannot be tsv, or a log would be overwritten.
    """
    folder = out or (path if path.is_dir() else path.parent)
    folder.mkdir(parents=True, exist_ok=True)
    targets = {source: folder / f"{name_of(source)}.{format}" for source in sources(path)}
    for source, target in targets.items():
        if target.resolve() == source.resolve():
            raise ValueError(f"{source} would be overwritten; choose another folder")
        {"tsv": write_log, "parquet": write_parquet}[format](read_source(source), target)
    return list(targets.values())


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """One row per example; evidence as JSON text."""
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
    pq.write_table(pa.table(columns), path)
