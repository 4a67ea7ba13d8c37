"""A dossier: one zip that says what is certified, with all evidence and the program that checks it.

dossier.json      the claim in words, the run's settings, totals, sums of all files, and the end of the hash chain
records.jsonl     one line per example, as in a run folder, in the order of the indices
verify.py         `holdfast.checker`, which checks all of it without holdfast
report.html       the page of the run, if there is one
model/            the folder of the trained run, if asked for: run.json and weights
signature.txt     Ed25519 signature of dossier.json, in hexadecimal digits, if there is a key

The chain begins with the hash of the settings; link k is the hash of link k - 1 and of line k. The same run gives the
same bytes. The words, at the end of this file, say what is claimed, what it assumes, and where it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..core.certificate import Evidence, Record
from ..core.threat import THREATS
from . import store
from .records import Checked, Limits, certifier_of, line_of, record_of

RHO = 0.001
"""Probability with which more certificates may be wrong than the totals say."""

CHECKER = Path(__file__).parents[1] / "checker.py"
"""The program that checks a dossier alone."""

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What `zipfile` raises on bytes that it cannot unpack, of encrypted ones a RuntimeError."""

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
        **statement(facts, told, [checked.evidence for checked in found]),
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
            new = limits.check(record_of(store.from_json(line)))
            if found.setdefault(new.record.index, new) is not new:
                raise ValueError(f"example {new.record.index} is listed twice")
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} of records.jsonl: not a record of this run: {error}") from error
    return limits.ordered(found, path)


def read_facts(path: Path) -> dict[str, Any]:
    """What a dossier tells of its run.

    Raises:
        ValueError: no dossier.
    """
    try:
        content = store.from_json(_part(path, "dossier.json"))
        return content["run"] | {name: content[name] for name in AROUND if name in content}
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no dossier: its dossier.json tells no run ({error!r})") from error


def unlike(path: Path, found: Sequence[Checked]) -> list[str]:
    """Names in dossier.json of what an unsigned dossier says otherwise than this version of holdfast would. What is
    signed is its signer's word.

    Args:
        found: its records.
    """
    content = store.from_json(_part(path, "dossier.json"))
    if content["signer"]:
        return []
    said = statement(read_facts(path), Totals(**content["totals"]), [checked.evidence for checked in found])
    return [name for name, words in said.items() if content.get(name) != json.loads(json.dumps(words))]


