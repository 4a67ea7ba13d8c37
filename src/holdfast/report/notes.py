"""What a reader must know before comparing: in which settings runs differ, and what each number says."""

import string
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

from .curve import Curve
from .labels import plain

Key = TypeVar("Key", bound=Hashable)

RHO = 0.001
"""Probability with which the statement about all examples of a run at once may fail."""

LETTERS = tuple(first + last for first in ("", *string.ascii_uppercase) for last in string.ascii_uppercase)
"""Short names of the runs of one report, in order: A to Z, AA to ZZ."""

SAMPLING = "more samples prove larger radii of the same classifier, so part of a difference is the sampling"
DATA = "other data, so only the shape of the curves can be compared"

CONSEQUENCES = {
    "certifier": "another proof method has other radii even for the same classifier",
    "sigma": "more noise reaches further and loses accuracy at small radii",
    "n": SAMPLING,
    "n_max": SAMPLING,
    "n0": "more samples for the selection choose the right class more often",
    "noise": "float32 noise proves a statement about real numbers, lattice noise one about the program that ran",
    "alpha": "a larger alpha proves larger radii at lower confidence",
    "two_class": "bounding the best rival too proves larger radii of the same classifier",
    "dataset": DATA,
    "split": DATA,
    "precision": "the certified function includes its arithmetic, so these are other functions",
    "runtime": "the certified function includes how its runtime rounds, so these are other functions",
}
"""What it means for a comparison that a setting differs; other settings are named without comment."""

EXPECTED = {"model", "seed", "every", "start", "limit"}
"""Settings that need no warning: other models are what is compared, and the examples are looked at themselves."""


def notes(curves: Sequence[Curve]) -> list[str]:
    """Warnings about differences between runs first, then how to read the numbers."""
    warnings = (_settings, _logs, _unfinished, _examples, _caps, _given, _invalid)
    parts = (*warnings, _arithmetic, _runtime, _determinism, _lacks, _reading)
    return [sentence for part in parts for sentence in part(curves)]


def _settings(curves: Sequence[Curve]) -> Iterator[str]:
    known = {key: None for curve in curves for key in curve.fields if key not in EXPECTED}
    for key in known:
        groups = _letters_by(curves, lambda curve, key=key: plain(curve.fields[key]) if key in curve.fields else None)
        if len(groups) > 1:
            told = "; ".join(f"{letters}: {value}" for value, letters in groups.items())
            consequence = CONSEQUENCES.get(key.rsplit(".", 1)[-1])
            yield f"{key} differs ({told})" + (f": {consequence}." if consequence else ".")


def _logs(curves: Sequence[Curve]) -> Iterator[str]:
    logs = _letters_by(curves, lambda curve: None if curve.settings else "log").get("log")
    if logs and any(curve.settings for curve in curves):
        yield (
            f"{logs}: a published log does not record its sigma, n and alpha. If they differ from those of the other "
            f"runs, the numbers are not comparable as they stand."
        )


def _unfinished(curves: Sequence[Curve]) -> Iterator[str]:
    if letters := _letters_by(curves, lambda curve: curve.unfinished or None).get(True):
        yield (
            f"{letters}: not finished. Which examples are done first can depend on their votes, so the numbers and "
            f"intervals are those of a biased part of the examples; they are not compared, and 'wrong at most' is "
            f"left out."
        )


def _given(curves: Sequence[Curve]) -> Iterator[str]:
    for letter, curve in zip(LETTERS, curves, strict=False):
        if curve.given_radii:
            radii = ", ".join(f"{radius:g}" for radius in curve.given_radii)
            yield f"{letter} was decided at radius {radii} only: it has no ACR, and no accuracy at other radii."
            told = [f"{n:,} at {r:g}" for n, r in zip(curve.undecided, curve.given_radii, strict=True) if n]
            if told:
                yield f"{letter}: undecided after the most samples, and not certified: {', '.join(told)}."
        elif not curve.has_acr:
            yield f"{letter} was decided at given radii of the features only: it has no ACR."


def _examples(curves: Sequence[Curve]) -> Iterator[str]:
    sets = [frozenset(record.index for record in curve.records) for curve in curves]
    if len(set(sets)) > 1:
        told = ", ".join(f"{letter} {len(part):,}" for letter, part in zip(LETTERS, sets, strict=False))
        yield (
            f"The runs hold different examples ({told}; common to all: {len(frozenset.intersection(*sets)):,}): means "
            f"over different examples are not comparable, the paired comparison is."
        )


ROUNDED = 1.005
"""What rounding to nearest, with three digits, can add to a radius in a log."""


