"""`holdfast dossier`: a certify folder made into a dossier."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core.threat import THREATS
from . import certified, store
from .dossier import Totals, totals, write_dossier
from .find import name_of, only, read_facts
from .records import Checked, certifier_of

MODEL = ("run.json", "model.safetensors", "graph.json", "places.json", "constants.safetensors")
"""Files of a run folder that make its model."""

STEPS = {"l2": 0.25, "linf": 0.1, "l1": 1.0}
"""Distance of the radii in the totals, by threat model."""

MOST = 20
"""Radii in the totals that nobody asked for."""


class Packed(NamedTuple):
    """What was written."""

    path: Path
    totals: Totals
    signer: str | None
    """The public key, where it was signed."""


def pack(
    run: Path, out: Path | None = None, radii: Sequence[float] = (), key: Path | None = None, model: bool = False
) -> Packed:
    """Write the dossier of a finished certified run.

    Args:
        run: a certify folder, or a run folder with one certify folder.
        out: the file; by default a file of its name beside the certify folder.
        radii: of interest, besides the usual ones.
        key: private Ed25519 key to sign with, in a PEM file.
        model: pack the trained model, too.

    Raises:
        ValueError: there is no such run or several, it is not finished or does not follow from its evidence, or the key
            is none.
    """
    folder = only(run)
    facts = read_facts(folder)
    if "certification" not in facts:
        raise ValueError(f"{folder} tells no settings; a dossier is made of a certify folder")
    found = certified.read_checked(folder)
    whole = certified.CertifiedRun.of(folder, facts, found)
    if not found or whole.unfinished:
        raise ValueError(
            f"{folder} holds {len(found):,} of {facts.get('total'):,} records: finish it first, for which examples are "
            "done depends on their votes"
        )
    told = totals([checked.record for checked in found], _alpha(facts, found), [*_usual(whole), *radii])
    path = out or folder.parent / f"{name_of(folder)}.zip"
    log = [*store.entries(folder)] if folder.is_dir() else []
    return Packed(path, told, write_dossier(path, facts, found, told, log=log, files=_files(folder, model), key=key))


def required(text: str) -> tuple[float, float]:
    """Accuracy and radius of a text such as 0.8@0.25.

    Raises:
        ValueError: it is none.
    """
    accuracy, at, radius = text.partition("@")
    try:
        found = float(accuracy), float(radius)
    except ValueError:
        found = -1.0, -1.0
    if not (at and 0 <= found[0] <= 1 and found[1] >= 0):
        raise ValueError(f"expected ACCURACY@RADIUS with an accuracy from 0 to 1, such as 0.8@0.25, got {text!r}")
    return found


def _alpha(facts: Mapping[str, Any], found: Sequence[Checked]) -> float:
    """Of one certificate, with those of runs seen before the settings were chosen; 0.0 for proofs without sampling."""
    sampling = certifier_of(facts).get("inner", certifier_of(facts))
    alpha = sampling.get("alpha", 1 - min(checked.record.certificate.confidence for checked in found))
    return alpha + sum(facts.get("revises", {}).get("earlier_alphas", {}).values())


def _usual(run: certified.CertifiedRun) -> Iterable[float]:
    """Radii that a reader of this threat model looks at, up to the largest."""
    if run.given_radii:
        return run.given_radii
    step = STEPS.get(run.norm, 0.25) if run.norm in THREATS else 0.25
    return [round(step * i, 9) for i in range(MOST) if step * i <= run.largest]


def _files(folder: Path, model: bool) -> dict[str, bytes]:
    """The page of the run, and the files of its model."""
    page = folder / "report.html"
    found = {"report.html": page.read_bytes()} if page.is_file() else {}
    if not model:
        return found
    if not (folder.parent / "model.safetensors").is_file():
        raise ValueError(f"{folder.parent} holds no model to pack; leave --with-model out, or put its weights there")
    present = [folder.parent / name for name in MODEL if (folder.parent / name).is_file()]
    return found | {f"model/{path.name}": path.read_bytes() for path in present}
