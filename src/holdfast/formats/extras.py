"""Libraries that only some users need: imported when they are, and named with what installs them where they lack."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COLORS = re.compile(r"\x1b\[[0-9;]*m")
"""How terminals are told to change colors."""


def need(module: str, extra: str) -> Any:
    """The module of an extra of holdfast.

    Raises:
        ValueError: it cannot be imported; the message says what installs it.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # timm fails by a RuntimeError where torchvision does not match torch
        reason = first_line(error)
        raise ValueError(
            f"{module} is needed here and cannot be imported ({reason}); it comes with: pip install 'holdfast[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error of a library says, or the one that it came from, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in COLORS.sub("", str(error)).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn whatever a library raises over a user's file into one ValueError that begins with `what`."""
    try:
        yield
    except Exception as error:  # libraries raise errors of many types
        raise ValueError(f"{what}: {first_line(error)}") from error
