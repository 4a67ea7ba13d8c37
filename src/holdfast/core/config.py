"""Config: what a user chose, as a frozen dataclass that prints, serialises and fingerprints itself."""

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np

from .registry import IMPORTABLE, KINDS, unknown


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of every recipe, method and certifier. A subclass is found again by its `kind`."""

    former_names: ClassVar[Mapping[str, str]] = {}
    """Names that fields had in files of earlier versions, and the names they have now."""
    former_defaults: ClassVar[Mapping[str, Any]] = {}
    """What fields were in earlier versions, whose files do not name them."""

    def __post_init__(self) -> None:
        """Refuse values of another type than their field. Subclasses that check more call it first.

        Raises:
            ValueError: a field holds such a value; true and false are no numbers.
        """
        check_fields(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        other = KINDS.known(cls.kind())
        if other is not None and other.__module__ != cls.__module__:
            raise TypeError(f"two Configs are called {cls.__name__}: in {other.__module__} and in {cls.__module__}")
        KINDS.add(cls.kind(), cls, replace=True)  # a cell of a notebook may be run twice

    @classmethod
    def kind(cls) -> str:
        """What stored files call this class: its name; outside of holdfast also where it is to be imported from."""
        foreign = cls.__module__.partition(".")[0] not in ("holdfast", "__main__")
        return f"{cls.__module__}:{cls.__name__}" if foreign and cls.__name__ == cls.__qualname__ else cls.__name__

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the field names, and the class name under `kind`."""
        return {"kind": self.kind()} | {name: plain(getattr(self, name)) for name in field_names(type(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The Config that `to_dict` was called on.

        Raises:
            ValueError: an unknown kind or field, with the nearest known names.
            TypeError: a Config of another sort than the class this is called on.
        """
        name = data.get("kind", cls.kind())
        kind = KINDS[name]
        if not (isinstance(kind, type) and issubclass(kind, cls)):
            raise TypeError(f"expected a {cls.__name__}, found a {name}")
        values = {field: rich(value) if type(value) in NESTED else value for field, value in data.items()}
        values.pop("kind", None)
        for former, field in kind.former_names.items():
            if former in values:
                values[field] = values.pop(former)
        if not values.keys() <= field_set(kind):
            raise unknown(f"field of {name}", min(values.keys() - field_set(kind)), field_names(kind))
        return kind(**{**kind.former_defaults, **values} if kind.former_defaults else values)

    def fingerprint(self) -> str:
        """A name that changes exactly when the choice changes (12 hex digits).

        A field at its default (its former one, if that changed) does not enter, so that an option added later leaves
        the names of old runs alone.
        """
        return hashlib.sha256(json.dumps(self._chosen(), sort_keys=True).encode()).hexdigest()[:12]

    def _chosen(self) -> dict[str, Any]:
        usual = {f.name: f.default for f in dataclasses.fields(self)} | dict(self.former_defaults)
        values = {name: getattr(self, name) for name in usual}
        chosen = {k: v._chosen() if isinstance(v, Config) else plain(v) for k, v in values.items() if v != usual[k]}
        return {"kind": self.kind()} | chosen

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def check_fields(thing: Any) -> None:
    """Refuse a dataclass with a value of another type than its field says. Numbers of numpy become those of Python.

    Raises:
        ValueError: the field is named; true and false are no numbers.
    """
    for name, kinds, choices in field_kinds(type(thing)):
        value = getattr(thing, name)
        if type(value) not in kinds or (type(value) is tuple and not PLAIN_TYPES.issuperset(map(type, value))):
            object.__setattr__(thing, name, value := without_numpy(value))
        if type(value) not in kinds and not fits(value, kinds):
            expected = " or ".join(kind.__name__.removesuffix("Type") for kind in kinds)
            raise ValueError(f"expected {name} to be {expected}, got {value!r:.80}")
        if type(value) is int and not -LARGEST <= value <= LARGEST:
            raise ValueError(f"expected {name} to be an integer of 64 bits, got {value!s:.80}")
        if choices and value not in choices:
            raise ValueError(f"expected {name} to be one of {', '.join(map(str, choices))}, got {value!r:.80}")


def without_numpy(value: Any) -> Any:
    """A number of numpy, alone or in tuples, as that of Python; anything else as it is."""
    if isinstance(value, np.number | np.bool_):
        return value.item()
    return tuple(map(without_numpy, value)) if type(value) is tuple else value


LARGEST = 2**64 - 1
"""Of integers in a Config: seeds are as large."""


@functools.cache
def field_kinds(kind: type) -> tuple[tuple[str, tuple[type, ...], tuple[Any, ...]], ...]:
    """The fields of a dataclass with the types of their values, as far as annotations tell, and the choices there are
    where these are few."""
    hints = typing.get_type_hints(kind)
    literal = {name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is typing.Literal}
    found = ((name, _kinds(hints[name]), literal.get(name, ())) for name in field_names(kind))
    return tuple(row for row in found if all(isinstance(one, type) for one in row[1]))


def _kinds(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is typing.Literal:
        return tuple({type(value) for value in typing.get_args(hint)})
    parts = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return tuple(typing.get_origin(part) or part for part in parts)


def fits(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of these types: an integer is a number, true and false are none."""
    return isinstance(value, (*kinds, int) if float in kinds else kinds) and (bool in kinds or type(value) is not bool)


@functools.cache
def field_names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass, looked up once: records are read by the hundred thousand."""
    return tuple(field.name for field in dataclasses.fields(kind))


@functools.cache
def field_set(kind: type) -> frozenset[str]:
    """`field_names`, to look them up in."""
    return frozenset(field_names(kind))


NESTED = (dict, list)
"""What can hold a Config in data from JSON; nothing else needs a look."""


def differences(left: Any, right: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """The leaves in which two nested dictionaries differ, under dotted names, as (left, right)."""
    if not isinstance(left, Mapping) or not isinstance(right, Mapping):
        return {} if left == right else {name: (left, right)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(left.keys() | right.keys()):
        found |= differences(left.get(key), right.get(key), f"{name}.{key}" if name else key)
    return found


def plain(value: Any) -> Any:
    """What `to_dict` makes of a value."""
    if isinstance(value, Config):
        return value.to_dict()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def rich(value: Any) -> Any:
    """The inverse of `to_dict`, for any value: a dictionary with a `kind` becomes that Config, a list a tuple."""
    if isinstance(value, int | float | str) or (type(value) is dict and "kind" not in value):
        return value  # first, because a test against an abstract class is slow
    if isinstance(value, Mapping) and "kind" in value:
        if len(value) > SMALL or not PLAIN_TYPES.issuperset(map(type, value.values())):
            return Config.from_dict(value)
        return _small(KINDS[value["kind"]], *chain.from_iterable(value.items()))
    if not isinstance(value, list):
        return value
    return tuple(value) if PLAIN_TYPES.issuperset(map(type, value)) else tuple(rich(item) for item in value)


SMALL = 3
"""Entries of a dictionary, at most, whose Config is kept: thousands of records name the same noise."""

PLAIN = (int, float, str, bool, type(None))

PLAIN_TYPES = frozenset(PLAIN)


@functools.lru_cache(maxsize=1000, typed=True)  # 1, 1.0 and True are different values
def _small(_: type, *items: Any) -> Config:
    """The Config of such a dictionary, once for each class that has had its name."""
    return Config.from_dict(dict(zip(items[::2], items[1::2], strict=True)))


def import_kinds(data: Any) -> None:
    """Import the classes of other packages that stored settings name, and with them the threat models that they use.

    Raises:
        ValueError: one cannot be imported.
    """
    if isinstance(data, Mapping):
        kind = data.get("kind")
        if isinstance(kind, str) and IMPORTABLE.fullmatch(kind):
            _ = KINDS[kind]
        data = list(data.values())
    for value in data if isinstance(data, list) else ():
        import_kinds(value)
