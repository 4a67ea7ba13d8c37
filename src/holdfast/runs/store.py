"""A run folder on disk: what was asked, what was found. Resumable, append-only, readable with `cat`.

run.json          what was asked; opening the folder again with anything else is refused
records-*.jsonl   one line per certified example, one file per process
log.jsonl         one line per start and stop: machine, versions, time

A certify folder can have a copy in an object store: s3://, gs://, file://, or whatever else fsspec knows. Object stores
cannot append, and network file systems lock badly. So each machine writes to its own disk, and sends what is new now
and then as a part: a file of records that is never changed. What others have sent is brought at the start: a machine
that begins where another one was taken away does none of its work again. The parts are records files like others: a
copy of the folder, made by any tool, is a certify folder.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..core.config import Config, differences, rich
from ..progress import say


def open_run(folder: Path, asked: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Create a run folder, or make sure that an existing one asked for the same; whether this process created it.

    Args:
        folder: appears complete with its run.json or not at all.
        asked: the settings that decide the result; a folder in which they differ is refused.
        facts: what else run.json should tell, such as the number of examples; not compared.

    Raises:
        ValueError: the folder holds a run with other settings (they are named), or no run at all.
    """
    created = not folder.exists() and _create(folder, {**facts, **asked})
    found = read_run(folder)
    if changed := differences({key: _plain(found.get(key)) for key in asked}, dict(asked)):
        listed = "; ".join(
            f"{name}: {there!r} there{'' if _told(found, name) else NOT_TOLD}, {here!r} now"
            for name, (there, here) in changed.items()
        )
        raise ValueError(f"{folder} holds a run with other settings ({listed}); choose another folder, as with --runs")
    return created


def tell(folder: Path, **facts: Any) -> None:
    """Add to run.json what was found later; it is not compared either."""
    content = read_run(folder) | facts
    write_whole(folder / "run.json", (json.dumps(content, indent=2) + "\n").encode())


NOT_TOLD = " (its run.json does not say: it was the only way when that run was started)"


def _told(content: Any, name: str) -> bool:
    """Whether settings hold a leaf of that dotted name."""
    for part in name.split("."):
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def _plain(value: Any) -> Any:
    """A stored Config with the fields that it has today: options added since it was written stand at their defaults."""
    found = rich(value)
    return found.to_dict() if isinstance(found, Config) else value


def _create(folder: Path, content: Mapping[str, Any]) -> bool:
    try:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"a setting is NaN or infinite ({error}), which no run can be started with") from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (draft / "run.json").write_text(text)
        draft.chmod(0o755)
        _rename_new(draft, folder)
    except FileExistsError:  # another process of the same run was faster
        return False
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _rename_new(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError as error:  # a folder that is not empty: "directory not empty", whatever errno says that here
        if not folder.is_dir():
            raise
        raise FileExistsError(folder) from error


def lock(path: Path, doing: str) -> FileLock:
    """Held by one process at a time, until it is released or its process ends.

    Args:
        path: of a file for it.
        doing: what must not be done twice at once, for the message.

    Raises:
        ValueError: another process holds it, or has removed the folder again.
    """
    if not path.parent.is_dir():  # FileLock would make one
        raise ValueError(f"{path.parent} was removed by another process, which could not go on; start again")
    found = FileLock(path)
    try:
        found.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is {doing}; wait for it, or stop it") from None
    return found


def discard(folder: Path, trifles: Set[str]) -> None:
    """Remove a folder that holds nothing but files of these names."""
    if folder.exists() and {path.name for path in folder.iterdir()} <= trifles:
        shutil.rmtree(folder)


def read_run(folder: Path) -> dict[str, Any]:
    """The content of run.json.

    Raises:
        ValueError: the folder is not a run folder.
    """
    try:
        return read_object(folder / "run.json")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ValueError(f"{folder} is not a run folder: it has no run.json") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: it holds something else.
    """
    try:
        found = from_json(path.read_bytes())
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of thousands of digits
        raise ValueError(f"{path} is not valid JSON ({error}); was it edited?") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, expected an object with the settings; was it edited?")
    return found


def from_json(text: str | bytes) -> Any:
    """What JSON holds, if all readers find the same in it.

    Raises:
        ValueError: no JSON, a name that stands twice in one object, or a number that is not finite.
    """
    return DECODER.decode(text.decode() if isinstance(text, bytes) else text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the name {Counter(name for name, _ in pairs).most_common(1)[0][0]!r} stands twice")
    return found


def _finite(text: str) -> float:
    if math.isfinite(found := float(text)):
        return found
    raise ValueError(f"{text} is no finite number")


DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it holds either the old content or the new, never a part.

    Raises:
        ValueError: the path is that of a folder, or lies in none.
    """
    if path.is_dir() or not path.parent.is_dir():
        found = f"{path} is a folder" if path.is_dir() else f"{path.parent} is no folder"
        raise ValueError(f"{found}; expected the name of a file to write")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def cache() -> Path:
    """Where what may be computed again is kept: $XDG_CACHE_HOME/holdfast, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdfast"


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of log.jsonl.

    Raises:
        ValueError: a name stands twice, or a number is not finite; file and line are named.
    """
    path = folder / "log.jsonl"
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            entry = from_json(line)
        except (json.JSONDecodeError, UnicodeDecodeError):  # a process was killed while it wrote
            continue
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: {error}; was it edited?") from error
        if isinstance(entry, dict):
            yield entry


def log(folder: Path, **entry: Any) -> None:
    """Append one line to log.jsonl; one that was torn before, as on a full disk, stays alone on its line."""
    with (folder / "log.jsonl").open("ab+") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        torn = file.read() not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(entry).encode() + b"\n")


