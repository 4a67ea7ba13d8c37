"""CertifiedRun: the settings and records of one certified data set, from a folder, an exported table or a log.

A certify folder is made into a dossier here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from ..core.certificate import OWN, Record
from ..core.config import PLAIN
from ..core.threat import THREATS
from . import dossier, logs, records, store
from .dossier import Totals, totals, write_dossier
from .find import name_of, only, read_facts
from .records import Checked, Limits, certifier_of

SAMPLED = {"votes", "samples"}
"""Evidence that only sampling leaves."""

LEAST_DOUBT = 2.0**-53
"""What alpha is at most where it is not told and 1 - alpha is 1.0."""


@dataclass(frozen=True)
class CertifiedRun:
    """One certified run: its records and what is known about how they were made."""

    name: str
    records: Sequence[Record]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was certified, flat: sigma, n, alpha, dataset, every, ... Empty for a log, which does not say."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How the classifier was trained, as in run.json; empty where unknown."""
    explanation: Mapping[str, Any] = field(default_factory=dict)
    """What its certifier says about the classifier as a whole, such as the bounds of its layers; often empty."""
    determinism: Mapping[str, int] = field(default_factory=dict)
    """Of how many noisy_rows the classifier gave another class in another order or size of the batch,
    changed_classes; empty where it was not measured."""
    total: int | None = None
    """Examples that the finished run has; None where unknown."""
    cap: float | None = None
    """The largest radius that the settings can prove; None where unknown or unlimited."""
    most_samples: int | None = None
    """The most samples that one example can take; None where unknown."""
    lacks: tuple[str, ...] = ()
    """What cannot be checked, in words: an older version did not keep it, or only the model can show it; and which
    other run its settings were chosen after."""
    revises: Mapping[str, Any] = field(default_factory=dict)
    """The run on the same votes whose settings were changed to get this one: its name under `run`, what `changed`, and
    the alphas of it and of those before it under `earlier_alphas`. Empty where settings came before votes."""

    def __post_init__(self) -> None:
        norms = sorted({record.certificate.norm for record in self.records})
        if len(norms) > 1:
            raise ValueError(f"{self.name} mixes radii in the norms {' and '.join(norms)}; certify them apart")

    @classmethod
    def open(cls, source: Path | str) -> Self:
        """The run of a certify folder, a dossier, an exported table or a log. Radii are checked against their evidence.

        A certify folder without records of its own is read from the table of its name that lies in it.

        Raises:
            ValueError: it is none of these, or a record is damaged or does not follow from its evidence.
        """
        source = Path(source)
        return cls.of(source, read_facts(source), read_checked(source))

    @classmethod
    def of(cls, source: Path, facts: Mapping[str, Any], found: Sequence[Checked]) -> Self:
        """The run of what was read from a source."""
        return cls(
            name=str(facts.get("name") or name_of(source)),
            records=[checked.record for checked in found],
            settings=_flat(facts["certification"], source) if "certification" in facts else facts.get("settings", {}),
            recipe=facts.get("recipe", {}),
            explanation=facts.get("explanation", {}),
            determinism=facts.get("determinism", {}),
            total=facts.get("total"),
            cap=facts.get("cap"),
            most_samples=facts.get("samples"),
            lacks=_lacks(facts, found),
            revises=facts.get("revises", {}),
        )

    def __len__(self) -> int:
        return len(self.records)

    @property
    def norm(self) -> str:
        """The norm of all its radii."""
        return self.records[0].certificate.norm

    @property
    def fields(self) -> dict[str, Any]:
        """Its settings side by side: those of an inner certifier under dotted names, a kind under the name alone."""
        return dict(side_by_side(self.settings))

    @property
    def sigma(self) -> float | None:
        """Standard deviation of its noise, in the unit of its certifier; None where it has none or does not say."""
        return next(_values("sigma", [self.settings]), None)

    @property
    def label(self) -> str:
        """The name, and how much of the run is there if not all of it."""
        return f"{self.name} ({len(self):,} of {self.total:,} examples)" if self.unfinished else self.name

    @cached_property
    def alpha(self) -> float | None:
        """The largest probability with which a certificate is wrong; None for deterministic proofs.

        What was sampled tells its alpha or its votes. Confidence alone does not: 1 - 1e-17 is 1.0.
        """
        proofs = [record.certificate for record in self.records]
        told = [float(value) for value in _values("alpha", [self.settings, *(proof.evidence for proof in proofs)])]
        doubt = max(1 - proof.confidence for proof in proofs)
        if not told and doubt == 0 and not any(SAMPLED & proof.evidence.keys() for proof in proofs):
            return None
        largest = max(told, default=0.0)
        return (largest if doubt <= largest + 2 * LEAST_DOUBT else doubt) or LEAST_DOUBT  # 1 - (1 - alpha) is rounded

    @property
    def alpha_spent(self) -> float | None:
        """alpha, and those of the runs that were seen before the settings of this one were chosen."""
        return None if self.alpha is None else self.alpha + sum(self.revises.get("earlier_alphas", {}).values())

    @cached_property
    def correct(self) -> Bool[NDArray, " example"]:
        """Whether each example is predicted correctly."""
        return np.array([record.correct for record in self.records])

    @cached_property
    def radii(self) -> Float[NDArray, " example"]:
        """Certified radius of each example, 0 where the prediction is wrong or missing."""
        return np.array([record.certificate.radius if record.correct else 0.0 for record in self.records])

    @cached_property
    def largest(self) -> float:
        """The largest radius with a correct prediction."""
        return float(self.radii.max())

    def reaches(self, radius: float) -> Bool[NDArray, " example"]:
        """Whether each example is predicted correctly with at least this radius."""
        return self.correct & (self.radii >= radius)

    def counts(self, radii: Float[NDArray, " radius"]) -> Int[NDArray, " radius"]:
        """Number of examples that reach each radius."""
        reached = np.sort(self.radii[self.correct])
        return len(reached) - np.searchsorted(reached, radii, side="left")

    @cached_property
    def given_radii(self) -> tuple[float, ...]:
        """The radii at which the run was decided, if only at given ones; empty if it has the largest proven radii."""
        return tuple(self.settings.get("r", ())) if self.settings.get("certifier") == "AtRadius" else ()

    @cached_property
    def undecided(self) -> tuple[int, ...]:
        """Of a run decided at given radii: for how many examples each was still open after the most samples."""
        ends = [record.certificate.evidence.get("ends", ()) for record in self.records]
        return tuple(sum(end[i : i + 1] == ["undecided"] for end in ends) for i in range(len(self.given_radii)))

    @property
    def has_acr(self) -> bool:
        """Whether its radii are the largest proven ones, so that their mean says something."""
        kinds = [self.settings.get("certifier"), *_values("kind", [self.settings])]
        return "AtRadius" not in kinds

    def decides(self, radius: float) -> bool:
        """Whether certified accuracy at this radius was looked at; between given radii it was not."""
        return not self.given_radii or radius in self.given_radii

    @property
    def unfinished(self) -> bool:
        """Whether examples are missing. Which are there can depend on their votes: the easy ones are done first."""
        return self.total is not None and len(self) < self.total

    @cached_property
    def samples(self) -> int | None:
        """Samples taken in all; None where the certificates do not count them."""
        taken = [record.certificate.evidence.get("samples") for record in self.records]
        counted = [int(count) for count in taken if count is not None]
        return sum(counted) if len(counted) == len(taken) else None

    @cached_property
    def invalid(self) -> int:
        """Examples in which some noisy copies had logits that were NaN or infinite."""
        return sum(bool(record.certificate.evidence.get("invalid")) for record in self.records)


