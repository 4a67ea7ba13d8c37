"""What counts as a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Classifier = Callable[["Tensor"], "Tensor"]
"""Images in [0, 1], shape (batch, channel, height, width) -> logits, shape (batch, class).

Normalisation lives inside it, so that a radius is always in pixel units. Any `nn.Module` with this signature is one.
"""

Network = TypeVar("Network")


def unwrapped(model: object, kind: type[Network], expected: str) -> Network:
    """The network of that kind, out of the wrappers that training puts around it.

    Raises:
        ValueError: there is none; `expected` says in words what was.
    """
    inner = model
    while not isinstance(inner, kind):
        inner = getattr(inner, "module", None)
        if inner is None:
            raise ValueError(f"expected {expected}; got {type(model).__name__}")
    return inner