EVERY = 60.0
"""Seconds between two parts: what a machine can lose."""

WHOLE = ("run.json", "probe.json", "explanation.json")
"""Files that are written once."""

SAME = ("certification", "checksums", "revises")
"""What run.json tells that decides the records, and the alpha that they cost."""

STATE = ".sent.json"
"""Who we are, and how much of each records file is sent."""


class Remote:
    """The copy of a folder under a URL.

    Raises:
        ValueError: there is no such store, or no library for it.
    """

    def __init__(self, url: str, folder: Path) -> None:
        import fsspec

        self.folder, self.url = folder, f"{url.rstrip('/')}/{folder.parent.name}/{folder.name}"
        try:
            self._files, self._root = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"cannot use {url}: {error}") from error

    @property
    def begun(self) -> bool:
        """Whether a machine has sent the settings of this run."""
        self._files.invalidate_cache()
        return bool(self._files.exists(f"{self._root}/run.json"))

    def bring(self) -> None:
        """Copy what is there and not here.

        Raises:
            ValueError: the settings there are others.
        """
        if not self.begun:
            return
        names = [path.rsplit("/", 1)[-1] for path in self._files.ls(self._root, detail=False)]
        if (self.folder / "run.json").exists():
            self._refuse_another()
        self.folder.mkdir(parents=True, exist_ok=True)
        own = f"records-part-{self._state()['name']}-"
        for name in sorted(names, key=lambda name: name != "run.json"):
            wanted = name in WHOLE or (name.startswith("records-part-") and not name.startswith(own))
            if wanted and not (self.folder / name).exists():
                write_whole(self.folder / name, self._files.cat_file(f"{self._root}/{name}"))

    def _refuse_another(self) -> None:
        there, here = from_json(self._files.cat_file(f"{self._root}/run.json")), read_run(self.folder)
        if other := [name for name in SAME if there.get(name) != here.get(name)]:
            found = f"{self.url} holds a run of another {' and '.join(other)} than {self.folder}"
            raise ValueError(f"{found}; choose another --store")

    def send(self) -> None:
        """Copy what is here and not there: files that are written once, and what is new of our records as a part.

        Raises:
            ValueError: the settings there are others: another machine may have begun at the same moment.
        """
        self._files.makedirs(self._root, exist_ok=True)
        for name in WHOLE:
            if (self.folder / name).exists() and not self._files.exists(f"{self._root}/{name}"):
                self._files.pipe_file(f"{self._root}/{name}", (self.folder / name).read_bytes())
        self._refuse_another()
        state = self._state()
        new = []
        for path in sorted(self.folder.glob("records-*-of-*.jsonl")):
            begun = state["sent"].get(path.name, 0)
            with path.open("rb") as file:
                file.seek(begun)
                content = file.read()
            content = content[: content.rfind(b"\n") + 1]
            state["sent"][path.name] = begun + len(content)
            new.append(content)
        if any(new):
            self._files.pipe_file(
                f"{self._root}/records-part-{state['name']}-{state['parts']:06d}.jsonl", b"".join(new)
            )
            state["parts"] += 1
            write_whole(self.folder / STATE, json.dumps(state).encode())

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Send now and then, and at the end, also when what is done meanwhile fails."""
        stop = threading.Event()
        sender = threading.Thread(target=self._send_until, args=(stop,), daemon=True)
        sender.start()
        try:
            yield
        finally:
            stop.set()
            sender.join()
            self.send()

    def _send_until(self, stop: threading.Event) -> None:
        while not stop.wait(EVERY):
            try:
                self.send()
            except Exception as error:  # of any library; the network may be back the next time
                say(f"could not send records to {self.url} ({error}); they are kept here, and sent later")

    def _state(self) -> dict[str, Any]:
        path = self.folder / STATE
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"name": uuid.uuid4().hex[:12], "parts": 0, "sent": {}}).encode())
        return json.loads(path.read_text())
