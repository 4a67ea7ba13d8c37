"""Method and Optimizer: how a classifier is trained, as Configs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .certifier import Certifier
from .classifier import Classifier
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
