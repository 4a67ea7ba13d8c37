"""Arguments of public functions, refused by name before any work where they make no sense."""

import math
import operator
from typing import Any


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


def positive(name: str, value: Any) -> float:
    """The value, a finite number above 0.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r:.80}")
    return value
