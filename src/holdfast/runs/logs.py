"""Records as one file for other tools: logs in the format of Cohen, Rosenfeld & Kolter (2019), and Parquet tables.

Format of logs, plain or gzipped: https://github.com/locuslab/smoothing, one line per example under the header

    idx  label  predict  radius  correct  time

predict -1 is an abstention; radius is in l2 and pixel units of [0, 1] images. Released logs print it with 3 significant
digits rounded to nearest, so it can exceed the proven radius by half a unit of the last digit; ours are rounded down.

The format has no place for alpha and the other settings: a log of ours, x.tsv, has them in a file beside it,
x.tsv.json, with a checksum of the log that it belongs to. Those of the logs that were released with papers stand in
released.json, by their checksums.

A Parquet table loses nothing: one row per example, evidence as JSON text. What else is known of the run (name,
settings, recipe, cap, number of examples) stands as JSON in the metadata of the schema, under the key `holdfast`.
"""

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.certificate import Record
from . import store
from .records import Checked, Limits, record_of

HEADER = ("idx", "label", "predict", "radius", "correct", "time")

CONFIDENCE = 0.999
"""Of a log that is not known: 1 minus the default alpha of every released certification script."""

RELEASED = Path(__file__).with_name("released.json")
"""The settings of released logs. No log tells its alpha, but which votes its radii can follow from does (`holdfast
verify`): `fits` are those of the alphas 0.001 and 0.01 from which all its radii follow; `alpha` is the one of them, or
the default of the released script where both fit."""

DIGITS = Decimal("1e-9")
"""Resolution of a radius that we write."""


def read_log(path: Path | str) -> Iterator[Record]:
    """The records of a log, in its order; prediction None = abstained.

    Their confidence is that of the file of settings beside the log, that of a released log (`RELEASED`), or
    `CONFIDENCE`.

    Raises:
        ValueError: the file is not such a log or is cut off; file, line and what was found are named.
        FileNotFoundError: there is no such file.
    """
    path, number, seen = Path(path), 0, set[int]()
    beside = _beside(path)
    confidence = beside.get("confidence", 1 - released(path)["alpha"] if released(path) else CONFIDENCE)
    limits = replace(Limits.of(beside.get("holdfast", {}), path), complete=False)  # a log has no place for evidence
    try:
        with io.TextIOWrapper(_open(path), encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    _check_header(line)
                    continue
                record = limits.check(_parse(line, confidence)).record
                if record.index in seen:
                    raise ValueError(f"example {record.index} is listed twice")
                seen.add(record.index)
                yield record
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} is cut off after line {number}: {error}") from error
    except (ValueError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}, line {max(number, 1)}: {error}") from error
    if number == 0:
        raise ValueError(f"{path} is empty; expected a certification log that starts with {' '.join(HEADER)}")


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb")


def _check_header(line: str) -> None:
    if tuple(line.rstrip("\r\n").split("\t")) != HEADER:
        raise ValueError(f"expected the header {' '.join(HEADER)} with tabs between, found {line[:80].strip()!r}")


def _parse(line: str, confidence: float) -> Record:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != len(HEADER):
        raise ValueError(f"found {len(fields)} columns, expected {len(HEADER)}; the file is foreign or cut off")
    index, label, predict, correct = (int(fields[column]) for column in (0, 1, 2, 4))
    if correct != (predict == label):
        raise ValueError(f"correct is {correct}, but predict {predict} and label {label} say otherwise")
    proof = {"radius": float(fields[3]), "norm": "l2", "confidence": confidence}
    proof["prediction"] = None if predict == -1 else predict
    return record_of({"index": index, "label": label, "certificate": proof})


def write_log(records: Sequence[Record], path: Path | str, facts: Mapping[str, Any] | None = None) -> None:
    """Write records in the same format; radii are rounded down, and time, which a record does not hold, is nan.

    Args:
        facts: what is known of the run, for the file of settings beside the log; none is written without.

    Raises:
        ValueError: a radius in another norm than l2, which the format cannot express.
    """
    lines = ["\t".join(HEADER), *(_line(record) for record in records)]
    content = ("\n".join(lines) + "\n").encode()
    store.write_whole(Path(path), content)
    if facts:
        confidence = min(record.certificate.confidence for record in records)
        told = {"sha256": hashlib.sha256(content).hexdigest(), "confidence": confidence, "holdfast": dict(facts)}
        store.write_whole(_beside_path(Path(path)), (json.dumps(told, indent=2) + "\n").encode())


