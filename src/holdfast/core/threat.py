"""Threat models: what counts as a small change of an image. Certificates, attacks, axes and tables share these objects.

A new one is a subclass with one instance; it is known by its name from then on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from .registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

THREATS: Registry[Threat] = Registry("threat model", "holdfast.core.threat:Threat")


class Threat(ABC):
    """A norm on perturbations of images in [0, 1].

    Attributes:
        name: as certificates store it.
        title: in headings; the name by default.
        symbol: for axes, in matplotlib's mathtext.
        unit: of a radius, in words.
    """

    name: str
    title = ""
    symbol: str
    unit = "pixels in [0, 1]"

    def __init__(self) -> None:
        self.title = self.title or self.name
        THREATS.add(self.name, self)

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def diameter(self, numbers: int) -> float:
        """The largest distance between two images of so many numbers: no radius beyond it means anything."""

    @abstractmethod
    def length(self, shift: Tensor) -> Tensor:
        """The norm of every row of a batch of perturbations, (batch, 1, ..., 1)."""

    @abstractmethod
    def project(self, shift: Tensor, radius: Tensor) -> Tensor:
        """Each row moved to the nearest perturbation of at most its radius, (batch, 1, ..., 1)."""

    @abstractmethod
    def direction(self, gradient: Tensor, smallest: float = 1e-30) -> Tensor:
        """Rows of norm 1 along which a function with that gradient grows fastest; 0 where the gradient vanishes.

        Args:
            smallest: gradients that are not much longer than this give shorter rows.
        """


class L2(Threat):
    """The Euclidean length."""

    name, symbol = "l2", r"$\ell_2$"

    def diameter(self, numbers: int) -> float:
        return math.sqrt(numbers)

    def length(self, shift: Tensor) -> Tensor:
        return shift.flatten(1).norm(dim=1).view(-1, *[1] * (shift.ndim - 1))

    def project(self, shift: Tensor, radius: Tensor) -> Tensor:
        return shift * (radius / self.length(shift).clamp_min(1e-30)).clamp(max=1)

    def direction(self, gradient: Tensor, smallest: float = 1e-30) -> Tensor:
        return gradient / (self.length(gradient) + smallest)


class LInf(Threat):
    """The largest change of any number."""

    name, title, symbol = "linf", "l-inf", r"$\ell_\infty$"

    def diameter(self, numbers: int) -> float:
        return 1.0

    def length(self, shift: Tensor) -> Tensor:
        return shift.abs().flatten(1).amax(1).view(-1, *[1] * (shift.ndim - 1))

    def project(self, shift: Tensor, radius: Tensor) -> Tensor:
        return shift.clamp(-radius, radius)

    def direction(self, gradient: Tensor, smallest: float = 1e-30) -> Tensor:
        return gradient.sign()


class L1(Threat):
    """The sum of all changes."""

    name, symbol = "l1", r"$\ell_1$"

    def diameter(self, numbers: int) -> float:
        return float(numbers)

    def length(self, shift: Tensor) -> Tensor:
        return shift.abs().flatten(1).sum(1).view(-1, *[1] * (shift.ndim - 1))

    def project(self, shift: Tensor, radius: Tensor) -> Tensor:
        """Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008."""
        rows, limit = shift.flatten(1), radius.view(-1, 1)
        size = rows.abs()
        ordered = size.sort(dim=1, descending=True).values
        excess = ordered.cumsum(1) - limit
        rank = (ordered == ordered).cumsum(1)
        kept = (ordered * rank > excess).sum(1, keepdim=True).clamp_min(1)
        threshold = (excess.gather(1, kept - 1) / kept).clamp_min(0)
        return ((size - threshold).clamp_min(0) * rows.sign()).view_as(shift)

    def direction(self, gradient: Tensor, smallest: float = 1e-30) -> Tensor:
        """All of the change goes to the number that matters most."""
        rows = gradient.flatten(1)
        first = rows.abs().argmax(1, keepdim=True)
        return (rows * 0).scatter(1, first, rows.gather(1, first).sign()).view_as(gradient)


l2, linf, l1 = L2(), LInf(), L1()
