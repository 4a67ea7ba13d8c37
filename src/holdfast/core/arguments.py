"""Arguments of public functions, refused by name before any work where they make no sense."""

import math
import operator
from collections.abc import Iterable
from typing import Any

from .config import without_numpy


def integer(name: str, value: Any, least: int = 0) -> int:
    """The value as an int of Python; numbers of numpy and torch are taken, true and false are none.

    Raises:
        ValueError: it is no integer, or below `least`.
    """
    try:
        found = operator.index(value)
    except (TypeError, RuntimeError):  # of a tensor
        found = least - 1
    if isinstance(value, bool) or found < least:
        raise ValueError(f"expected {name} to be an integer, {least} or more, got {value!r:.80}")
    return found


def sizes(name: str, value: Any, count: int | None = None) -> tuple[int, ...]:
    """The value as a tuple of positive ints, `count` of them if that is given.

    Raises:
        ValueError: it is none.
    """
    found = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if not found or count not in (None, len(found)):
        raise ValueError(f"expected {name} to be {count or 'a tuple of'} positive integers, got {value!r:.80}")
    return tuple(integer(f"a number of {name}", one, 1) for one in found)


def positive(name: str, value: Any) -> float:
    """The value, a finite number above 0; numbers of numpy are taken, as those of Python.

    Raises:
        ValueError: it is none.
    """
    value = without_numpy(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r:.80}")
    return value
