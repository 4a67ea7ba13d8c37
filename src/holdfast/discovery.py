"""What fills the registries: the files of our folders, and the plug-ins of any installed package.

A package of one's own takes part by entry points of four groups. Each names a module, or a thing in one:

    [project.entry-points."holdfast.methods"]
    mine = "my_package.my_method"            # a module with RECIPES, or a Recipe
    [project.entry-points."holdfast.certifiers"]
    mine = "my_package.my_certifier"         # a module with DEFAULT, or a Certifier
    [project.entry-points."holdfast.architectures"]
    mine = "my_package.networks:make"        # a function from DataInfo to a network, or a module with ARCHITECTURES
    [project.entry-points."holdfast.datasets"]
    mine = "my_package.data:read"            # a `holdfast.data.Reader`, or a module with DATASETS

Every module that is named is imported when a stored file names a Config or a threat model that is not known: a file
that holds nothing but a threat model or a noise is named in any of the groups. What no entry point names is known by
`package.module:name` wherever a user gives a name; where a file gives it, see `holdfast.core.registry.trusted`.

What there is by name is kept on disk: a list or a help is shown without importing what it is about.
"""

import functools
import hashlib
import importlib
import json
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from .core.registry import ARCHITECTURES, CERTIFIERS, DATASETS, RECIPES, Registry
from .runs import store

FOLDERS: dict[str, tuple[Registry[Any], str, str]] = {
    "methods": (RECIPES, "holdfast.methods", "RECIPES"),
    "certifiers": (CERTIFIERS, "holdfast.certifiers", "DEFAULT"),
    "architectures": (ARCHITECTURES, "holdfast.nn.zoo", "ARCHITECTURES"),
    "datasets": (DATASETS, "holdfast.data", "DATASETS"),
}
"""By group of entry points: the registry, our folder, and the name that a file there gives."""

OTHERS = (
    "holdfast.optim",
    "holdfast.smoothing.evidence",
    "holdfast.smoothing.radius_tests",
    "holdfast.nn.linf.layers",
    "holdfast.certification.driver",
)
"""Where Configs are that are neither a method nor a certifier."""

LEFT_OUT: dict[str, str] = {}
"""Plug-ins that could not be used in this process, and why."""


def fill(registry: Registry[Any]) -> None:
    """Fill one registry from its folder and its plug-ins, or one of Configs or threats by importing all there is."""
    groups = [group for group, (wanted, *_) in FOLDERS.items() if wanted is registry]
    for group in groups or FOLDERS:
        kept, folder, name = FOLDERS[group]
        for module in _modules(folder):
            _keep(kept, _title(module), getattr(module, name, None))
        _fill_from_others(group)
    if not groups:
        for other in OTHERS:
            importlib.import_module(other)


@functools.cache
def packages() -> set[str]:
    """The installed packages that take part."""
    return {entry.module.partition(".")[0] for group in FOLDERS for entry in entry_points(group=f"holdfast.{group}")}


def _fill_from_others(group: str) -> None:
    """What other packages offer; one that cannot be used is named and left out."""
    registry, _, name = FOLDERS[group]
    for entry in entry_points(group=f"holdfast.{group}"):
        try:
            thing = entry.load()
            _keep(registry, entry.name, getattr(thing, name, None) if isinstance(thing, ModuleType) else thing)
        except Exception as error:
            LEFT_OUT[entry.name] = f"{entry.value}: {error!r}"
            warnings.warn(f"the plug-in {entry.name} = {entry.value} is left out: {error!r}", stacklevel=2)


def _keep(registry: Registry[Any], name: str, found: Any) -> None:
    """One thing under its own name, or a table of things under theirs."""
    for key, thing in (found if isinstance(found, Mapping) else {name: found}).items():
        if thing is not None:
            registry.add(key, registry.made(thing, key))


def _title(module: ModuleType) -> str:
    return module.__name__.rsplit(".", 1)[1].replace("_", "-")


def _modules(folder: str) -> list[ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(importlib.import_module(folder).__path__)]
    return [importlib.import_module(f"{folder}.{name}") for name in sorted(names) if not name.startswith("_")]


Rows = dict[str, list[str]]
"""By name: what a list shows of it."""


def listing() -> dict[str, Rows]:
    """All recipes (method, data set, architecture, epochs), certifiers (what they do), architectures and data sets."""
    return remembered("listing", _listing)


def remembered(what: str, make: Callable[[], Any]) -> Any:
    """What `make` returns, or returned when it was last called, if no file that it can follow from has changed since.

    Args:
        what: a name for it; also that of a file in the cache, which may be deleted at any time.
        make: called where nothing is remembered; it returns values that JSON can hold.
    """
    path, state = _folder() / f"{what}.json", _state()
    try:
        kept = json.loads(path.read_text())
        if kept["state"] == state:
            return kept["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = make()
    if not LEFT_OUT:  # what a user repairs outside of the files that were looked at
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            store.write_whole(path, json.dumps({"state": state, "value": found}).encode())
        except OSError:
            pass  # a home that cannot be written to: slower, and nothing else
    return found


def _listing() -> dict[str, Rows]:
    from .data import FORMS

    recipes = {
        name: [type(recipe.method).__name__, recipe.dataset, recipe.arch, str(recipe.epochs)]
        for name, recipe in RECIPES.items()
    }
    certifiers = {name: (type(found).__doc__ or "").splitlines()[:1] for name, found in CERTIFIERS.items()}
    architectures = {name: [] for name in sorted(ARCHITECTURES)}
    datasets = {name: [] for name in sorted(DATASETS)} | {form: [text] for form, text in FORMS.items()}
    return {"recipes": recipes, "certifiers": certifiers, "architectures": architectures, "datasets": datasets}


def _folder() -> Path:
    """One for each environment, for several may be in use."""
    place = f"{sys.prefix} {Path(__file__).parent}"
    return store.cache() / hashlib.sha256(place.encode()).hexdigest()[:12]


def _state() -> str:
    """Changes when one of our files does, or one of a plug-in's package, or what plug-ins there are."""
    plugins = sorted((e.group, e.name, e.value) for group in FOLDERS for e in entry_points(group=f"holdfast.{group}"))
    packages = {value.partition(":")[0].partition(".")[0] for _, _, value in plugins}
    places = [Path(__file__).parent, *(place for package in sorted(packages) for place in _places(package))]
    digest = hashlib.sha256(f"{sys.version} {plugins}".encode())
    for path in sorted(path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))):
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns};".encode())
    return digest.hexdigest()


def _places(package: str) -> Iterator[Path]:
    """The folders or the file of a package, which is not imported."""
    spec = find_spec(package)
    if spec is None:
        return
    yield from map(Path, spec.submodule_search_locations or ([spec.origin] if spec.origin else []))
