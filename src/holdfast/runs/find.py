"""The certified runs that a user's paths stand for, each once, and what is known of how each was made."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import dossier, logs, store

TABLES = (".zip", ".parquet", ".tsv", ".tsv.gz")
"""Endings of dossiers, exported tables and logs, the richer ones first."""


def find(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Certify folders, exported tables and logs, and a sentence for everything that is left out.

    A run folder stands for its certify folders, any other folder for the runs, tables and logs that lie in it. An
    export is left out where the run that it was made of is here already.
    """
    found: dict[Path, Path] = {}
    left_out = []
    for path in paths:
        try:
            for member in _members(Path(path)):
                try:
                    for source in sources(member):
                        found.setdefault(source.resolve(), source)
                except (ValueError, OSError) as error:
                    left_out.append(str(error))
        except OSError as error:
            left_out.append(str(error))
    exports = _exports(list(found.values()))
    left_out += [f"{source} was exported from {origin}, which is here already" for source, origin in exports.items()]
    return [source for source in found.values() if source not in exports], left_out


def sources(path: Path) -> list[Path]:
    """The certify folders of a run folder, or of the folder of a model of one's own; a certify folder, a table or a log
    stands for itself.

    Raises:
        ValueError: the folder is no run, or is not certified.
        FileNotFoundError: the path does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder, a certify folder, a dossier or a log")
    folders = sorted(folder for folder in path.glob("certify-*") if folder.is_dir())
    if folders and not (path / "run.json").exists():  # of a model that was not trained here
        return folders
    if path.is_file() or "certification" in (facts := store.read_run(path)):
        return [path]
    if not folders:
        if facts.get("recipe", {}).get("method", {}).get("kind") == "Denoise":
            raise ValueError(
                f"{path} is a denoiser; to certify with it: holdfast certify --model NAME --denoiser {path}"
            )
        raise ValueError(f"{path} is trained but not certified; run `holdfast certify {path}` first")
    return folders


def only(path: Path) -> Path:
    """The one certify folder, dossier, table or log that a path stands for.

    Raises:
        ValueError: it stands for several; they are named.
    """
    found = sources(path)
    if len(found) > 1:
        raise ValueError(f"{path} holds several certify folders, name one: {', '.join(part.name for part in found)}")
    return found[0]


def _members(path: Path) -> list[Path]:
    """What lies in a folder that is no run; otherwise the path itself."""
    if not path.is_dir() or (path / "run.json").exists():
        return [path]
    visible = sorted(part for part in path.iterdir() if not part.name.startswith("."))
    return [member for part in visible for member in _member(part)] or [path]


def _member(part: Path) -> list[Path]:
    """A run, table or log; of a model that was not trained here, what was certified."""
    if part.name.endswith(TABLES) or (part / "run.json").is_file():
        return [part]
    return sorted(file.parent for file in part.glob("certify-*/run.json"))


def _exports(found: Sequence[Path]) -> dict[Path, Path]:
    """The tables and logs whose run is here already, and where: as a certify folder or as a richer export."""
    first: dict[str, Path] = {}
    exports = {}
    for source in sorted(found, key=_richness):
        names = list(_identity(source))
        if source.is_file() and (origin := next((first[name] for name in names if name in first), None)):
            exports[source] = origin
        for name in names:
            first.setdefault(name, source)
    return exports


def _richness(source: Path) -> int:
    return next((rank for rank, end in enumerate(TABLES, 1) if source.name.endswith(end)), 0)


def _identity(source: Path) -> Iterator[str]:
    """Names that a run shares with its exports: its folder, and what was asked of it."""
    if folder := run_of(source):
        yield str(folder.resolve())
    try:
        facts = read_facts(source)
    except (ValueError, OSError):
        return  # reading it will tell what is wrong
    if "certification" in facts:
        yield json.dumps([facts.get("name"), facts["certification"]], sort_keys=True)


def read_facts(source: Path) -> dict[str, Any]:
    """What is known, under the names of run.json, and `recipe` and `explanation`; empty for a published log.

    Raises:
        ValueError: what should tell it is damaged.
    """
    if source.is_dir():
        return _facts_of(source)
    if source.suffix == ".zip":
        return dossier.read_facts(source)
    if source.suffix != ".parquet":
        return logs.read_facts(source)
    told, folder = logs.parquet_facts(source), run_of(source)
    if told is None:
        return _facts_of(folder) if folder else {"settings": {"certifier": "not recorded"}}
    return told


def name_of(source: Path) -> str:
    """The name of a certify folder, or of a dossier, table or log without its suffixes."""
    return source.name.removesuffix(".gz").removesuffix(".tsv").removesuffix(".parquet").removesuffix(".zip")


def run_of(source: Path) -> Path | None:
    """The certify folder that a source is, or that lies around or beside it under its name; None if there is none."""
    near = (source, source.parent, source.parent / name_of(source))
    named = (folder for folder in near if folder.name == name_of(source))
    return next((folder for folder in named if (folder / "run.json").is_file()), None)


def _facts_of(folder: Path) -> dict[str, Any]:
    _check_runtime(folder)
    around = store.read_run(folder.parent) if (folder.parent / "run.json").exists() else {}
    more = {"recipe": around.get("recipe"), "explanation": _explanation(folder / "explanation.json")}
    more["determinism"] = _determinism(folder)
    return store.read_run(folder) | {key: value for key, value in more.items() if value}


def _check_runtime(folder: Path) -> None:
    """Refuse a folder whose run.json names another runtime than log.jsonl tells of the processes that certified."""
    asked = store.read_run(folder).get("certification")
    named = asked.get("runtime", "torch") if isinstance(asked, dict) else "torch"
    for entry in store.entries(folder):
        ran = entry.get("runtime", "torch")
        if "noisy_rows" in entry and ran != named:
            raise ValueError(f"{folder}: run.json names the runtime {named}, and log.jsonl {ran}; was one edited?")


def _determinism(folder: Path) -> dict[str, int]:
    """What all starts of the run have measured together; empty for a deterministic proof or an older run."""
    found: dict[str, int] = {}
    for entry in store.entries(folder):
        for name in ("noisy_rows", "changed_classes", "runtime_changed"):
            if isinstance(entry.get(name), int):
                found[name] = found.get(name, 0) + entry[name]
    return found


def _explanation(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); was it edited?") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, expected an object; was it edited?")
    return found
