"""What tells runs apart: their names, which are the settings in which they differ, and notes on comparing them.

The notes say what a reader must know first: which settings differ and what follows, and what each number says.
"""

import string
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar

from ..core.recipe import Recipe
from ..runs.certified import side_by_side
from .curve import Curve

FIRST = ("method", "dataset", "arch", "training sigma", "sigma", "epochs", "training seed", "certifier", "n", "r")
"""The settings that a reader looks for first, in this order."""

ALWAYS = {"training sigma", "sigma", "epochs", "training seed"}
"""What a label tells wherever runs differ in it; other settings only where they are needed to tell runs apart."""

UNTOLD = {"model", "kind", ""}
"""Settings that tell nobody what a run is."""

NAMES = {"method.sigma": "training sigma", "seed": "training seed", "dataset": "trained on"}
"""Of a recipe, where a name alone could be that of another setting."""

DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
"""Of options that a recipe of an earlier version does not name."""

SHORT = {"dataset", "method", "arch", "certifier"}
"""Settings whose value says what they are."""


def told(curve: Curve) -> dict[str, Any]:
    """All that is known of how a classifier was trained and certified, flat, one name each; unset options left out."""
    recipe = (DEFAULTS if curve.recipe.get("kind") == "Recipe" else {}) | dict(curve.recipe)
    trained = {NAMES.get(key, key.removeprefix("method.")): value for key, value in side_by_side(recipe)}
    certified = {"noise seed" if key == "seed" else key: value for key, value in curve.fields.items()}
    if trained.get("trained on") == certified.get("dataset", trained.get("trained on")):
        certified["dataset"] = trained.pop("trained on", certified.get("dataset"))
    if trained.get("training sigma") == certified.get("sigma"):
        trained.pop("training sigma", None)
    found = trained | certified
    return {key: found[key] for key in found if found[key] is not None and found[key] is not False and found[key] != ""}


def differing(curves: Sequence[Curve]) -> list[str]:
    """The settings in which runs differ, those that matter most first.

    Two methods differ in all that only one of them has, so hyper-parameters count where runs of one method differ.
    """
    facts = [told(curve) for curve in curves]
    keys = dict.fromkeys(key for key in FIRST for fact in facts if key in fact)
    keys |= dict.fromkeys(key for fact in facts for key in sorted(fact) if key not in UNTOLD)
    certified = {key for curve in curves for key in curve.fields}
    groups = [facts, *_by_method(facts)]
    return [key for key in keys if any(map(_varies(key), groups if key in {*FIRST, *certified} else groups[1:]))]


def _by_method(facts: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for fact in facts:
        found.setdefault(str(fact.get("method")), []).append(fact)
    return list(found.values())


def _varies(key: str) -> Callable[[Sequence[Mapping[str, Any]]], bool]:
    return lambda facts: len({repr(fact.get(key)) for fact in facts}) > 1


def shared(curves: Sequence[Curve]) -> dict[str, Any]:
    """The settings that all runs share."""
    facts = [told(curve) for curve in curves]
    return {k: v for k, v in facts[0].items() if k not in UNTOLD and all(fact.get(k) == v for fact in facts)}


def labeled(curves: Sequence[Curve], given: Sequence[str] = ()) -> list[Curve]:
    """Curves with a label each: the given ones, or the method (the name, where no recipe is known) and what differs.

    Raises:
        ValueError: there are labels for another number of runs.
    """
    if given and len(given) != len(curves):
        names = "; ".join(curve.name for curve in curves)
        raise ValueError(f"expected {len(curves)} labels, one for each of {names}; got {len(given)}")
    return [replace(c, title=title) for c, title in zip(curves, given or titles(curves), strict=True)]


def titles(curves: Sequence[Curve], untold: Collection[str] = ("method", "noise seed")) -> list[str]:
    """The method (or the name) of each and what tells it apart; settings that are `untold` do not."""
    facts = [told(curve) for curve in curves]
    bases = [str(fact.get("method") or curve.name) for fact, curve in zip(facts, curves, strict=True)]
    if len(curves) == 1 and "training seed" not in untold:
        return [curves[0].name]
    found = bases
    for key in (key for key in differing(curves) if key not in untold):
        found = _add(key, found, facts)
    seen = Counter(found)
    return [
        title if seen[title] == 1 else f"{title} ({_mark(curve)})" for title, curve in zip(found, curves, strict=True)
    ]


def _add(key: str, known: list[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles with one more setting, where it tells runs apart or is told wherever two runs differ."""
    values: dict[str, set[str]] = {}
    for title, fact in zip(known, facts, strict=True):
        values.setdefault(title, set()).add(repr(fact.get(key)))
    always = key in ALWAYS and len({repr(fact[key]) for fact in facts if key in fact}) > 1
    longer = []
    for title, fact in zip(known, facts, strict=True):
        wanted = always or len(values[title]) > 1
        longer.append(f"{title}, {setting(key, fact[key])}" if wanted and key in fact else title)
    return longer


def setting(key: str, value: Any) -> str:
    """A setting in words."""
    shown = plain(value)
    return shown if key in SHORT else f"{key} {shown}"


def plain(value: Any) -> str:
    """A value as people write it: thousands with commas, several side by side."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(plain, value))})"
    if isinstance(value, float) and len(str(value)) > 8:
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _mark(curve: Curve) -> str:
    """What is left to tell two runs apart by."""
    return f"{curve.name}, {curve.source.name}" if curve.source and curve.source.is_dir() else curve.name


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
