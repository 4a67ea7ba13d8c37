"""What a user sees of a training beside its result."""

import json
from pathlib import Path
from typing import Any


def finished(folder: Path, **asked: object) -> str:
    """What a finished run was trained with, and which of the settings asked for now it therefore does not have.

    Args:
        asked: settings of the machine, under their names in log.jsonl; None where anything will do.
    """
    starts = [entry for entry in _log(folder) if entry.get("event") == "train"]
    had = {name: list(dict.fromkeys(str(start.get(name, "?")) for start in starts)) for name in asked}
    told = ", ".join(f"{name} {' then '.join(values) or '?'}" for name, values in had.items())
    text = f"{folder} is finished; it was trained with {told}"
    other = [f"{name} {value}" for name, value in asked.items() if value is not None and had[name] != [str(value)]]
    if other:
        text += (
            f"\nasked for now: {', '.join(other)}. That trains nothing; for another training use --runs OTHER-FOLDER"
        )
    return text


def _log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
