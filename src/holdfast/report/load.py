"""Curves from what a user names: run folders, certify folders, exported tables, logs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..core.config import differences
from ..runs.find import find
from .curve import Curve


class Loaded(NamedTuple):
    """What could be read, and a sentence for everything that could not."""

    curves: list[Curve]
    left_out: list[str]


def load(paths: Sequence[Path]) -> Loaded:
    """One curve for every run that the paths stand for (see `find`); what cannot be read is left out, and told."""
    sources, left_out = find(paths)
    curves = []
    for source in sources:
        try:
            curves.append(Curve.open(source))
        except (ValueError, OSError) as error:
            left_out.append(str(error))
    return Loaded(_distinguish(curves), left_out)


def _distinguish(curves: Sequence[Curve]) -> list[Curve]:
    """Curves of the same name get the settings in which they differ behind it."""
    named = []
    for curve in curves:
        twins = [other for other in curves if other is not curve and other.name == curve.name]
        found = {key: here for twin in twins for key, (here, _) in differences(curve.settings, twin.settings).items()}
        told = ", ".join(f"{key}={found[key]}" for key in sorted(found) if found[key] is not None)
        named.append(replace(curve, name=f"{curve.name} [{told}]") if told else curve)
    return named
