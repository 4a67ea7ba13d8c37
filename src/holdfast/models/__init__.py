"""Architectures by name, one family per file; the normalisation layer; a user's own classifier."""

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from ..lipschitz.bound import Bound
from ..spec import unknown
from ..types import DataInfo

Architecture = Callable[[DataInfo], nn.Module]


class Normalize(nn.Module):
    """(x - mean) / std per channel, as the first layer of a classifier.

    Noise is added and radii are measured in pixels of [0, 1]; standardising outside of the model would silently change
    the unit of both.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"expected a mean and a positive std per channel, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def factor_and_shift(self) -> tuple[Tensor, Tensor]:
        """The same as factor * x + shift, (channel,) each."""
        return 1 / self.std.flatten(), -(self.mean / self.std).flatten()

    def prove(self, shape: tuple[int, ...]) -> Bound:
        """Distances grow by 1 / std of the channel with the smallest."""
        factor, shift = self.factor_and_shift()
        offset = float(shift.double().norm()) * (shape[-2] * shape[-1]) ** 0.5 * (1 + 1e-6)
        return Bound.of_layer(float(factor.double().max()) * (1 + 1e-14), offset, terms=4)


@cache
def architectures() -> dict[str, Architecture]:
    """Every entry of every ARCHITECTURES in this folder, by name."""
    files = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return {name: build for file in files for name, build in getattr(file, "ARCHITECTURES", {}).items()}


def build(arch: str, data: DataInfo) -> nn.Module:
    """A freshly initialised architecture for a data set.

    Raises:
        ValueError: there is no architecture of that name, or it does not fit the images.
    """
    if arch not in architectures():
        raise unknown("architecture", arch, architectures(), "holdfast list architectures")
    return architectures()[arch](data)
