"""A small dossier whose votes are made by hand, and what a forger can do to one."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from holdfast import Gaussian
from holdfast.core.certificate import Record
from holdfast.runs import store
from holdfast.runs.dossier import chain, totals, zipped
from holdfast.runs.records import line_of, record_of

CERTIFIER = Gaussian(sigma=0.5, n=1000)

VOTES = [{"1": 1000}, {"1": 990, "0": 10}, {"0": 960, "2": 40}, {"2": 900, "1": 100}, {"1": 505, "0": 495}, {"0": 1000}]
"""Of examples 0, 2, 4, ...; the fifth abstains, the last is wrong."""

LABELS = [1, 1, 0, 2, 1, 1]


def sums(labels: list[int]) -> dict[str, str]:
    return {"images": "0" * 16, "labels": hashlib.sha256(np.array(labels).tobytes()).hexdigest()[:16]}


def certify_folder(folder: Path, certifier: Gaussian = CERTIFIER, **facts: Any) -> Path:
    """A finished certify folder of these votes, as the store leaves it."""
    task = {"kind": "Certification", "certifier": certifier.to_dict(), "model": "0123456789abcdef", "dataset": "toy"}
    task |= {"split": "test", "every": 2, "start": 0, "limit": None, "seed": 0, "precision": "32-true"}
    task |= {"runtime": "torch"}
    told = {"name": "toy", "total": len(VOTES), "cap": certifier.cap(), "samples": certifier.samples()}
    store.open_run(folder, {"certification": task, "checksums": sums(LABELS)}, told | facts)
    records = []
    for place, (votes, label) in enumerate(zip(VOTES, LABELS, strict=True)):
        top = max(votes, key=lambda name: votes[name])
        evidence = certifier._evidence({top: 100}, votes, 0, None, 48)
        records.append(Record(2 * place, label, certifier.certificate(evidence)))
    (folder / "records-0-of-1.jsonl").write_bytes(b"".join(map(line_of, records)))
    store.log(folder, event="certify", time="2026-01-01T00:00:00", torch="2.13.0")
    return folder


@dataclass
class Forger:
    """A dossier taken apart, to be changed and put together again."""

    content: dict[str, Any]
    records: list[dict[str, Any]]
    files: dict[str, bytes] = field(default_factory=dict)
    """All others."""

    @classmethod
    def open(cls, path: Path) -> Self:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        records = [json.loads(line) for line in parts.pop("records.jsonl").splitlines()]
        return cls(json.loads(parts.pop("dossier.json")), records, parts)

    def proof(self, place: int) -> dict[str, Any]:
        return self.records[place]["certificate"]

    def evidence(self, place: int) -> dict[str, Any]:
        return self.proof(place)["evidence"]

    @property
    def certifier(self) -> dict[str, Any]:
        return self.content["run"]["certification"]["certifier"]

    def everywhere(self, **settings: Any) -> None:
        """Other settings, in the run and in the evidence of every record."""
        self.certifier.update(settings)
        for record in self.records:
            record["certificate"]["evidence"].update(settings)

    def lines(self) -> list[bytes]:
        return [(json.dumps(record) + "\n").encode() for record in self.records]

    def seal(self) -> None:
        """Make all hashes fit again, as anybody can."""
        lines = self.lines()
        parts = {**self.files, "records.jsonl": b"".join(lines)}
        parts.pop("signature.txt", None)
        self.content["files"] = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
        self.content["chain"] = chain(self.content["run"], lines)

    def count(self) -> None:
        """Make the totals fit again."""
        told, records = self.content["totals"], [record_of(record) for record in self.records]
        radii = map(float, told["certified"])
        self.content["totals"] = totals(records, self.certifier["alpha"], radii)._asdict()

    def write(self, path: Path) -> Path:
        body = (json.dumps(self.content) + "\n").encode()
        path.write_bytes(zipped({**self.files, "records.jsonl": b"".join(self.lines()), "dossier.json": body}))
        return path


Change = Callable[[Forger], object]


def consistent(forger: Forger) -> None:
    """Votes, bounds, radius, totals and hashes of a better example, as holdfast itself would have written them."""
    new = CERTIFIER.certificate(CERTIFIER._evidence({"1": 100}, {"1": 1000}, 0, None, 48))
    forger.records[4] = json.loads(line_of(Record(8, 1, new)))
    forger.count()
    forger.seal()
