"""The nouns of the library. This file imports nothing of ours but Spec, and no torch when it runs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from .spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Norm = Literal["l1", "l2", "linf"]

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


@runtime_checkable
class LipschitzClassifier(Protocol):
    """A classifier that also proves how fast the differences of its logits can change."""

    norm: Norm

    def __call__(self, x: Tensor) -> Tensor: ...

    def difference_constants(self) -> Tensor:
        """(class, class), float64: entry (i, j) is a proven Lipschitz constant of logit_i - logit_j, rounded up."""
        ...


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
class Certificate:
    """What is proven about one input: no perturbation smaller than `radius` changes `prediction`."""

    prediction: int | None
    """The class, or None when the certifier abstains."""
    radius: float
    """Proven radius in pixel units of [0, 1] images, rounded down; 0.0 when abstaining."""
    norm: Norm
    confidence: float
    """Probability that the statement is true: 1.0 for a deterministic proof, 1 - alpha for sampling."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Every number needed to compute the radius again; values that JSON can hold."""

    def __post_init__(self) -> None:
        if not 0 <= self.radius < math.inf:
            raise ValueError(f"a radius is finite and not negative, got {self.radius}")
        if self.prediction is None and self.radius > 0:
            raise ValueError(f"an abstention has radius 0, got {self.radius}")
        if not 0 < self.confidence <= 1:
            raise ValueError(f"a confidence lies in (0, 1], got {self.confidence}")


@dataclass(frozen=True)
class Record:
    """One certified example of a data set."""

    index: int
    """Position of the example in its data set."""
    label: int
    certificate: Certificate

    @property
    def correct(self) -> bool:
        """The prediction is the label (an abstention is not)."""
        return self.certificate.prediction == self.label


@dataclass(frozen=True)
class Certifier(Spec):
    """A proof method. Holds hyper-parameters only; the classifier is an argument."""

    @abstractmethod
    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[int], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        """Yield (row, certificate) once for every row of x, in any order, each as soon as it is known.

        Args:
            x: images (batch, channel, height, width) in [0, 1].
            seeds: seeds[i] alone drives the noise of row i.
            batch_size: number of images in one forward pass; a machine setting.
        """

    @abstractmethod
    def cap(self) -> float:
        """The largest radius that these settings can prove, in pixel units; inf where there is none."""

    @abstractmethod
    def samples(self) -> int:
        """The most forward passes that one example can need."""

    def explain(self, classifier: Classifier, x: Tensor) -> Mapping[str, Any]:
        """What a report should say about the classifier as a whole; values that JSON can hold, empty unless overridden.

        Args:
            x: some images (batch, channel, height, width) in [0, 1] to look at.
        """
        return {}


@dataclass(frozen=True)
class Method(Spec):
    """A training method: a loss and its hyper-parameters."""

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
        sigma = getattr(self.certifier(), "sigma", None)
        return None if sigma is None else model(x + sigma * x.new_empty(x.shape).normal_(generator=generator))

    def finish(self, model: torch.nn.Module, batches: Iterable[Tensor]) -> None:
        """Called once after training with the training images, in batches; does nothing unless a method needs it."""


@dataclass(frozen=True)
class Optimizer(Spec):
    """How weights follow gradients, schedule included."""

    @abstractmethod
    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh torch optimiser."""

    @abstractmethod
    def rate(self, t: float) -> float:
        """The learning rate at progress t in [0, 1]."""


@dataclass(frozen=True)
class Recipe(Spec):
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
