"""What a worker on another machine gets: the model, and the images that it is tried on."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..data import Images
from .determinism import ROWS
from .task import Certification


@dataclass(frozen=True)
class Parcel:
    """What a worker needs to begin."""

    model: Callable[[], nn.Module]
    indices: Sequence[int]
    """The first examples of the task, which the model is tried on."""
    images: Tensor
    """Theirs, (batch, channel, height, width) in [0, 1]."""

    @classmethod
    def of(cls, task: Certification, model: Callable[[], nn.Module], data: Images) -> Parcel:
        """The first examples of the task beside a model."""
        first = task.indices(len(data))[:ROWS]
        return cls(model, first, data.pixels(torch.tensor(first)))


def packed(
    model: nn.Module, load: Callable[[], nn.Module], task: Certification, data: Images, pickler: type[pickle.Pickler]
) -> Parcel:
    """With the model itself, so that no machine needs its files; where it cannot be pickled, with what loads it."""
    buffer = io.BytesIO()
    try:
        _pickler(pickler)(buffer).dump(model.to("cpu"))
    except (pickle.PicklingError, TypeError, RuntimeError, AttributeError):
        return Parcel.of(task, load, data)
    return Parcel.of(task, partial(pickle.loads, buffer.getvalue()), data)


def _pickler(kind: type[pickle.Pickler]) -> type[pickle.Pickler]:
    class Pickler(kind):
        """Takes modules with parametrised weights as well: their class is made anew on the other side."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
                return _parametrized, (parametrize.type_before_parametrizations(obj), dict(vars(obj)))
            return super().reducer_override(obj)

    return Pickler


def _parametrized(kind: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    module = kind.__new__(kind)
    vars(module).update(state)
    parametrize._inject_new_class(module)
    for name in module.parametrizations:  # pyright: ignore[reportGeneralTypeIssues]
        parametrize._inject_property(module, name)
    return module
