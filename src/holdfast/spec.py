"""Spec: what a user chose, as a frozen dataclass that prints, serialises and fingerprints itself."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

FEW = 12
"""Names that an error lists in full."""


def unknown(what: str, found: str, known: Iterable[str], listed_by: str = "") -> ValueError:
    """The error for a name that does not exist: it suggests at most three, and lists all where these are few.

    Args:
        listed_by: the command that shows all names.
    """
    names = sorted(known)
    near = difflib.get_close_matches(found, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    command = f"; all of them: {listed_by}" if listed_by else ""
    there = f"known: {', '.join(names) or 'none'}" if len(names) <= FEW else f"there are {len(names)}{command}"
    return ValueError(f"unknown {what} {found!r}; {hint}{there}")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Base of every recipe, method and certifier. A subclass is found again by its class name."""

    kinds: ClassVar[dict[str, type["Spec"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        other = Spec.kinds.setdefault(cls.__name__, cls)
        if other.__module__ != cls.__module__:
            raise TypeError(f"two Specs are called {cls.__name__}: in {other.__module__} and in {cls.__module__}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the field names, and the class name under `kind`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"kind": type(self).__name__} | {name: _plain(value) for name, value in fields.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The Spec that `to_dict` was called on.

        Raises:
            ValueError: an unknown kind or field, with the nearest known names.
            TypeError: a Spec of another sort than the class this is called on.
        """
        name = data.get("kind", cls.__name__)
        if name not in Spec.kinds:
            raise unknown("kind", name, Spec.kinds)
        kind = Spec.kinds[name]
        if not issubclass(kind, cls):
            raise TypeError(f"expected a {cls.__name__}, found a {name}")
        known = {f.name for f in dataclasses.fields(kind)}
        for field in data.keys() - known - {"kind"}:
            raise unknown(f"field of {name}", field, known)
        return kind(**{field: rich(value) for field, value in data.items() if field != "kind"})

    def fingerprint(self) -> str:
        """A name that changes exactly when the choice changes (12 hex digits).

        A field at its default does not enter, so that an option added later leaves the names of old runs alone.
        """
        return hashlib.sha256(json.dumps(self._chosen(), sort_keys=True).encode()).hexdigest()[:12]

    def _chosen(self) -> dict[str, Any]:
        values = [(f, getattr(self, f.name)) for f in dataclasses.fields(self)]
        chosen = {f.name: v._chosen() if isinstance(v, Spec) else _plain(v) for f, v in values if v != f.default}
        return {"kind": type(self).__name__} | chosen

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def differences(left: Any, right: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """The leaves in which two nested dictionaries differ, under dotted names, as (left, right)."""
    if not isinstance(left, Mapping) or not isinstance(right, Mapping):
        return {} if left == right else {name: (left, right)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(left.keys() | right.keys()):
        found |= differences(left.get(key), right.get(key), f"{name}.{key}" if name else key)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def rich(value: Any) -> Any:
    """The inverse of `to_dict`, for any value: a dictionary with a `kind` becomes that Spec, a list a tuple."""
    if isinstance(value, Mapping) and "kind" in value:
        return Spec.from_dict(value)
    return tuple(rich(item) for item in value) if isinstance(value, list) else value