def unpack_model(path: Path, folder: Path) -> Path:
    """Write the trained run that a dossier holds into a folder; returns its path.

    Raises:
        ValueError: the dossier holds no model.
    """
    with _opened(path) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"model/[^/\\]*[^/\\.][^/\\]*", name)]
        if not names:
            raise ValueError(f"{path} holds no model; name the folder of the run that was certified")
        for name in names:
            (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DAMAGED as error:
        raise ValueError(f"{path} is no dossier, or is damaged: {error}") from error


def _part(path: Path, name: str) -> bytes:
    with _opened(path) as archive, contextlib.suppress(KeyError):
        return archive.read(name)
    raise ValueError(f"{path} is no dossier: it holds no {name}")


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


def statement(facts: Mapping[str, Any], told: Totals, evidence: Sequence[Evidence | None]) -> dict[str, Any]:
    """Claim, model, data, arithmetic, assumptions and limitations of a run.

    Args:
        facts: what is known of it, under the names of run.json.
        evidence: of every record; None where it was not kept.
    """
    task = facts["certification"]
    certifier = certifier_of(facts)
    sampling = certifier.get("inner", certifier)
    norms = {found.norm for found in evidence if found and found.norm}
    return {
        "claim": list(_claim(facts, told, sampling, norms)),
        "model": {"identity": task["model"], **{name: task.get(name) for name in ("precision", "runtime")}},
        "data": {
            "name": task["dataset"],
            "split": task.get("split"),
            "checksums": facts.get("checksums"),
            "indices": _indices(facts),
        },
        "arithmetic": _arithmetic(sampling),
        "assumptions": list(_assumptions(facts, sampling)),
        "limitations": list(_limitations(facts, evidence)),
    }


def _claim(facts: Mapping[str, Any], told: Totals, sampling: Mapping[str, Any], norms: set[str]) -> Iterator[str]:
    threats = [THREATS[name] for name in sorted(norms) if name in THREATS]
    norm = " and ".join(f"{threat.title} norm ({threat.unit})" for threat in threats) or "norm of the record"
    smoothed = "sigma" in sampling
    about = "of the smoothed classifier" if smoothed else "of the classifier"
    yield (
        f"For every record with a prediction: no change of the image whose {norm} is smaller than the radius of the "
        f"record changes that prediction {about}."
    )
    if smoothed:
        yield (
            "The smoothed classifier answers with the class that the model most probably gives to input + noise of "
            f"standard deviation {sampling['sigma']:g}; one forward pass of the model is not its answer."
        )
        yield (
            f"Each of these statements is wrong with probability {told.alpha:g} at most, over the noise that was "
            f"drawn; of all {told.examples:,} no more than {told.wrong_at_most:,} are wrong, with probability 99.9 %."
        )
    else:
        yield "Proven without sampling: no statement has a probability of being wrong."
    for radius, count in told.certified.items():
        found = f"Correct with a certified radius of {float(radius):g} or more: {count:,} of {told.examples:,}"
        share = f"; with probability 99.9 % truly {100 * told.at_least(float(radius)):.2f} % or more"
        yield f"{found}{share if smoothed else ''}."


def _indices(facts: Mapping[str, Any]) -> str:
    task, total = facts["certification"], facts.get("total")
    start, every = task.get("start", 0), task.get("every", 1)
    if not total:
        return f"from {start} in steps of {every}"
    return f"{start} to {start + every * (total - 1)} in steps of {every}: {total:,} examples"


def _arithmetic(sampling: Mapping[str, Any]) -> str:
    noise = (sampling.get("noise") or {"kind": "Float32"})["kind"] if "sigma" in sampling else ""
    if noise == "Lattice":
        return (
            "Noise on a lattice: the statement is about the program that ran, at every real input; delta bounds what "
            "the 64 random bits of a coordinate take away, and is subtracted."
        )
    if noise:
        return "The statement is about real arithmetic; the program that ran added its noise in floating point."
    return "The network ran in float64; a bound on its rounding errors is subtracted from every margin."


def _assumptions(facts: Mapping[str, Any], sampling: Mapping[str, Any]) -> Iterator[str]:
    yield "The processor rounds as IEEE 754 says, and neither it nor the libraries have a fault that changes an answer."
    if "sigma" not in sampling:
        return
    yield "The numbers of the generator of the noise are as good as random."
    measured = facts.get("determinism") or {}
    told = (
        f"; of {measured['noisy_rows']:,} noisy inputs in another order and batch size {measured['changed_classes']:,} "
        "changed their class"
        if measured
        else ""
    )
    yield f"The model answers to an input alike whatever stands beside it in a batch{told}."


def _limitations(facts: Mapping[str, Any], evidence: Sequence[Evidence | None]) -> Iterator[str]:
    yield "Nothing is said about other images than those listed, or about changes that the norm does not measure."
    yield (
        "That the votes or margins came from this model and these images shows in a signature or by drawing them again "
        "(holdfast verify --replay), not in the numbers."
    )
    certifier = certifier_of(facts)
    if certifier.get("kind") == "AtRadius":
        yield f"Only these radii were decided: {', '.join(f'{radius:g}' for radius in certifier.get('r', ()))}."
    if "checksums" not in facts:
        yield "No checksum of the images and labels was kept."
    if missing := sum(found is None for found in evidence):
        yield f"{missing:,} radii cannot be computed again: their evidence was not kept in full."
    for unseen in sorted({found.unseen for found in evidence if found and found.unseen}):
        yield f"Taken as stated, for only the model can show them: {unseen}."
    if revises := facts.get("revises"):
        changed = ", ".join(f"{name} {new} instead of {old}" for name, (old, new) in revises["changed"].items())
        yield (
            f"Settings were chosen after votes were seen ({changed}, after {revises['run']}): the alphas of both are "
            "added, and this run replaces that one for all its examples."
        )
