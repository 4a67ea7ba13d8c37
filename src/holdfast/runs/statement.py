"""What a certified run states, in words: the claim, what it assumes, and where it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.certificate import Evidence
from ..core.threat import THREATS
from .records import certifier_of

if TYPE_CHECKING:
    from .dossier import Totals


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
