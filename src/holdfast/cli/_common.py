"""What commands share: words and options in any order, several runs at once, and how their helps look.

Which arguments are words follows from which options take a value. Commands that name several runs do what they can, and
say what they left out and why. The help of a command is remembered: what it lists is in files whose import takes
seconds; it calls the values of options by words, for whoever has never read a type annotation.
"""

import contextlib
import dataclasses
import hashlib
import io
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import tyro
from rich.console import Console
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from ..core.registry import CERTIFIERS, IMPORTABLE, unknown

if TYPE_CHECKING:
    from ..core.certifier import Certifier

Result = TypeVar("Result")

Takes = Literal["nothing", "one", "numbers"]
"""What may follow an option: nothing for a switch, one value, or any number of numbers."""


def quoted(path: Path | str) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def options(*holders: object) -> dict[str, Takes]:
    """The options that the fields of dataclasses become, nested ones included."""
    known: dict[str, Takes] = {"-h": "nothing", "--help": "nothing"}
    for holder in holders:
        for _, name, value in _fields(holder, dotted=_ambiguous(holder)):
            known |= _of(name, value)
    return known


def _fields(holder: object, dotted: bool, prefix: str = "") -> Iterator[tuple[str, str, object]]:
    """Field, name as an option, and value."""
    for field in dataclasses.fields(holder):  # pyright: ignore[reportArgumentType]
        value = getattr(holder, field.name)
        if dataclasses.is_dataclass(value):
            inner = "" if field.name in PLAIN_PARTS or not dotted else f"{prefix}{field.name}."
            yield from _fields(value, dotted, inner)
        else:
            yield field.name, f"{prefix}{field.name}", value


PLAIN_PARTS = ("recipe", "common", "machine")
"""Parts of options whose fields are always called by their own names."""


def _ambiguous(holder: object) -> bool:
    """Whether two fields become options of one name."""
    names = [name for field, _, value in _fields(holder, dotted=False) for name in _of(field, value)]
    return len(names) > len(set(names))


def parsed(default: Result, args: Sequence[str], prog: str, description: str | None = None) -> Result:
    """The options with what is given. Fields of parts are options by their own names; where a part of a user's own has
    a name that is there already, those of parts are called by the part too: --optimizer.momentum."""
    config = () if _ambiguous(default) else (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(type(default), default=default, args=args, prog=prog, description=description, config=config)


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


def apart(rest: Sequence[str], own: Mapping[str, Takes]) -> tuple[list[str], list[str]]:
    """Options with their values, as `split` gives them: those that are known under these names, and the others."""
    mine: list[str] = []
    others: list[str] = []
    here = mine
    for arg in rest:
        if arg.startswith("--"):
            here = mine if arg.partition("=")[0].replace("_", "-") in own else others
        here.append(arg)
    return mine, others


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


def expand(paths: Iterable[Path]) -> list[Path]:
    """Every folder once; a folder that is no run but holds some stands for the folders in it."""
    found: dict[Path, None] = {}
    for path in paths:
        inside = [] if (path / "run.json").exists() else sorted(path.glob("*/run.json"))
        folders = [child for child in sorted(path.iterdir()) if child.is_dir()] if inside else [path]
        found |= dict.fromkeys(folder for folder in folders if folder == path or not folder.name.startswith("."))
    return list(found)


Place = TypeVar("Place", Path, Path | None)
"""The folder of a run; None where there is a model of one's own instead."""

Left: TypeAlias = dict[Place, ValueError | FileNotFoundError]
"""The mistakes that left some without."""


def attempt(runs: Sequence[Place], work: Callable[[Place], Result]) -> tuple[dict[Place, Result], Left[Place]]:
    """The outcome of the work for every run, and the mistakes that left some without."""
    done: dict[Place, Result] = {}
    left: Left[Place] = {}
    for run in runs:
        try:
            done[run] = work(run)
        except (ValueError, FileNotFoundError) as error:
            left[run] = error
    return done, left


def conclude(runs: Sequence[Place], left: Left[Place]) -> None:
    """Name the runs that were left out, and why.

    Raises:
        ValueError: nothing else was there.
    """
    if len(runs) == 1 and left:
        raise left[runs[0]]
    reasons = [str(why) if str(run) in str(why) else f"{run}: {why}" for run, why in left.items()]
    if len(left) == len(runs):
        raise ValueError(f"nothing was done for the {len(runs)} folders named: " + "; ".join(reasons))
    for reason in reasons:
        Console(stderr=True).print(f"left out: {reason}", highlight=False, markup=False, soft_wrap=True)


NAME = re.compile(r"[\w.-]+")
"""What the help of our own files can follow from, unless it is a file here."""


def asked(args: Sequence[str]) -> bool:
    """Whether the help is all that is asked for."""
    return "--help" in args or "-h" in args


def show(command: str, args: Sequence[str], main: Callable[[list[str]], None]) -> None:
    """Write the help, as `main` does."""
    if any(not NAME.fullmatch(arg) or Path(arg).exists() for arg in args):
        main(list(args))
        return
    from ..discovery import remembered

    look = f"{command} {args} {shutil.get_terminal_size().columns} {sys.stdout.encoding}"
    name = f"help-{command}-{hashlib.sha256(look.encode()).hexdigest()[:12]}"
    sys.stdout.write(remembered(name, lambda: _captured(main, args)))


def _captured(main: Callable[[list[str]], None], args: Sequence[str]) -> str:
    text = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding, newline="")  # its frames depend on it
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main(list(args))
    text.seek(0)
    return text.read()


IN_WORDS = {
    r"\{None\}\|": "",
    r"\bFLOAT\b": "NUMBER",
    r"\bINT\b": "INTEGER",
    r"\bSTR\b": "TEXT",
    r"^\{(\w+( \w+)+)\}$": r"\1",  # {NUMBER NUMBER}
    r"^\[(\w+) \[\1 \.\.\.\]\]$": r"[\1 ...]",  # [NUMBER [NUMBER ...]]
}
"""Notation of tyro, as patterns, and what is shown instead."""

Found = PrimitiveConstructorSpec | UnsupportedTypeAnnotationError | None


def in_words() -> ConstructorRegistry:
    """Rules for tyro that change how options look in a help, and nothing of what they take."""
    rules, asked = ConstructorRegistry(), set[int]()

    @rules.primitive_rule
    def _(info: PrimitiveTypeInfo) -> Found:
        if id(info) in asked:  # the second time round, for what tyro itself says
            return None
        asked.add(id(info))
        try:
            found = ConstructorRegistry.get_primitive_spec(info)
        finally:
            asked.remove(id(info))
        if isinstance(found, UnsupportedTypeAnnotationError):
            return found
        return replace(found, metavar=_words(found), str_from_instance=lambda value: _default(found, value))

    return rules


def _words(spec: PrimitiveConstructorSpec) -> str:
    metavar = spec.metavar
    for notation, words in IN_WORDS.items():
        metavar = re.sub(notation, words, metavar)
    return metavar


def _default(spec: PrimitiveConstructorSpec, value: object) -> list[str]:
    """How a default is shown."""
    return ["none"] if value in (None, "", ()) else spec.str_from_instance(value)
