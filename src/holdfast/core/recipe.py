"""Recipe: a complete experiment, and what an architecture needs to know of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from .config import Config
from .method import Method, Optimizer


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
    """Zero padding, in pixels, of the random crop; 0 = no crop."""
    flip: bool = False
    """Mirror every second image, at random."""
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
        if self.held_out == 1:
            raise ValueError("held_out = 1 leaves no image to train on; expected 0, or 2 and more")
        leasts = {"epochs": 1, "batch_size": 1, "crop": 0, "clip": 0, "held_out": 0, "extra_ratio": 0}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
