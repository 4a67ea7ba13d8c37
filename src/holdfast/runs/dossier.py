"""A dossier: one zip that says what is certified, with all evidence and the program that checks it.

dossier.json      the claim in words, the run's settings, totals, sums of all files, and the end of the hash chain
records.jsonl     one line per example, as in a run folder, in the order of the indices
verify.py         `holdfast.checker`, which checks all of it without holdfast
report.html       the page of the run, if there is one
model/            the folder of the trained run, if asked for: run.json and weights
signature.txt     Ed25519 signature of dossier.json, in hexadecimal digits, if there is a key

The chain begins with the hash of the settings; link k is the hash of link k - 1 and of line k. The same run gives the
same bytes.
"""

import contextlib
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..core.certificate import Record
from . import statement, store
from .records import Checked, Limits, line_of, record_of

RHO = 0.001
"""Probability with which more certificates may be wrong than the totals say."""

CHECKER = Path(__file__).parents[1] / "checker.py"
"""The program that checks a dossier alone."""

AROUND = ("recipe", "explanation", "determinism")
"""Facts that stand beside those of run.json."""


class Totals(NamedTuple):
    """What all records say together; the checker counts it again."""

    examples: int
    correct: int
    abstained: int
    alpha: float
    """Of one certificate, with those of runs that were seen before the settings of this one were chosen."""
    wrong_at_most: int
    """More certificates are wrong with probability RHO at most, over the noise."""
    sum_of_radii: float
    """Of the correct ones."""
    certified: dict[str, int]
    """By radius, how many are correct with at least this radius."""

    def at_least(self, radius: float) -> float:
        """Certified accuracy at a radius that holds with probability 1 - RHO."""
        return max(0, self.certified[repr(radius)] - self.wrong_at_most) / self.examples


def totals(records: Sequence[Record], alpha: float, radii: Iterable[float]) -> Totals:
    """Counts over all records.

    Args:
        alpha: probability that one certificate is wrong, 0.0 for proofs without sampling.
    """
    from scipy.stats import binom  # takes a second, which other readers of runs need not wait for

    right = [record.certificate.radius for record in records if record.correct]
    abstained = sum(record.certificate.prediction is None for record in records)
    wrong = int(binom.isf(RHO, len(records), alpha)) if alpha else 0
    certified = {repr(radius): sum(r >= radius for r in right) for radius in sorted(set(radii))}
    return Totals(len(records), len(right), abstained, alpha, wrong, round(math.fsum(right), 6), certified)


def write_dossier(
    path: Path,
    facts: Mapping[str, Any],
    found: Sequence[Checked],
    told: Totals,
    *,
    log: Sequence[Mapping[str, Any]],
    files: Mapping[str, bytes],
    key: Path | None,
) -> str | None:
    """Write the zip, whole or not at all; returns the public key if it was signed.

    Args:
        facts: what is known of the run, as `find.read_facts` gives it.
        found, told: all records of the run by index, as they were read, and their totals.
        log, files: lines of log.jsonl (machine, versions, times), and more files by name, such as the page.
        key: a private Ed25519 key in a PEM file.

    Raises:
        ValueError: the file holds no such key.
    """
    signing = _private(key) if key else None
    signer = signing.public_key().public_bytes_raw().hex() if signing else None
    lines = [line_of(_explicit(checked)) for checked in found]
    parts = {"records.jsonl": b"".join(lines), "verify.py": CHECKER.read_bytes(), **files}
    run = {name: value for name, value in facts.items() if name not in AROUND}
    content = {
        **_said(facts, found, told),
        "run": run,
        "made": list(log),
        "files": {name: hashlib.sha256(part).hexdigest() for name, part in sorted(parts.items())},
        "chain": chain(run, lines),
        "signer": signer,
    }
    parts["dossier.json"] = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    if signing:
        parts["signature.txt"] = signing.sign(parts["dossier.json"]).hex().encode()
    store.write_whole(path, zipped(parts))
    return signer


def _said(facts: Mapping[str, Any], found: Sequence[Checked], told: Totals) -> dict[str, Any]:
    """What a reader wants to know first."""
    return {
        "format": "holdfast dossier 1",
        **statement.statement(facts, told, [checked.evidence for checked in found]),
        **{name: facts[name] for name in AROUND if facts.get(name)},
        "totals": told._asdict(),
    }


def chain(run: Mapping[str, Any], lines: Iterable[bytes]) -> str:
    """The last link of the chain of hashes over settings and records."""
    link = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
    for line in lines:
        link = hashlib.sha256(link.encode() + line.rstrip(b"\n")).hexdigest()
    return link


def zipped(parts: Mapping[str, bytes]) -> bytes:
    """A zip of files by name, the same bytes whenever and wherever it is made."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(parts):
            entry = zipfile.ZipInfo(name)  # of 1980
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, parts[name], zipfile.ZIP_DEFLATED)
    return content.getvalue()


def read_dossier(path: Path, limits: Limits) -> list[Checked]:
    """The records of a dossier. Whether its sums and its signature hold is for `holdfast verify` to say.

    Raises:
        ValueError: no dossier, or a line is not a record of this run; file and line are named.
    """
    found: dict[int, Checked] = {}
    for number, line in enumerate(_part(path, "records.jsonl").splitlines(), 1):
        try:
            new = limits.check(record_of(json.loads(line)))
            if found.setdefault(new.record.index, new) is not new:
                raise ValueError(f"example {new.record.index} is listed twice")
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} of records.jsonl: not a record of this run: {error}") from error
    return [found[index] for index in sorted(found)]


def read_facts(path: Path) -> dict[str, Any]:
    """What a dossier tells of its run.

    Raises:
        ValueError: no dossier.
    """
    try:
        content = json.loads(_part(path, "dossier.json"))
        return content["run"] | {name: content[name] for name in AROUND if name in content}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no dossier: its dossier.json tells no run ({error!r})") from error


def unpack_model(path: Path, folder: Path) -> Path:
    """Write the trained run that a dossier holds into a folder; returns its path.

    Raises:
        ValueError: the dossier holds no model.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("model/") and name.count("/") == 1]
        if not names:
            raise ValueError(f"{path} holds no model; name the folder of the run that was certified")
        for name in names:
            (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


def _part(path: Path, name: str) -> bytes:
    with contextlib.suppress(zipfile.BadZipFile, KeyError), zipfile.ZipFile(path) as archive:
        return archive.read(name)
    raise ValueError(f"{path} is no dossier: it holds no {name}, or is damaged")


def _explicit(checked: Checked) -> Record:
    """The record; votes of a fixed number of samples by an older version in the words of today's evidence."""
    record, evidence = checked
    if evidence is None or evidence.kind() != "FixedVotes" or "kind" in record.certificate.evidence:
        return record
    return replace(record, certificate=replace(record.certificate, evidence=evidence.to_record()))


def _private(path: Path):
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise ValueError("a signature needs the package cryptography: pip install 'holdfast[sign]'") from error
    try:
        found = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no private key in PEM form without a password ({error})") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise ValueError(f"{path} holds another key than Ed25519; make one: openssl genpkey -algorithm ed25519")
    return found
