"""Other settings for votes that are there: another alpha, two classes bounded instead of one, or more draws.

Whoever chooses settings after seeing votes takes the better of two statements, which is wrong when either is: the
alphas add up. So the new run names the old one and its alpha (`revises` in run.json), replaces it for all examples,
and reports and dossiers count the sum.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..certifiers.at_radius import AtRadius
from ..core.certificate import Record
from ..core.certifier import Certifier
from ..core.config import differences
from ..runs import store
from ..runs.records import Checked, line_of, read_checked
from ..smoothing.certifier import SamplingCertifier
from ..smoothing.evidence import FixedVotes, SamplingEvidence
from .task import Certification


def recertify(folder: Path, alpha: float | None = None, two_class: bool = False) -> Path:
    """Make a certify folder with another alpha, or with the runner-up bounded, from the votes of a finished one.

    Any stopping rule is allowed where a bound holds at all looks at once (`betting`, spending boundaries), and that of
    `adaptive` whatever alpha is (`statistics.stopping`), so that bounds for another alpha hold at the looks taken.

    Returns:
        The new folder, beside the old one.

    Raises:
        ValueError: the run is not finished, keeps too little, or its procedure does not allow it; the reason is told.
    """
    facts = store.read_run(folder)
    if "certification" not in facts:
        raise ValueError(f"{folder} is no certify folder")
    task = Certification.from_dict(facts["certification"])
    certifier = _revised(task.certifier, alpha, two_class)
    found = _finished(folder, facts)
    records = [_again(checked, certifier) for checked in found]
    new = task.replace(certifier=certifier)
    target = folder.parent / f"certify-{new.fingerprint()}"
    if any(target.glob("records-*")):
        raise ValueError(f"{target} is there already, with these settings")
    asked = {"certification": new.to_dict(), **{name: facts[name] for name in ("checksums",) if name in facts}}
    told = {
        "name": facts.get("name"),
        "norm": certifier.noise.threat,
        "total": len(records),
        "cap": certifier.cap(),
        "samples": certifier.samples(),
    }
    store.open_run(target, asked, told | {"revises": revises(folder, certifier)})
    store.write_whole(target / "records-0-of-1.jsonl", b"".join(map(line_of, records)))
    store.log(target, event="recertified", votes_of=folder.name)
    return target


def revises(folder: Path, new: Certifier) -> dict[str, Any]:
    """What run.json tells of a run with other settings than the one in a folder, chosen after its votes were seen.

    Its earlier alphas are those of all runs on these votes: of the folder, of those that it revises, and of others that
    revise one of them.
    """
    old = Certification.from_dict(store.read_run(folder)["certification"]).certifier
    changed = {name: list(pair) for name, pair in differences(old.to_dict(), new.to_dict()).items()}
    alphas: dict[str, float] = {}
    family = {folder.name, *_before(folder)}
    for path in sorted(folder.parent.glob("certify-*/run.json")):
        if path.parent.name in family or family & set(_before(path.parent)):
            alphas[path.parent.name] = _alpha(path.parent)
    return {"run": folder.name, "changed": changed, "earlier_alphas": alphas}


def _before(folder: Path) -> Mapping[str, float]:
    return store.read_run(folder).get("revises", {}).get("earlier_alphas", {})


def _alpha(folder: Path) -> float:
    sampling = Certification.from_dict(store.read_run(folder)["certification"]).certifier.sampling
    return sampling.alpha if sampling else 0.0


def earlier(task: Certification, folder: Path, checksums: Mapping[str, str]) -> Path | None:
    """The finished run with the most samples that a certification can go on from: the same but for fewer of them.

    Args:
        folder: where the certification goes; one that was begun keeps its choice.
        checksums: of its data.
    """
    certifier = task.certifier
    if not isinstance(certifier, SamplingCertifier) or not certifier.continues or folder.exists():
        return None
    beside = [path.parent for path in folder.parent.glob("certify-*/run.json")]
    best = max(beside, key=lambda path: _fewer(task, path, checksums), default=None)
    return best if best and _fewer(task, best, checksums) else None


def _fewer(task: Certification, folder: Path, checksums: Mapping[str, str]) -> int:
    """With how many samples a folder holds the same run, finished; 0 where it is another, or damaged."""
    with suppress(ValueError, TypeError):
        facts = store.read_run(folder)
        asked = Certification.from_dict(facts.get("certification", {}))
        samples = getattr(asked.certifier, "n", 0)
        same = (
            asked == task.replace(certifier=task.certifier.replace(n=samples)) and facts.get("checksums") == checksums
        )
        if same and samples < getattr(task.certifier, "n", 0) and len(read_checked(folder)) == facts.get("total"):
            return samples
    return 0


def votes_before(folder: Path) -> dict[int, FixedVotes] | None:
    """By example, the votes that the run in a folder goes on from; None where it starts anew, or where they are gone,
    or have become those of another run: what they were is drawn again, for copies follow from their numbers."""
    facts = store.read_run(folder)
    told = facts.get("revises", {})
    before = folder.parent / str(told.get("run"))
    if "n" not in told.get("changed", {}):
        return None
    if not _fewer(Certification.from_dict(facts["certification"]), before, facts.get("checksums", {})):
        return None
    found = {checked.record.index: checked.evidence for checked in read_checked(before)}
    return {index: votes for index, votes in found.items() if isinstance(votes, FixedVotes)}


def _revised(certifier: Certifier, alpha: float | None, two_class: bool) -> SamplingCertifier:
    """The certifier with the new settings, if votes that are there can be judged by it."""
    kind = type(certifier).__name__
    if certifier.sampling is None:
        raise ValueError(f"{kind} draws no samples: its proofs have no alpha, and nothing to choose")
    if not isinstance(certifier, SamplingCertifier):
        raise ValueError(
            f"with {kind} the radius of the features bounds a ball of the image by the network's left half, which the "
            "votes alone do not hold; certify again, the noise stays the same"
        )
    if isinstance(certifier, AtRadius) and certifier.boundaries == "optimal":
        raise ValueError(
            "the looks of at-radius and what it does at each were chosen for its alpha, and kept only as far as they "
            "were reached: for a larger alpha they prove the same radii, for a smaller one none; certify again"
        )
    changes: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    if two_class:
        if not hasattr(certifier, "two_class"):
            raise ValueError(f"{kind} keeps the votes of the top class at every look, not those of its runner-up")
        changes["two_class"] = two_class
    new = certifier.replace(**changes)
    if new == certifier:
        raise ValueError("these are the settings of the run already; choose another --alpha, or --two-class")
    return new


def _finished(folder: Path, facts: Mapping[str, Any]) -> Sequence[Checked]:
    found = read_checked(folder)
    if not found or len(found) < facts.get("total", 0):
        raise ValueError(
            f"{folder} holds {len(found):,} of {facts.get('total', 0):,} records: finish it first, for a revision "
            "replaces a run for all its examples"
        )
    for record, evidence in found:
        if "kind" not in record.certificate.evidence and not isinstance(evidence, FixedVotes):
            raise ValueError(
                f"example {record.index} was certified by an older version, which kept the votes of the last look only"
            )
    return found


def _again(checked: Checked, certifier: SamplingCertifier) -> Record:
    evidence = checked.evidence
    assert isinstance(evidence, SamplingEvidence)
    kept = {field.name for field in fields(evidence)}
    changes = {name: getattr(certifier, name) for name in ("alpha", "two_class") if name in kept}
    return Record(checked.record.index, checked.record.label, certifier.certificate(evidence.replace(**changes)))
