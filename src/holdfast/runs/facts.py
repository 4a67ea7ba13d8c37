"""What is known of how records were made: in run.json, in an exported table, in the file beside a log."""

import json
from pathlib import Path
from typing import Any

from . import logs, parquet, store


def read_facts(source: Path) -> dict[str, Any]:
    """What is known, under the names of run.json, and `recipe` and `explanation`; empty for a published log.

    Raises:
        ValueError: what should tell it is damaged.
    """
    if source.is_dir():
        return _facts_of(source)
    if source.suffix != ".parquet":
        return logs.read_facts(source)
    told, folder = parquet.read_facts(source), run_of(source)
    if told is None:
        return _facts_of(folder) if folder else {"settings": {"certifier": "not recorded"}}
    return told


def name_of(source: Path) -> str:
    """The name of a certify folder, or of a table or log without its suffixes."""
    return source.name.removesuffix(".gz").removesuffix(".tsv").removesuffix(".parquet")


def run_of(source: Path) -> Path | None:
    """The certify folder that a source is, or that lies around or beside it under its name; None if there is none."""
    near = (source, source.parent, source.parent / name_of(source))
    named = (folder for folder in near if folder.name == name_of(source))
    return next((folder for folder in named if (folder / "run.json").is_file()), None)


def _facts_of(folder: Path) -> dict[str, Any]:
    around = store.read_run(folder.parent) if (folder.parent / "run.json").exists() else {}
    more = {"recipe": around.get("recipe"), "explanation": _explanation(folder / "explanation.json")}
    more["determinism"] = _determinism(folder)
    return store.read_run(folder) | {key: value for key, value in more.items() if value}


def _determinism(folder: Path) -> dict[str, int]:
    """What all starts of the run have measured together; empty for a deterministic proof or an older run."""
    found: dict[str, int] = {}
    for entry in store.entries(folder):
        for name in ("noisy_rows", "changed_classes"):
            if isinstance(entry.get(name), int):
                found[name] = found.get(name, 0) + entry[name]
    return found


def _explanation(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); was it edited?") from error