def side_by_side(settings: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings under dotted names, a kind under the name of what it is the kind of."""
    for key, value in settings.items():
        inner = f"{name}.{key}" if name and key != "kind" else name or key
        if isinstance(value, Mapping):
            yield from side_by_side(value, inner)
        else:
            yield inner, value


def _values(name: str, settings: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    """The values under a name, in settings that may hold settings of their own."""
    for part in settings:
        if part.get(name) is not None:
            yield part[name]
        inner = [value for value in part.values() if type(value) not in PLAIN and isinstance(value, Mapping)]
        if inner:
            yield from _values(name, inner)


def read(source: Path) -> list[Record]:
    """The records of a certify folder, an exported table or a log; see `CertifiedRun.open`."""
    return [found.record for found in read_checked(source)]


def read_checked(source: Path) -> list[Checked]:
    """The same with what each radius was computed from again."""
    table = source / f"{source.name}.parquet" if source.is_dir() else source
    if source.is_dir() and ((found := records.read_checked(source)) or not table.exists()):
        return found
    if table.suffix == ".zip":
        return dossier.read_dossier(table, Limits.of(read_facts(source), source))
    if table.suffix == ".parquet":
        return logs.read_parquet(table, Limits.of(read_facts(source), source))
    return [Checked(record, None) for record in logs.read_log(source)]


def _lacks(facts: Mapping[str, Any], found: Sequence[Checked]) -> tuple[str, ...]:
    """What cannot be checked."""
    lacks = []
    if facts.get("norm") is None and certifier_of(facts).get("threat") == OWN:
        lacks.append("the norm of its radii is told by its records alone: run.json does not name it")
    if "checksums" in facts and len(found) < facts.get("total", 0):
        lacks.append("its labels are compared with those it was started with once it is finished or goes on")
    if "certification" in facts and "checksums" not in facts:
        lacks.append("no checksum of its images was kept")
    if missing := sum(checked.evidence is None for checked in found):
        lacks.append(f"not recomputable: {missing:,} of {len(found):,} radii, whose evidence was not kept in full")
    if told := facts.get("released"):
        lacks.append(_of_released(told))
    unseen = sorted({checked.evidence.unseen for checked in found if checked.evidence and checked.evidence.unseen})
    lacks += [f"radii are recomputed, not recomputable without the model: {what}" for what in unseen]
    return (*lacks, *_revised(facts))


def _of_released(told: Mapping[str, Any]) -> str:
    """How the settings of a released log are known, which does not tell them."""
    alphas = " and ".join(f"{alpha:g}" for alpha in told["fits"])
    chosen = f", of which {told['alpha']:g} is the default of its script" if len(told["fits"]) > 1 else ""
    return (
        f"a released log ({told['source']}), radii rounded to nearest with 3 digits and without votes; its alpha is "
        f"not told: of 0.001 and 0.01, all its radii follow from votes of n = {told['n']:,} at {alphas}{chosen}"
    )


def _revised(facts: Mapping[str, Any]) -> Iterator[str]:
    """What must be known of settings that were chosen after votes were seen."""
    if revises := facts.get("revises"):
        told = ", ".join(f"{name} {new} instead of {old}" for name, (old, new) in revises["changed"].items())
        yield (
            f"{told}, chosen after the votes of {revises['run']} were seen: it replaces that run for all examples, "
            "and taking the better of the two costs the sum of their alphas"
        )


def _flat(certification: Any, source: Path) -> dict[str, Any]:
    """Settings of the certifier and of the subset, side by side under their field names."""
    outer = dict(certification) if isinstance(certification, Mapping) else {}
    inner = outer.pop("certifier", None)
    if not isinstance(inner, Mapping):
        raise ValueError(f"{source} does not tell its certifier in run.json; was it edited?")
    kind = {"certifier": inner.get("kind", "?")}
    return {key: value for key, value in (kind | _with_noise(inner) | outer).items() if key != "kind"}


def _with_noise(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a certifier that names its noise: versions that did not say had float32 noise only."""
    found = {key: _with_noise(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return {**found, "noise": {"kind": "Float32"}} if "sigma" in found and "noise" not in found else found


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
    if out is not None and (out.suffix != ".zip" or out.is_dir()):
        raise ValueError(f"a dossier is a .zip file, and is read as one by its name; got {out}")
    folder = only(run)
    facts = read_facts(folder)
    if "certification" not in facts:
        raise ValueError(f"{folder} tells no settings; a dossier is made of a certify folder")
    found = read_checked(folder)
    whole = CertifiedRun.of(folder, facts, found)
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


def _usual(run: CertifiedRun) -> Iterable[float]:
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