def read_facts(path: Path) -> dict[str, Any]:
    """What the file beside a log of ours tells of its run, or what is known of a released log; empty for any other.

    Raises:
        ValueError: that file belongs to another log.
    """
    if (told := _beside(path).get("holdfast")) is not None:
        return told
    if not (told := released(path)):
        return {}
    names = ("sigma", "n", "alpha", "dataset", "split")
    settings = {"certifier": "Gaussian"} | {name: told[name] for name in names}
    return {"settings": settings, "cap": told["cap"], "released": told}


def released(path: Path) -> Mapping[str, Any]:
    """The entry of a log in `RELEASED`; empty for one that is not in it."""
    try:
        with _open(path) as file:
            return _released().get(hashlib.sha256(file.read()).hexdigest(), {})
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return {}  # reading it will tell


@cache
def _released() -> dict[str, Mapping[str, Any]]:
    return {entry["sha256"]: entry for entry in json.loads(RELEASED.read_text(encoding="utf-8"))}


def _beside_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.gz')}.json")


def _beside(path: Path) -> dict[str, Any]:
    told = _beside_path(path)
    if not told.is_file():
        return {}
    try:
        found = store.from_json(told.read_bytes())
        if not isinstance(found, dict) or not isinstance(found.get("holdfast"), dict):
            return {}  # a file of somebody else
        with _open(path) as file:
            matches = hashlib.sha256(file.read()).hexdigest() == found["sha256"]
    except (ValueError, KeyError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{told} does not tell the settings of {path.name} ({error!r}); remove or export again"
        ) from error
    if not matches:
        raise ValueError(f"{told} tells the settings of another content of {path.name}; export again, or remove it")
    return found


def _line(record: Record) -> str:
    proof = record.certificate
    if proof.norm != "l2":
        raise ValueError(f"this format holds l2 radii only, found {proof.norm}; export as parquet instead")
    radius = Decimal(proof.radius).quantize(DIGITS, rounding=ROUND_FLOOR)
    predict = -1 if proof.prediction is None else proof.prediction
    values = (record.index, record.label, predict, f"{radius:f}", int(record.correct), math.nan)
    return "\t".join(map(str, values))


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
    pq.write_table(
        pa.table(columns).replace_schema_metadata({KEY: json.dumps(dict(facts))}), content, compression="zstd"
    )
    store.write_whole(path, content.getvalue())


def read_parquet(path: Path, limits: Limits) -> list[Checked]:
    """The records of a table that `write_parquet` wrote.

    Raises:
        ValueError: no such table, or a row is no record of this run; file and row are named.
    """
    table = _open_table(path).read()
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; expected a table of `holdfast export`")
    found: dict[int, Checked] = {}
    for number, row in enumerate(table.to_pylist(), 1):
        try:
            new = limits.check(_of_row(row))
            if found.setdefault(new.record.index, new) is not new:
                raise ValueError(f"example {new.record.index} is listed twice")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}, row {number}: not a record of this run: {error}") from error
    return limits.ordered(found, path)


def parquet_facts(path: Path) -> dict[str, Any] | None:
    """What the table tells of its run; None for a table of an older holdfast, which tells nothing."""
    text = (_open_table(path).schema_arrow.metadata or {}).get(KEY)
    return None if text is None else store.from_json(text)


def _open_table(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path} is no Parquet table, or cut off: {error}") from error


def _of_row(row: Mapping[str, Any]) -> Record:
    proof = {name: row[name] for name in ("prediction", "radius", "norm", "confidence")}
    evidence = store.from_json(row["evidence"])
    record = record_of({"index": row["index"], "label": row["label"], "certificate": proof | {"evidence": evidence}})
    if record.correct is not row["correct"]:
        raise ValueError(
            f"correct is {row['correct']}, but prediction {row['prediction']} and label {row['label']} say otherwise"
        )
    return record
