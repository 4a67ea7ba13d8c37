"""Runs small enough to check by hand, as the store leaves them on disk."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from holdfast.core.certificate import Certificate, Record
from holdfast.core.certifier import Certifier
from holdfast.report.curve import Curve
from holdfast.report.figure import USUAL, Frame, curve_figure


def _nobodys() -> type[Certifier]:
    """A certifier whose records have evidence for show, from which no radius follows.

    Made in a function: stored files call it `Shown` alone, as no module has it.
    """

    class Shown(Certifier):
        pass

    return Shown


SHOWN = _nobodys().kind()
SETTINGS = {"sigma": 0.5, "n0": 100, "n": 100_000, "alpha": 0.001}


def record(
    index: int, radius: float, *, right: bool = True, norm: str = "l2", confidence: float = 0.999, **evidence: Any
) -> Record:
    """An example of class 1."""
    return Record(index, 1, Certificate(1 if right else 0, radius, norm, confidence, evidence))


def abstention(index: int) -> Record:
    return Record(index, 1, Certificate(None, 0.0, "l2", 0.999))


def certify_folder(folder: Path, records: Sequence[Record], *, name: str = "gaussian", **changes: Any) -> Path:
    """A certify folder as the store leaves it; `changes` go to the certifier, the certification, or run.json."""
    certifier = {"kind": SHOWN} | SETTINGS | changes.pop("certifier", {})
    asked = {"kind": "Certification", "model": "00", "dataset": "mnist", "split": "test", "every": 1, "seed": 0}
    facts: dict[str, Any] = {"name": name, "total": len(records), "cap": None, "samples": None}
    for key, value in changes.items():
        next(part for part in (facts, asked, certifier) if key in part)[key] = value
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(facts | {"certification": asked | {"certifier": certifier}}))
    lines = [json.dumps(dataclasses.asdict(record)) + "\n" for record in records]
    (folder / "records-0-of-1.jsonl").write_text("".join(lines))
    return folder


def run_folder(folder: Path) -> Path:
    """A training run of the Gaussian MNIST recipe."""
    folder.mkdir(parents=True)
    recipe = {"method": {"kind": "GaussianNoise", "sigma": 0.5}, "dataset": "mnist", "arch": "lenet"}
    (folder / "run.json").write_text(json.dumps({"name": folder.name, "recipe": recipe}))
    return folder


FOUR = [record(0, 0.5), record(1, 0.25), record(2, 0.9, right=False), abstention(3)]


def drawn(curves: Sequence[Curve], frame: Frame = USUAL) -> Figure:
    """The picture of these curves, laid out."""
    kept: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *_, **__: kept.append(self))
        curve_figure(curves, [Path("unused.png")], frame)
    kept[0].draw_without_rendering()
    return kept[0]
