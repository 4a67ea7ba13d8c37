"""A run folder on disk: what was asked, what was found. Resumable, append-only, readable with `cat`.

run.json          what was asked; opening the folder again with anything else is refused
records-*.jsonl   one line per certified example, one file per process
log.jsonl         one line per start and stop: machine, versions, time
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..core.config import Config, differences, rich


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
        listed = "; ".join(
            f"{name}: {there!r} there{'' if _told(found, name) else NOT_TOLD}, {here!r} now"
            for name, (there, here) in changed.items()
        )
        raise ValueError(f"{folder} holds a run with other settings ({listed}); choose another folder, as with --runs")


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


def lock(path: Path, doing: str) -> FileLock:
    """Held by one process at a time, until it is released or its process ends.

    Args:
        path: of a file for it.
        doing: what must not be done twice at once, for the message.

    Raises:
        ValueError: another process holds it.
    """
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
    path = folder / "run.json"
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
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


def cache() -> Path:
    """Where what may be computed again is kept: $XDG_CACHE_HOME/holdfast, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdfast"


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of log.jsonl."""
    path = folder / "log.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # a process was killed while it wrote
            if isinstance(entry := json.loads(line), dict):
                yield entry


def log(folder: Path, **entry: Any) -> None:
    """Append one line to log.jsonl."""
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
