"""The records of a certify folder: read with every value checked, written so that a kill loses at most one."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core.certificate import Certificate, Evidence, Record, ours, verified
from ..core.certifier import Certifier, Seed
from ..core.config import import_kinds
from ..core.registry import KINDS
from ..core.threat import THREATS
from .store import from_json, lock, read_run

ROUNDING = 1e-6
"""Relative difference of a constant of the network that two processors may make."""

FIELDS = {field.name for field in dataclasses.fields(Certificate)}


class Checked(NamedTuple):
    """A record that was read, and what its radius was computed from again."""

    record: Record
    evidence: Evidence | None
    """None where not enough was kept."""


def read_records(folder: Path) -> list[Record]:
    """All records of a certify folder, sorted by index; see `read_checked`."""
    return [found.record for found in read_checked(folder)]


def read_checked(folder: Path) -> list[Checked]:
    """All records of a certify folder, sorted by index. A torn last line of a file counts as not written.

    Raises:
        ValueError: a line is not a record, or not one that this run can hold (file and line are named), or two files
            disagree about an example.
    """
    found: dict[int, Checked] = {}
    limits = Limits.of_folder(folder)
    for path in sorted(folder.glob("records-*.jsonl")):
        for new in _read_file(path, limits):
            index = new.record.index
            if (first := found.setdefault(index, new)) is not new and first.record != new.record:
                raise ValueError(_differ(folder, index, path))
    return limits.ordered(found, folder)


def read_labels(folder: Path) -> dict[int, int]:
    """By example of which a certify folder holds a record, every one checked as by `read_checked`, its label.

    Of a record no more is kept than that and its hash: a folder may hold millions.
    """
    limits, found, labels = Limits.of_folder(folder), dict[int, int](), dict[int, int]()
    for path in sorted(folder.glob("records-*.jsonl")):
        for new in _read_file(path, limits):
            line = hash(json.dumps(_plain(new.record), sort_keys=True))
            if found.setdefault(new.record.index, line) != line:
                raise ValueError(_differ(folder, new.record.index, path))
            labels[new.record.index] = new.record.label
    return labels


def _differ(folder: Path, index: int, path: Path) -> str:
    return f"{folder}: two different records of example {index}; one is in {path.name}"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the records of a run can be, as its run.json tells it."""

    indices: range | None = None
    """The examples that the run asked for; None where unknown."""
    cap: float = math.inf
    """The largest radius that its settings can prove."""
    certifier: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of its certifier; empty where unknown."""
    complete: bool = False
    """Whether its certificates hold all that their radii follow from; older versions did not keep everything."""
    runtime: str | None = None
    """What ran its model; None where unknown."""
    norm: str | None = None
    """Of all its radii; None where unknown."""
    labels: str | None = None
    """Checksum of the labels of all its examples (`Images.checksums`); None where unknown."""
    seed: int | None = None
    """Of its noise; None where unknown."""
    chosen: dict[tuple[Any, ...], tuple[int, Sequence[float | str]]] = dataclasses.field(default_factory=dict)
    """What the records that were checked so far say was chosen before the votes, each from the example that says most;
    see `Evidence.chosen`."""

    @classmethod
    def of_folder(cls, folder: Path) -> "Limits":
        """The limits that the run.json of a folder sets; none without one."""
        return cls.of(read_run(folder), folder) if (folder / "run.json").exists() else cls()

    @classmethod
    def of(cls, run: Mapping[str, Any], source: Path) -> "Limits":
        """The limits that the content of a run.json sets; none where it does not say.

        Raises:
            ValueError: the content cannot be that of a run.json; `source` says where it was found.
        """
        import_kinds(run)
        try:
            asked, total = run.get("certification", {}), run.get("total")
            cap = math.inf if run.get("cap") is None else _value(run, "cap", (int, float), "a number")
            first, step = asked.get("start", 0), asked.get("every", 1)
            indices = None if total is None else range(first, first + step * total, step)
            _check_kind(certifier_of(run))
            _ = indices is not None and len(indices)  # no list is longer than a machine word says
            _check_revises(run.get("revises", {}))
            _check_released(run.get("released"))
            runtime = asked.get("runtime", "torch") if "certification" in run else None
            labels = run.get("checksums", {}).get("labels")
            seed = _count({"seed": 0} | asked, "seed") if "certification" in run else None
            told = (certifier_of(run), "checksums" in run, runtime, run.get("norm"), labels, seed)
            return cls(indices, float(cap), *told)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            found = f"{source} tells no valid start, every, total, cap, revises, released and certifier"
            raise ValueError(f"{found} in its run.json ({error}); was it edited?") from error

    def check(self, record: Record) -> Checked:
        """The record with its evidence.

        Raises:
            ValueError: the run did not ask for this example, or cannot prove this radius, or the certificate does not
                follow from its evidence and the settings of the run.
        """
        if self.indices is not None and record.index not in self.indices:
            raise ValueError(f"index is {record.index}, and the run did not ask for that example; was it edited?")
        if not record.certificate.radius <= self.cap * (1 + 1e-9):  # another processor may round the cap otherwise
            found = f"radius is {record.certificate.radius:.6g}, above {self.cap:.6g}, the largest that this run"
            raise ValueError(f"{found} can prove; was it edited?")
        if (told := record.certificate.evidence.get("runtime", self.runtime)) != self.runtime and self.runtime:
            raise ValueError(f"runtime is {told!r} in the evidence, and {self.runtime!r} in the run; was it edited?")
        if self.norm not in (None, record.certificate.norm):
            raise ValueError(f"norm is {record.certificate.norm!r}, and {self.norm!r} in the run; was it edited?")
        evidence = verified(record.certificate, self.certifier, self.complete)
        if evidence is not None:
            if self.seed is not None and not evidence.of_seed(Seed(self.seed, record.index)):
                raise ValueError(f"its random number is not that of seed {self.seed} and its index; was it edited?")
            self._check_chosen(record.index, evidence)
        return Checked(record, evidence)

    def ordered(self, found: Mapping[int, Checked], source: Path) -> list[Checked]:
        """All records of a run by index; if it is finished, with the labels that it was started with.

        Raises:
            ValueError: the labels are others; `source` says where.
        """
        checked = [found[index] for index in sorted(found)]
        finished = self.indices is not None and len(found) == len(self.indices)
        if finished and self.labels not in (None, labels_checksum(one.record.label for one in checked)):
            raise ValueError(f"{source}: the labels are not those that the run was started with; was one edited?")
        return checked

    def _check_chosen(self, index: int, evidence: Evidence) -> None:
        """Refuse numbers that another record of the run contradicts: whoever has seen votes could choose them to fit.

        Another version of scipy may round a count to the next, and another processor a constant otherwise.
        """
        for name, told in evidence.chosen().items():
            first, known = self.chosen.setdefault(name, (index, told))
            for place, (new, old) in enumerate(zip(told, known, strict=False)):
                if not _alike(new, old):
                    raise ValueError(
                        f"{name[0]} holds {new} at place {place}, and {old} in the record of example {first}: they "
                        "were there before the votes, for all examples alike; was one edited, or is one of another "
                        "version of holdfast?"
                    )
            if len(told) > len(known):
                self.chosen[name] = (index, told)


def _check_kind(certifier: Mapping[str, Any]) -> None:
    """Refuse settings of what is no certifier: ours, one of another package, or one that this process has made."""
    kind = certifier.get("kind") if certifier else None
    made = KINDS.known(kind) if isinstance(kind, str) else None
    known = ours(kind) or (made is not None and issubclass(made, Certifier)) or ":" in str(kind)
    if certifier and not known:
        raise ValueError(f"no certifier is called {kind!r}, here and in this version of holdfast")


def _check_released(told: Mapping[str, Any] | None) -> None:
    """Refuse what is no note of a released log, which does not tell its alpha: see `holdfast.runs.logs`."""
    if told and not (_value(told, "source", str, "text") and _value(told, "n", int, "a number") > 0):
        raise ValueError(f"the released log is told as {told!r:.80}")
    for alpha in (told["alpha"], *_value(told, "fits", (list, tuple), "a list")) if told else ():
        if not 0 < _value({"alpha": alpha}, "alpha", (int, float), "a number") < 1:
            raise ValueError(f"an alpha of the released log is {alpha}, expected a probability")


def _check_revises(told: Mapping[str, Any]) -> None:
    """Refuse what is no note of a run whose settings were changed: its alphas are added to those of this one."""
    for name, alpha in told.get("earlier_alphas", {}).items():
        if not 0 <= _value({name: alpha}, name, (int, float), "a number") < 1:
            raise ValueError(f"the earlier alpha of {name} is {alpha}, expected a probability")
    for name, pair in told.get("changed", {}).items():
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"what changed of {name} is {pair!r:.80}, expected the old value and the new")


def _alike(new: float | str, old: float | str) -> bool:
    if isinstance(new, str) or isinstance(old, str):
        return new == old
    return new == old or abs(new - old) <= (1 if isinstance(new, int) and isinstance(old, int) else ROUNDING * abs(old))


def labels_checksum(labels: Iterable[int]) -> str | None:
    """16 hex digits of the SHA-256 of labels; None where one is no label."""
    try:
        return hashlib.sha256(array("q", labels).tobytes()).hexdigest()[:16]
    except OverflowError:
        return None


def certifier_of(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the certifier in the content of a run.json; empty where it does not say."""
    found = run.get("certification", {}).get("certifier", {})
    return found if isinstance(found, Mapping) else {}


