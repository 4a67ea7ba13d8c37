"""Draw some examples of a run again and compare: what only the model can show about votes and margins."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.arguments import integer
from ..core.certificate import Certificate
from ..core.registry import trusted
from ..data import load
from ..machine import choose
from ..runs.certified import read
from ..runs.find import read_facts
from .identity import model_of
from .images import certify
from .run import ModelSource
from .runtime import in_precision
from .task import Certification

ROUNDING = 1e-3
"""Share of the votes that may move because another processor rounds otherwise."""


@dataclass(frozen=True)
class Drawn:
    """One example that was certified again."""

    index: int
    stored: Certificate
    found: Certificate

    @property
    def moved(self) -> int:
        """Votes that are not as stored, of the selection and of the estimation, however the classes share them."""
        return sum(_distance(_votes(self.stored, name), _votes(self.found, name)) for name in ("selection", "votes"))

    @property
    def wrong(self) -> str:
        """Why the stored certificate is not what the model gives; empty where it is, up to rounding."""
        samples = sum(sum(_votes(self.stored, name).values()) for name in ("selection", "votes"))
        if self.moved > 1 + ROUNDING * samples:
            return f"{self.moved:,} of {samples:,} votes are not those that the model gives"
        if self.moved:
            return ""
        radius, expected = self.stored.radius, self.found.radius
        same = (self.stored.prediction, self.stored.norm) == (self.found.prediction, self.found.norm)
        if not same or abs(radius - expected) > 1e-6 * max(1.0, expected):
            return f"stored is {self.stored}, the model gives {self.found}"
        return ""


def replay(
    path: Path, source: ModelSource, count: int, *, device: str = "auto", data_dir: Path | str | None = None
) -> list[Drawn]:
    """Certify some records of a run again, with the noise of the run.

    Which ones is drawn afresh at every call, so that a forger cannot know them.

    Args:
        path: a certify folder or a dossier.
        source: the model.
        count: how many examples.
        device: where it runs.
        data_dir: where named data sets are looked up first.

    Raises:
        ValueError: the model or the data at hand are not those of the run.
    """
    integer("the number of examples to draw again", count, 1)
    facts = read_facts(path)
    task = Certification.from_dict(facts["certification"])
    data = load(trusted(task.dataset), task.split, data_dir)
    model = model_of(source, data.info.shape, task.model)
    if (identity := source.identity(model)) != task.model:
        raise ValueError(f"{path} is about the model {task.model}, and the one at hand is {identity}")
    if facts.get("checksums", {}) not in ({}, data.checksums(task.indices(len(data)))):
        raise ValueError(f"the images or labels of {task.dataset} here are not those that {path} is about")
    records = read(path)
    chosen = sorted(random.SystemRandom().sample(records, min(count, len(records))), key=lambda record: record.index)
    where = choose(device)
    indices = [record.index for record in chosen]
    images = data.pixels(torch.tensor(indices)).to(where)
    settings = {"seed": task.seed, "indices": indices, "runtime": task.runtime}
    proofs = certify(in_precision(model.to(where), task.precision), images, task.certifier, **settings)
    return [Drawn(record.index, record.certificate, proof) for record, proof in zip(chosen, proofs, strict=True)]


def told(drawn: Sequence[Drawn]) -> str:
    """The outcome in words."""
    moved = sum(one.moved for one in drawn)
    told = f"{len(drawn)} examples were drawn again; {sum(bool(one.wrong) for one in drawn)} are not as stored"
    return f"{told}; {moved:,} votes moved, as kernels of another processor may round" if moved else told


def _votes(certificate: Certificate, name: str) -> Mapping[str, int]:
    evidence: Mapping[str, Any] = certificate.evidence
    return evidence.get("inner", evidence).get(name, {})


def _distance(stored: Mapping[str, int], found: Mapping[str, int]) -> int:
    return sum(abs(stored.get(label, 0) - found.get(label, 0)) for label in {*stored, *found})
