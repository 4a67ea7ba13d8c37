"""Classifiers whose true distance to the decision boundary is known, and the table of certifiers under test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from holdfast.certifiers.adaptive import Adaptive
from holdfast.certifiers.at_radius import AtRadius
from holdfast.certifiers.betting import Betting
from holdfast.certifiers.gaussian import Gaussian
from holdfast.certifiers.linf_box import LInfBox
from holdfast.certifiers.margin import Margin
from holdfast.certifiers.split import Split
from holdfast.core.certifier import Certifier
from holdfast.nn.linf import DistanceHead, LInfDistNet
from holdfast.nn.split import SplitClassifier

SHAPE = (3, 4, 4)


class HalfSpace(nn.Module):
    """Two classes, split by a hyperplane through the middle of the pixel cube; 1-Lipschitz logit difference in l2."""

    def __init__(self) -> None:
        super().__init__()
        w = torch.randn(math.prod(SHAPE), generator=torch.Generator().manual_seed(0))
        self.register_buffer("w", w / w.norm())
        self.eval()

    def score(self, x: Tensor) -> Tensor:
        """Signed l2 distance to the hyperplane."""
        return (x - 0.5).flatten(1) @ self.get_buffer("w").to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.score(x), -self.score(x)], 1) / 2


class Constant(nn.Module):
    """Always the same class."""

    def __init__(self, logits: tuple[float, ...] = (0.0, 1.0, 0.0)) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


class EqualClasses(nn.Module):
    """On a grey image plus Gaussian noise every one of ten classes wins with probability exactly 1/10."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]


def brighter_pixel() -> LInfDistNet:
    """Two prototypes far to both sides of the first pixel: class 1 where it is above 1/2."""
    head = DistanceHead(math.prod(SHAPE), 2)
    nn.init.zeros_(head.distances.weight)
    with torch.no_grad():
        head.distances.weight[:, 0] = torch.tensor([-10.0, 11.0])
    return LInfDistNet(nn.Sequential(), head, mean=(0.0,), std=1.0).eval()


def behind_a_half() -> SplitClassifier:
    """HalfSpace, behind a left half that halves all distances: so half of the noise on the features is the same."""
    left = nn.Conv2d(SHAPE[0], SHAPE[0], 1, bias=False)
    left.weight.data = 0.5 * torch.eye(SHAPE[0]).view(SHAPE[0], SHAPE[0], 1, 1)
    return SplitClassifier(nn.Sequential(left), nn.Sequential(Twice(), HalfSpace())).eval()


class Twice(nn.Module):
    """2 x."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def images(count: int) -> Tensor:
    """Random images, near enough to the boundary of HalfSpace that radii are interesting."""
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def grey(count: int) -> Tensor:
    """Images of mid grey."""
    return torch.full((count, *SHAPE), 0.5)


class ForEvery:
    """Base of a contract: each of its tests runs for everything in the table of the class, under its name.

    A package of one's own inherits the contract and gives a table of its own.
    """

    table: ClassVar[Mapping[str, Any]]
    argument: ClassVar[str] = "case"

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if self.argument in metafunc.fixturenames:
            metafunc.parametrize(self.argument, list(self.table.values()), ids=list(self.table))


@dataclass(frozen=True)
class Case:
    """A certifier with a classifier for which the truth is known."""

    certifier: Certifier
    classifier: Callable[[], nn.Module] = HalfSpace
    distance: Callable[[Tensor], Tensor] = lambda x: HalfSpace().score(x.double()).abs()


CERTIFIERS = {
    "gaussian": Case(Gaussian(sigma=0.5, n=2000, alpha=0.05)),
    "gaussian-without-selection": Case(Gaussian(sigma=0.5, n0=0, n=2000, alpha=0.05)),
    "gaussian-two-class": Case(Gaussian(sigma=0.5, n=2000, alpha=0.05, two_class=True)),
    "at-radius": Case(AtRadius(sigma=0.5, r=(0.1, 0.3, 0.6), n_max=2000, alpha=0.05)),
    "at-radius-spending": Case(
        AtRadius(sigma=0.5, r=(0.1, 0.3, 0.6), n_max=2000, alpha=0.05, boundaries="spending"),
    ),
    "adaptive": Case(Adaptive(sigma=0.5, n_max=2000, alpha=0.05)),
    "adaptive-spending": Case(
        Adaptive(sigma=0.5, n_max=2000, alpha=0.05, boundaries="spending", first=400, growth=2.0),
    ),
    "betting": Case(Betting(sigma=0.5, n_max=2000, alpha=0.05)),
    "betting-two-class": Case(Betting(sigma=0.5, n_max=2000, alpha=0.05, two_class=True)),
    "margin": Case(Margin()),
    "linf-box": Case(LInfBox(), brighter_pixel, lambda x: (x[:, 0, 0, 0].double() - 0.5).abs()),
    "split": Case(Split(Gaussian(sigma=0.25, n=2000, alpha=0.05), bisections=1), behind_a_half),
    "split-adaptive": Case(Split(Adaptive(sigma=0.25, n_max=2000, alpha=0.05), bisections=1), behind_a_half),
    "gaussian-randomized": Case(Gaussian(sigma=0.5, n=2000, alpha=0.05, randomized=True)),
}
"""Every certifier of the package, by its name or a name that begins with it."""
