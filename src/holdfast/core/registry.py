"""Names to things. A registry only keeps; `holdfast.discovery` fills it, from our folders and from plug-ins."""

import difflib
import importlib
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
        listed_by: the command that shows all names.
        filler: `module:function`, called with the registry before the first look-up; a text, because what fills a
            registry stands above it.
    """

    def __init__(self, what: str, listed_by: str = "", filler: str = "holdfast.discovery:fill") -> None:
        self.what, self._listed_by, self._filler, self._filled = what, listed_by, filler, False
        self._found: dict[str, T] = {}

    def add(self, name: str, thing: T, replace: bool = False) -> None:
        """Keep a thing under a name.

        Raises:
            ValueError: another thing has that name already, and is not to be replaced.
        """
        if not replace and self._found.get(name, thing) != thing:
            raise ValueError(f"two {self.what}s are called {name!r}: {self._found[name]!r} and {thing!r}")
        self._found[name] = thing

    def known(self, name: str) -> T | None:
        """The thing of that name if it is there already; nothing is imported to find it."""
        return self._found.get(name)

    def __getitem__(self, name: str) -> T:
        """The thing of that name.

        Raises:
            ValueError: there is none; the nearest names are suggested.
        """
        if name not in self._found:
            self._fill()
        if name not in self._found:
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
                module, _, function = self._filler.partition(":")
                getattr(importlib.import_module(module), function)(self)
            except BaseException:
                self._filled = False
                raise


RECIPES: Registry[Any] = Registry("recipe", "holdfast list recipes")
CERTIFIERS: Registry[Any] = Registry("certifier", "holdfast list certifiers")
ARCHITECTURES: Registry[Callable[..., Any]] = Registry("architecture", "holdfast list architectures")
DATASETS: Registry[Callable[[str], Any]] = Registry("data set", "holdfast list datasets")
KINDS: Registry[type] = Registry("kind")
"""Every Config by the name of its class."""


def imported(name: str) -> Any:
    """What `package.module:name` stands for; the working directory counts as importable.

    Raises:
        ValueError: there is no such module, or nothing of that name in it.
    """
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise ValueError(f"expected package.module:name, got {name!r}")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {name}: {error}; expected package.module:name, importable from here"
        ) from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
