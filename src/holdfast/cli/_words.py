"""Words and options in any order: which arguments are words follows from which options take a value."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.registry import CERTIFIERS, IMPORTABLE, unknown

if TYPE_CHECKING:
    from ..core.certifier import Certifier

Takes = Literal["nothing", "one", "numbers"]
"""What may follow an option: nothing for a switch, one value, or any number of numbers."""


def options(*holders: object) -> dict[str, Takes]:
    """The options that the fields of dataclasses become, nested ones included."""
    known: dict[str, Takes] = {"-h": "nothing", "--help": "nothing"}
    for holder in holders:
        for field, value in _fields(holder):
            known |= _of(field, value)
    return known


def _fields(holder: object) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(holder):  # pyright: ignore[reportArgumentType]
        value = getattr(holder, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value)
        else:
            yield field.name, value


def _of(field: str, value: object) -> dict[str, Takes]:
    name = field.replace("_", "-")
    if isinstance(value, bool):
        return {f"--{name}": "nothing", f"--no-{name}": "nothing"}
    return {f"--{name}": "numbers" if isinstance(value, tuple) else "one"}


def split(args: list[str], known: Mapping[str, Takes]) -> tuple[list[str], list[str]]:
    """Words, and options with their values, each in their order.

    Raises:
        ValueError: an option that is not known; the nearest ones are suggested.
    """
    words: list[str] = []
    rest: list[str] = []
    takes: Takes = "nothing"
    for arg in args:
        if takes == "one" or (takes == "numbers" and _number(arg)):
            rest.append(arg)
            takes = takes if takes == "numbers" else "nothing"
        elif not arg.startswith("-"):
            words.append(arg)
            takes = "nothing"
        else:
            name, equals, _ = arg.partition("=")
            if name.replace("_", "-") not in known:
                raise unknown("option", name, known, "--help")
            rest.append(arg)
            takes = "nothing" if equals else known[name.replace("_", "-")]
    return words, rest


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def value(option: str, rest: list[str]) -> str | None:
    """The last value given to an option, as `--option value` or `--option=value`; None without one."""
    found = None
    for arg, after in zip(rest, [*rest[1:], ""], strict=False):
        name, equals, told = arg.partition("=")
        if name == option:
            found = told if equals else after
    return found


def given(option: str, rest: list[str]) -> bool:
    """Whether an option is among those given, as `--option value` or `--option=value`."""
    return any(arg.partition("=")[0] == option for arg in rest)


def names_certifier(word: str) -> bool:
    """Whether a word is the name of a certifier, or says where one is imported from."""
    return word in CERTIFIERS or (IMPORTABLE.fullmatch(word) is not None and not Path(word).exists())


def certifier_among(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The certifier that is named, if any, and the other words.

    Raises:
        ValueError: several are named.
    """
    chosen = [word for word in words if names_certifier(word)]
    if len(chosen) > 1:
        raise ValueError(f"expected one certifier, got {' and '.join(chosen)}")
    return (chosen[0] if chosen else None), [word for word in words if word not in chosen]


def certifiers_for(args: Sequence[str]) -> "list[Certifier]":
    """All certifiers whose options may be among the arguments: those with a name, and those that are imported."""
    pairs = zip(["", *args], args, strict=False)
    words = [arg for before, arg in pairs if not before.startswith("--") and not arg.startswith("-")]
    foreign = [word for word in words[1:] if word not in CERTIFIERS and names_certifier(word)]
    return [*CERTIFIERS.values(), *(CERTIFIERS[word] for word in foreign)]