def _caps(curves: Sequence[Curve]) -> Iterator[str]:
    """Radii out of reach of another run's settings betray other settings even where a log does not tell them."""
    for letter, curve in zip(LETTERS, curves, strict=False):
        if curve.cap is None or not curve.has_acr:
            continue
        beyond = [
            f"{other} reaches {rival.largest:.4g}"
            for other, rival in zip(LETTERS, curves, strict=False)
            if other != letter and rival.largest > curve.cap * (1 if rival.records[0].certificate.evidence else ROUNDED)
        ]
        if beyond:
            yield (
                f"The settings of {letter} can prove a radius of {curve.cap:.4g} at best, and {', '.join(beyond)}: "
                f"the caps differ, so ACR is not comparable as it stands."
            )


def _invalid(curves: Sequence[Curve]) -> Iterator[str]:
    for letter, curve in zip(LETTERS, curves, strict=False):
        if curve.invalid:
            yield f"{letter}: for {curve.invalid:,} examples some samples gave NaN or infinite logits and no vote."


def _arithmetic(curves: Sequence[Curve]) -> Iterator[str]:
    def real(curve: Curve) -> bool | None:
        return any(key.endswith("noise") and kind == "Float32" for key, kind in curve.fields.items()) or None

    if letters := _letters_by(curves, real).get(True):
        yield (
            f"{letters}: the noise was added in float32. Such certificates are about real numbers; a classifier that "
            f"reads low bits can make them false for the program that ran (docs/certificates.md)."
        )


def _determinism(curves: Sequence[Curve]) -> Iterator[str]:
    measured = _letters_by(
        curves, lambda c: (c.determinism["changed_classes"], c.determinism["noisy_rows"]) if c.determinism else None
    )
    for (changed, rows), letters in measured.items():
        yield f"{letters}: of {rows:,} noisy images in another order and batch size, {changed:,} changed their class."


def _runtime(curves: Sequence[Curve]) -> Iterator[str]:
    def measured(curve: Curve) -> tuple[str, int, int] | None:
        found = curve.determinism
        told = (str(curve.fields.get("runtime")), found.get("runtime_changed", 0), found.get("noisy_rows", 0))
        return told if "runtime_changed" in found else None

    for (runtime, changed, rows), letters in _letters_by(curves, measured).items():
        yield (
            f"{letters}: certified as {runtime} runs it; of {rows:,} noisy images {changed:,} have another class where "
            "torch runs it."
        )


def _lacks(curves: Sequence[Curve]) -> Iterator[str]:
    """What the records of a run do not show, once for all runs that lack the same."""
    for lack in dict.fromkeys(lack for curve in curves for lack in curve.lacks):
        letters = _letters_by(curves, lambda curve, lack=lack: (lack in curve.lacks) or None)[True]
        yield f"{letters}: {lack}."


def _reading(curves: Sequence[Curve]) -> Iterator[str]:
    yield (
        "Intervals in brackets are 95 % and say how far a number would move with other examples of the same kind: "
        "exact (Clopper-Pearson) for shares, Student's t for means."
    )
    if len(curves) > 1:
        yield (
            "Paired comparisons use exactly the common examples: Student's t for ACR, Tango's score interval and "
            "McNemar's exact test for certified accuracy. p-values are not corrected for the number of comparisons, "
            "and they ignore training variance: they are about these trained classifiers, and training again with "
            "another seed gives others."
        )
    if not all(curve.settings for curve in curves):
        yield "Radii in a log are rounded to nearest, 3 digits; its alpha is taken to be 0.001, the usual default."
    if any(curve.alpha is not None for curve in curves):
        yield (
            f"alpha is the probability that one certificate is wrong. Of all those of a run together no more are wrong "
            f"than 'wrong at most' says, with probability {1 - RHO:.1%}: subtract these points from certified "
            f"accuracy, at all radii at once, for a statement about all of these examples."
        )
        yield (
            "Read the curve, not ACR alone: with n the ACR of even a constant classifier grows without limit, and "
            "methods of higher ACR often have lower accuracy at small radii (Sun et al., "
            "https://arxiv.org/abs/2410.06895)."
        )


def _letters_by(curves: Sequence[Curve], key: Callable[[Curve], Key | None]) -> dict[Key, str]:
    """The letters of the runs for every value of a key, 'A, C'; runs whose key is None are left out."""
    groups: dict[Key, list[str]] = {}
    for letter, curve in zip(LETTERS, curves, strict=False):
        if (value := key(curve)) is not None:
            groups.setdefault(value, []).append(letter)
    return {value: ", ".join(letters) for value, letters in groups.items()}
