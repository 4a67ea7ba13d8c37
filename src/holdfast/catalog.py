"""What there is by name, kept on disk: a list or a help is shown without importing what it is about."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import discovery
from .runs.store import cache, write_whole

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
    if not discovery.LEFT_OUT:  # what a user repairs outside of the files that were looked at
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"state": state, "value": found}).encode())
        except OSError:
            pass  # a home that cannot be written to: slower, and nothing else
    return found


def _listing() -> dict[str, Rows]:
    from .core.registry import ARCHITECTURES, CERTIFIERS, DATASETS, RECIPES
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
    return cache() / hashlib.sha256(place.encode()).hexdigest()[:12]


def _state() -> str:
    """Changes when one of our files does, or one of a plug-in's package, or what plug-ins there are."""
    plugins = sorted(
        (e.group, e.name, e.value) for group in discovery.FOLDERS for e in entry_points(group=f"holdfast.{group}")
    )
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