def count_records(folder: Path) -> int:
    """Of how many examples the records files of a certify folder hold a whole line; two machines may have one each."""
    lines = (line for path in folder.glob("records-*.jsonl") for line in path.read_bytes().split(b"\n")[:-1])
    return len({line.partition(b",")[0] for line in lines})


def _read_file(path: Path, limits: Limits) -> Iterator[Checked]:
    if not path.is_file():
        raise ValueError(f"{path} is no file: a link to nothing, a folder, or a device; was it put there?")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # torn, or still being written
            try:
                yield limits.check(record_of(from_json(line)))
            except (ValueError, OverflowError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not a record of this run: {error}") from error


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
    if not isinstance(norm, str) or norm not in THREATS:
        raise ValueError(f"norm is {norm!r}, expected one of {', '.join(sorted(THREATS))}")
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


def line_of(record: Record) -> bytes:
    """The line that a records file holds of a record."""
    return line(record.index, record.label, spelled(record.certificate))


def spelled(certificate: Certificate) -> str:
    """What a line holds of a certificate: most of the work of writing it, which the workers of a cluster can do."""
    return json.dumps(vars(certificate), allow_nan=False)


def line(index: int, label: int, certificate: str) -> bytes:
    """The line of a record, of a certificate that is spelled out already."""
    return f'{{"index": {index}, "label": {label}, "certificate": {certificate}}}\n'.encode()


def _plain(record: Record) -> dict[str, Any]:
    """As `dataclasses.asdict`, which copies every number of the evidence and takes ten times as long as writing it."""
    return {"index": record.index, "label": record.label, "certificate": vars(record.certificate)}


class RecordWriter:
    """Appends records to one file of a certify folder; one process holds it at a time."""

    def __init__(self, folder: Path, shard: int, shards: int) -> None:
        path = folder / f"records-{shard}-of-{shards}.jsonl"
        self._lock = lock(folder / f".{path.stem}.lock", f"writing {path}")
        self._file = path.open("ab", buffering=0)
        whole = path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)  # a process killed while writing leaves at most one line without its newline

    def append(self, *records: Record) -> None:
        """Write a line each to the disk; after an error the file ends with its last whole line."""
        self.write(b"".join(map(line_of, records)))

    def write(self, lines: bytes) -> None:
        """Write whole lines, as `append` does."""
        before = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()
