"""Certification logs in the tab-separated format of Cohen, Rosenfeld & Kolter (2019), plain or gzipped.

Format: https://github.com/locuslab/smoothing, one line per example under the header

    idx  label  predict  radius  correct  time

predict -1 is an abstention; radius is in l2 and pixel units of [0, 1] images. Released logs print it with 3 significant
digits rounded to nearest, so it can exceed the proven radius by half a unit of the last digit; ours are rounded down.
"""

import gzip
import math
import zlib
from collections.abc import Iterable, Iterator
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import IO

from ..core.certificate import Certificate, Record

HEADER = ("idx", "label", "predict", "radius", "correct", "time")

CONFIDENCE = 0.999
"""A log does not say its alpha; this is 1 minus the default of every released certification script."""

DIGITS = Decimal("1e-9")
"""Resolution of a radius that we write."""


def read_log(path: Path | str) -> Iterator[Record]:
    """The records of a log, in its order; prediction None = abstained.

    Raises:
        ValueError: the file is not such a log or is cut off; file, line and what was found are named.
        FileNotFoundError: there is no such file.
    """
    path, number, seen = Path(path), 0, set[int]()
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    _check_header(line)
                    continue
                record = _parse(line)
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


def _open(path: Path) -> IO[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rt", encoding="utf-8") if zipped else path.open(encoding="utf-8")


def _check_header(line: str) -> None:
    if tuple(line.rstrip("\r\n").split("\t")) != HEADER:
        raise ValueError(f"expected the header {' '.join(HEADER)} with tabs between, found {line[:80].strip()!r}")


def _parse(line: str) -> Record:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != len(HEADER):
        raise ValueError(f"found {len(fields)} columns, expected {len(HEADER)}; the file is foreign or cut off")
    index, label, predict, correct = (int(fields[column]) for column in (0, 1, 2, 4))
    if correct != (predict == label):
        raise ValueError(f"correct is {correct}, but predict {predict} and label {label} say otherwise")
    certificate = Certificate(None if predict == -1 else predict, float(fields[3]), "l2", CONFIDENCE)
    return Record(index, label, certificate)


def write_log(records: Iterable[Record], path: Path | str) -> None:
    """Write records in the same format; radii are rounded down, and time, which a record does not hold, is nan.

    Raises:
        ValueError: a radius in another norm than l2, which the format cannot express.
    """
    lines = ["\t".join(HEADER), *(_line(record) for record in records)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(record: Record) -> str:
    proof = record.certificate
    if proof.norm != "l2":
        raise ValueError(f"this format holds l2 radii only, found {proof.norm}; export as parquet instead")
    radius = Decimal(proof.radius).quantize(DIGITS, rounding=ROUND_FLOOR)
    predict = -1 if proof.prediction is None else proof.prediction
    values = (record.index, record.label, predict, f"{radius:f}", int(record.correct), math.nan)
    return "\t".join(map(str, values))
