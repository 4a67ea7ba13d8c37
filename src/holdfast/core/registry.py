"""Names to things. A registry only keeps; `holdfast.discovery` fills it, from our folders and from plug-ins.

What is in no registry has a name all the same: `package.module:name` is imported when it is looked up.
"""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


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


class Registry(Generic[T]):
    """Things of one sort by name, filled when first asked.

    Args:
        what: the sort, in words, for messages.
        sort: `module:class` of which all things are; a text, because most stand above a registry.
        listed_by: the command that shows all names.
        filler: `module:function`, called with the registry before the first look-up.
        stored: names come out of files, which may be from any hand: see `trusted`.
    """

    def __init__(
        self,
        what: str,
        sort: str,
        listed_by: str = "",
        filler: str = "holdfast.discovery:fill",
        stored: bool = False,
    ) -> None:
        self.what, self._sort, self._listed_by, self._filler = what, sort, listed_by, filler
        self._stored = stored
        self._filled = False
        self._found: dict[str, T] = {}

    def add(self, name: str, thing: T, replace: bool = False) -> None:
        """Keep a thing under a name.

        Raises:
            ValueError: another thing has that name already, and is not to be replaced.
        """
        if not replace and self._found.get(name, thing) != thing:
            raise ValueError(f"two {self.what}s are called {name!r}: {self._found[name]!r} and {thing!r}")
        self._found[name] = thing

    def made(self, thing: Any, name: str) -> T:
        """The thing, or what comes out of it where it is a class or a function without arguments.

        Raises:
            ValueError: that is not of the sort that is kept here.
        """
        sort: type[T] = _attribute(self._sort)
        found: Any = thing() if callable(thing) and not isinstance(thing, sort) else thing
        if not isinstance(found, sort):
            raise ValueError(f"expected {name} to be a {self.what}, or a function that makes one; got {found!r:.80}")
        return found

    def known(self, name: str) -> T | None:
        """The thing of that name if it is there already; nothing is imported to find it."""
        return self._found.get(name)

    def __getitem__(self, name: str) -> T:
        """The thing of that name, or what `package.module:name` stands for.

        Raises:
            ValueError: there is none; the nearest names are suggested.
        """
        if name not in self._found and IMPORTABLE.fullmatch(name):
            return self.made(imported(trusted(name) if self._stored else name), name)
        if name not in self:
            raise unknown(self.what, name, self._found, self._listed_by)
        return self._found[name]

    def __contains__(self, name: str) -> bool:
        if name not in self._found:
            self._fill()
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(self._found)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> set[str]:
        """All names."""
        return set(self)

    def values(self) -> list[T]:
        """All things."""
        return [thing for _, thing in self.items()]

    def items(self) -> list[tuple[str, T]]:
        """All names with their things, in the order in which they were added."""
        return [(name, self._found[name]) for name in self]

    def _fill(self) -> None:
        if not self._filled:
            self._filled = True
            try:
                _attribute(self._filler)(self)
            except BaseException:
                self._filled = False
                raise


def _attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


RECIPES: Registry[Any] = Registry("recipe", "holdfast.core.recipe:Recipe", "holdfast list recipes")
CERTIFIERS: Registry[Any] = Registry("certifier", "holdfast.core.certifier:Certifier", "holdfast list certifiers")
ARCHITECTURES: Registry[Callable[..., Any]] = Registry(
    "architecture", "collections.abc:Callable", "holdfast list architectures"
)
DATASETS: Registry[Callable[[str, Path], Any]] = Registry(
    "data set", "collections.abc:Callable", "holdfast list datasets"
)
KINDS: Registry[type] = Registry("kind", "builtins:type", stored=True)
"""Every Config by the name of its class; one of another package by `package.module:name`."""

IMPORTABLE = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")
"""What looks like `package.module:name`."""


def in_a_line(error: Exception) -> str:
    """What the code of a user raised: its kind, and what it says, however many lines that takes."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


PLUGINS = "HOLDFAST_PLUGINS"
"""Variable with the packages whose code may be imported because a file names it, separated by commas."""

_NAMED: set[str] = set()
"""Packages that the user has named in this process."""


class Untrusted(ValueError):
    """A file names code of a package that may not be imported."""


def trusted(name: str) -> str:
    """A name that a file told, if it may be imported: a run folder from any hand must not say what code runs.

    Code of three sorts of packages may: those that the user named, in this process or in $HOLDFAST_PLUGINS, and
    installed ones with entry points of ours. Names without a colon import nothing.

    Raises:
        Untrusted: it is code of another package.
    """
    package = _package(name)
    if not IMPORTABLE.fullmatch(name.partition("@")[0]) or package in _NAMED or _plugin(package):
        return name
    raise Untrusted(
        f"a file names {name}, code of a package that is no installed plug-in of holdfast, and importing it runs it; "
        f"if you trust its author: {PLUGINS}={package} before the command"
    )


def _package(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]


def _plugin(package: str) -> bool:
    """Whether code of a package may be imported because a file names it."""
    return package in os.environ.get(PLUGINS, "").split(",") or package in _attribute("holdfast.discovery:packages")()


def imported(name: str) -> Any:
    """What `package.module:name` stands for; the working directory counts as importable, and comes first.

    For packages that files may name it comes last: a folder in it does not stand for an installed plug-in. It stays
    importable, last: what was found may import more when it is used, here and in other processes. What a file told goes
    through `trusted` first.

    Raises:
        ValueError: there is no such module, it cannot be imported, or there is nothing of that name in it.
    """
    if not IMPORTABLE.fullmatch(name):
        raise ValueError(f"expected package.module:name, got {name!r}")
    here, kept = str(Path.cwd()), list(sys.path)
    sys.path[:] = (
        [*(place for place in kept if place not in ("", here)), here] if _plugin(_package(name)) else [here, *kept]
    )
    _NAMED.add(_package(name))
    try:
        return _attribute(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {name}: {error}; expected package.module:name, importable from here"
        ) from error
    except Exception as error:  # the module is the user's own and may raise anything
        raise ValueError(f"cannot import {name}: it raised {in_a_line(error)}") from error
    finally:
        added = [place for place in sys.path if place not in (*kept, here)]
        sys.path[:] = [*added, *kept, *([] if here in kept else [here])]
