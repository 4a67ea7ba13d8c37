"""What fills the registries: the files of our folders, and the plug-ins of any installed package.

A package of one's own takes part by entry points of four groups. Each names a module, or a thing in one:

    [project.entry-points."holdfast.methods"]
    mine = "my_package.my_method"            # a module with RECIPES, or a Recipe
    [project.entry-points."holdfast.certifiers"]
    mine = "my_package.my_certifier"         # a module with DEFAULT, or a Certifier
    [project.entry-points."holdfast.architectures"]
    mine = "my_package.networks:make"        # a function from DataInfo to a network, or a module with ARCHITECTURES
    [project.entry-points."holdfast.datasets"]
    mine = "my_package.data:read"            # a function from a split to `holdfast.data.Arrays`
"""

import importlib
import pkgutil
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from .core.registry import ARCHITECTURES, CERTIFIERS, DATASETS, RECIPES, Registry

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
    "holdfast.smoothing.design_votes",
    "holdfast.nn.linf.schedule",
    "holdfast.certification.driver",
)
"""Where Configs are that are neither a method nor a certifier."""


def fill(registry: Registry[Any]) -> None:
    """Fill one registry from its folder and its plug-ins, or one of Configs or threats by importing all there is."""
    groups = [group for group, (wanted, *_) in FOLDERS.items() if wanted is registry]
    for group in groups or ("methods", "certifiers"):
        kept, folder, name = FOLDERS[group]
        for module in _modules(folder):
            _keep(kept, _title(module), getattr(module, name, None))
        for plugin, thing in _plugins(group):
            _keep(kept, plugin, getattr(thing, name, None) if isinstance(thing, ModuleType) else thing)
    if not groups:
        for other in OTHERS:
            importlib.import_module(other)


def _keep(registry: Registry[Any], name: str, found: Any) -> None:
    """One thing under its own name, or a table of things under theirs."""
    if isinstance(found, Mapping):
        for key, thing in found.items():
            registry.add(key, thing)
    elif found is not None:
        registry.add(name, found() if registry in (RECIPES, CERTIFIERS) and isinstance(found, type) else found)


def _title(module: ModuleType) -> str:
    return module.__name__.rsplit(".", 1)[1].replace("_", "-")


def _modules(folder: str) -> list[ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(importlib.import_module(folder).__path__)]
    return [importlib.import_module(f"{folder}.{name}") for name in sorted(names) if not name.startswith("_")]


def _plugins(group: str) -> Iterator[tuple[str, Any]]:
    """What other packages offer; one that cannot be imported is named and left out."""
    for entry in entry_points(group=f"holdfast.{group}"):
        try:
            yield entry.name, entry.load()
        except Exception as error:
            warnings.warn(f"the plug-in {entry.name} = {entry.value} is left out: {error!r}", stacklevel=2)
