"""Names to recipes and certifiers. A file is found by being in its folder; nothing is registered by hand."""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from . import certifiers as certifiers_package
from . import methods as methods_package
from .spec import unknown
from .types import Certifier, Recipe


@cache
def recipes() -> dict[str, Recipe]:
    """Every entry of every RECIPES in methods/, by name."""
    return {name: recipe for module in _modules(methods_package) for name, recipe in module.RECIPES.items()}


@cache
def certifiers() -> dict[str, Certifier]:
    """The DEFAULT of every file in certifiers/, by the file's name with dashes."""
    return {
        module.__name__.rsplit(".", 1)[1].replace("_", "-"): module.DEFAULT for module in _modules(certifiers_package)
    }


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none; the nearest names are suggested.
    """
    if name not in recipes():
        raise unknown("recipe", name, recipes(), "holdfast list recipes")
    return recipes()[name]


def certifier(name: str) -> Certifier:
    """The certifier of that name, with its default settings.

    Raises:
        ValueError: there is none; the nearest names are suggested.
    """
    if name not in certifiers():
        raise unknown("certifier", name, certifiers())
    return certifiers()[name]


def _modules(package: ModuleType) -> list[ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in sorted(names)]
