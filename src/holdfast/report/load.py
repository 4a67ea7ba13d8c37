"""Curves from what a user names: run folders, certify folders, published logs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.certificate import Record
from ..core.config import differences
from ..runs import store
from .curve import Curve
from .logs import read_log


def load(paths: Sequence[Path]) -> list[Curve]:
    """One curve for every certify folder and log; a run folder stands for all its certify folders.

    Raises:
        ValueError: a path is none of these, or holds no records.
        FileNotFoundError: a path does not exist.
    """
    return _distinguish([_curve(source) for path in paths for source in sources(Path(path))])


def sources(path: Path) -> list[Path]:
    """The certify folders of a run folder; a certify folder or a log stands for itself."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a run folder, a certify folder or a log")
    if path.is_file() or "certification" in store.read_run(path):
        return [path]
    folders = sorted(folder for folder in path.glob("certify-*") if folder.is_dir())
    if not folders:
        raise ValueError(f"{path} is trained but not certified; run `holdfast certify {path}` first")
    return folders


def read_source(source: Path) -> list[Record]:
    """The records of a certify folder or of a log."""
    return list(read_log(source)) if source.is_file() else store.read_records(source)


def name_of(source: Path) -> str:
    """The name of a certify folder, or of a log without its suffixes."""
    return source.name.removesuffix(".gz").removesuffix(".tsv") if source.is_file() else source.name


def _curve(source: Path) -> Curve:
    return Curve(name_of(source), read_source(source)) if source.is_file() else _certified(source)


def _certified(folder: Path) -> Curve:
    run = store.read_run(folder)
    return Curve(
        name=run.get("name") or folder.name,
        records=read_source(folder),
        settings=_flat(run["certification"]),
        recipe=_recipe(folder.parent),
        explanation=_explanation(folder / "explanation.json"),
        total=run.get("total"),
        cap=run.get("cap"),
        most_samples=run.get("samples"),
    )


def _flat(certification: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the certifier and of the subset, side by side under their field names."""
    outer = {key: value for key, value in certification.items() if key != "kind"}
    inner = dict(outer.pop("certifier"))
    return {"certifier": inner.pop("kind", "?")} | inner | outer


def _recipe(folder: Path) -> dict[str, Any]:
    """The recipe of the run around a certify folder; a model of the user's own has none."""
    return store.read_run(folder).get("recipe", {}) if (folder / "run.json").exists() else {}


def _explanation(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _distinguish(curves: Sequence[Curve]) -> list[Curve]:
    """Curves of the same name get the settings in which they differ behind it."""
    named = []
    for curve in curves:
        twins = [other for other in curves if other is not curve and other.name == curve.name]
        keys = sorted({key for twin in twins for key in differences(curve.settings, twin.settings)})
        told = ", ".join(f"{key}={curve.settings[key]}" for key in keys if curve.settings.get(key) is not None)
        named.append(replace(curve, name=f"{curve.name} [{told}]") if told else curve)
    return named
