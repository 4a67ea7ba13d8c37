"""What runs are called: the settings in which they differ, and nothing that all of them share."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any

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
