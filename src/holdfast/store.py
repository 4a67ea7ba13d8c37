"""A run folder on disk: what was asked, what was found. Resumable, append-only, readable with `cat`.

run.json          what was asked; opening the folder again with anything else is refused
records-*.jsonl   one line per certified example, one file per process
log.jsonl         one line per start and stop: machine, versions, time
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .records import Limits, record_of
from .spec import Spec, differences, rich
from .types import Record


def open_run(folder: Path, asked: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Create a run folder, or make sure that an existing one asked for the same.

    Args:
        folder: appears complete with its run.json or not at all.
        asked: the settings that decide the result; a folder in which they differ is refused.
        facts: what else run.json should tell, such as the number of examples; not compared.

    Raises:
        ValueError: the folder holds a run with other settings (they are named), or no run at all.
    """
    if not folder.exists():
        _create(folder, {**facts, **asked})
    found = read_run(folder)
    if changed := differences({key: _plain(found.get(key)) for key in asked}, dict(asked)):
        listed = "; ".join(f"{name}: {there!r} there, {here!r} now" for name, (there, here) in changed.items())
        raise ValueError(f"{folder} holds a run with other settings ({listed}); choose another folder")


def _plain(value: Any) -> Any:
    """A stored Spec with the fields that it has today: options added since it was written stand at their defaults."""
    found = rich(value)
    return found.to_dict() if isinstance(found, Spec) else value


def _create(folder: Path, content: Mapping[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (draft / "run.json").write_text(json.dumps(content, indent=2) + "\n")
        draft.chmod(0o755)
        with contextlib.suppress(FileExistsError):  # another process of the same run was faster
            _rename_new(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename_new(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError as error:  # a folder that is not empty: "directory not empty", whatever errno says that here
        if not folder.is_dir():
            raise
        raise FileExistsError(folder) from error


def read_run(folder: Path) -> dict[str, Any]:
    """The content of run.json.

    Raises:
        ValueError: the folder is not a run folder.
    """
    path = folder / "run.json"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run folder: it has no run.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); was it edited?") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, expected an object with the settings; was it edited?")
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it holds either the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def log(folder: Path, **entry: Any) -> None:
    """Append one line to log.jsonl."""
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def read_records(folder: Path) -> list[Record]:
    """All records of a certify folder, sorted by index. A torn last line of a file counts as not written.

    Raises:
        ValueError: a line is not a record, or not one that this run can hold (file and line are named), or two files
            disagree about an example.
    """
    found: dict[int, Record] = {}
    limits = Limits.of(read_run(folder), folder) if (folder / "run.json").exists() else Limits()
    for path in sorted(folder.glob("records-*.jsonl")):
        for record in _read_file(path, limits):
            if found.setdefault(record.index, record) != record:
                raise ValueError(f"{folder}: two different records of example {record.index}; one is in {path.name}")
    return [found[index] for index in sorted(found)]


def count_records(folder: Path) -> int:
    """How many whole lines the records files of a certify folder hold."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("records-*.jsonl"))


def _read_file(path: Path, limits: Limits) -> Iterator[Record]:
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is empty or torn
    for number, line in enumerate(lines, 1):
        try:
            yield limits.check(record_of(json.loads(line)))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}, line {number}: not a record of this run: {error}") from error


class RecordWriter:
    """Appends records to one file of a certify folder; one process holds it at a time."""

    def __init__(self, folder: Path, shard: int, shards: int) -> None:
        path = folder / f"records-{shard}-of-{shards}.jsonl"
        self._lock = FileLock(folder / f".{path.stem}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another process is writing {path}; wait for it, or stop it") from None
        self._file = path.open("ab", buffering=0)
        whole = path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)  # a process killed while writing leaves at most one line without its newline

    def append(self, record: Record) -> None:
        """Write one line to the disk; after an error the file ends with its last whole line."""
        line = (json.dumps(dataclasses.asdict(record), allow_nan=False) + "\n").encode()
        before = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
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
