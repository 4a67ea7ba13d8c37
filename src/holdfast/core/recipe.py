"""Method and Optimizer: how a classifier is trained, as Configs; Recipe: a complete experiment.

DataInfo is what an architecture needs to know of a data set.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from .certifier import Certifier, Classifier
from .config import Config

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Method(Config):
    """A training method: a loss and its hyper-parameters."""

    classifies: ClassVar[bool] = True
    """What it trains is a classifier; else a part of one, such as a denoiser."""

    @abstractmethod
    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        """Scalar loss on images x (batch, channel, height, width), labels y (batch,), at progress t in [0, 1]."""

    @abstractmethod
    def certifier(self) -> Certifier:
        """How a model trained this way is meant to be certified."""

    def noisy(self, model: Classifier, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """Logits (batch, class) under one draw of the noise that the certifier takes; None where it takes none.

        What training shows beside the plain accuracy; nothing is decided by it.
        """
        certifier = self.certifier()
        if certifier.sampling is None:
            return None
        z, classifier = certifier.smoothed_part(model, x)
        return classifier(certifier.sampling.noise.sample(z, certifier.sampling.sigma, generator))

    def before_step(self, model: torch.nn.Module, t: float) -> None:
        """Called before the loss of every step, at progress t in [0, 1]; does nothing unless a method needs it.

        Args:
            model: the network itself, without the wrappers that training puts around it.
        """

    def finish(self, model: torch.nn.Module, batches: Iterable[Tensor]) -> None:
        """Called once after training with the training images, in batches; does nothing unless a method needs it."""


@dataclass(frozen=True)
class Optimizer(Config):
    """How weights follow gradients, schedule included."""

    @abstractmethod
    def build(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """A fresh torch optimizer of the parameters of a network."""

    @abstractmethod
    def rate(self, t: float) -> float:
        """The learning rate at progress t in [0, 1]."""

    def after_epoch(self, optimizer: torch.optim.Optimizer) -> None:
        """Called after every epoch with what `build` gave; does nothing unless an optimiser needs it."""


BORDERS = ("zero", "edge")
"""What a random crop may be padded with."""


@dataclass(frozen=True)
class DataInfo:
    """What an architecture needs to know of a data set."""

    name: str
    shape: tuple[int, int, int]
    """(channel, height, width)."""
    classes: int
    mean: tuple[float, ...]
    """Mean of the training pixels per channel, in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of the training pixels per channel, in [0, 1]."""


@dataclass(frozen=True)
class Recipe(Config):
    """A complete experiment: a method, a data set, an architecture, and the plain facts of optimisation."""

    method: Method
    """The training method and its hyper-parameters."""
    optimizer: Optimizer
    """The optimiser, its learning rate and its schedule."""
    dataset: str
    """Name of the data set; `holdfast list datasets` shows them."""
    arch: str
    """Name of the architecture; `holdfast list architectures` shows them."""
    epochs: int = 90
    """Passes over the training set."""
    batch_size: int = 256
    """Images per optimiser step, over all processes together."""
    crop: int = 0
    """Padding, in pixels, of the random crop; 0 = no crop. Images of extra_data get half of it."""
    border: str = "zero"
    """What the padding is: zero is black, edge repeats the pixels at the edge."""
    flip: bool = False
    """Mirror every second image, at random."""
    area: tuple[float, ...] = ()
    """Least and largest share of an image's area, at its full size, that a random rectangle takes, which is then scaled
    to the size of the data set: the random resized crop of ImageNet, 0.08 1. None: the centre, as in certification."""
    sides: tuple[int, ...] = ()
    """Least and largest length that the shorter side of an image is scaled to, before a random square of the size of
    the data set is cut out. None: the centre."""
    randaugment: float = 0.0
    """Share of the images that RandAugment changes."""
    clip: float = 0.0
    """Largest l2 norm of the gradient of a step; 0 = no clipping."""
    held_out: int = 0
    """Hold out every k-th training image of each class, to choose settings with: the split held-out-k; 0 = none."""
    extra_data: str = ""
    """Further training images, such as generated ones: a data set of the same shape, drawn from at random."""
    extra_ratio: float = 3.0
    """Images of extra_data for every image of the data set in a batch, beyond batch_size."""
    seed: int = 0
    """Seeds the initial weights, the order of the images, augmentation and noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out == 1:
            raise ValueError("held_out = 1 leaves no image to train on; expected 0, or 2 and more")
        leasts = {"epochs": 1, "batch_size": 1, "crop": 0, "clip": 0, "held_out": 0, "extra_ratio": 0}
        for name, least in leasts.items():
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least {least} and finite, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:  # of torch.manual_seed
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")
        if self.border not in BORDERS:
            raise ValueError(f"unknown border {self.border!r}; known: {', '.join(BORDERS)}")
        if not 0 <= self.randaugment <= 1:
            raise ValueError(f"randaugment must be from 0 to 1, got {self.randaugment}")
        _check_range("area", self.area, 1)
        _check_range("sides", self.sides, math.inf)
        if self.area and self.sides:
            raise ValueError("expected area or sides, not both: each says which part of an image is taken")


def with_batches_for_copies(recipe: Recipe, base: Recipe) -> Recipe:
    """A recipe whose copies of an image were changed, with batches that hold as many noisy images as those of its base.

    The protocol of published comparisons: a loader's batch of 256 images is cut into parts, one for each copy.
    """
    copies, before = (_copies(one.method) for one in (recipe, base))
    return recipe if copies == before else recipe.replace(batch_size=max(1, base.batch_size * before // copies))


def _copies(method: Config) -> int:
    """Of the method, or of one inside it."""
    values = [getattr(method, entry.name) for entry in fields(method)]
    inner = [_copies(value) for value in values if isinstance(value, Method)]
    return getattr(method, "copies", inner[0] if inner else 1)


def _check_range(name: str, values: tuple[float, ...], most: float) -> None:
    if values and not (len(values) == 2 and 0 < values[0] <= values[1] <= most):
        raise ValueError(f"expected {name} to be the least and the largest, above 0, at most {most}; got {values}")
