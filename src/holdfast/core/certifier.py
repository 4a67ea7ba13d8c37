"""What counts as a classifier; Certifier: a proof method as a Config."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from .certificate import Certificate
from .config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from ..smoothing.certifier import SamplingCertifier

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


class Seed(NamedTuple):
    """What the noise of one example follows from, besides the number of the draw."""

    seed: int
    """Of the whole run: 64 bits."""
    example: int
    """Of the example: 32 bits."""

    def check(self) -> Seed:
        """Itself.

        Raises:
            ValueError: a number is negative or does not fit.
        """
        for name, value, bits in (("seed", self.seed, 64), ("example", self.example, 32)):
            if type(value) is not int or not 0 <= value < 2**bits:
                raise ValueError(f"expected {name} to be an integer from 0 to 2^{bits} - 1, got {value}")
        return self

    def derived(self) -> int:
        """One 64-bit number, for generators that take one. A CPU generator of torch keeps 32 of its bits: two examples
        may, rarely, share noise, which leaves the certificate of each as true as it was."""
        return int(np.random.SeedSequence(tuple(self)).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Certifier(Config):
    """A proof method. Holds hyper-parameters only; the classifier is an argument."""

    @abstractmethod
    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
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

    @property
    def sampling(self) -> SamplingCertifier | None:
        """The certifier that draws noise: itself, the one inside it, or None for a deterministic proof."""
        return None

    @property
    def drawing(self) -> SamplingCertifier | None:
        """`sampling` with its noise as it is drawn on `smoothed_part`."""
        return self.sampling

    def with_sampling(self, inner: SamplingCertifier) -> Certifier:
        """The same proof with another certifier drawing the noise: that one alone, unless a proof is larger."""
        return inner

    def meant_for(self, other: Certifier) -> Certifier:
        """This certifier for a model that `other` is meant for: fields at their defaults take the values of other.

        A sampling certifier takes the place of the one inside other, as for a classifier in two halves.
        """
        inner = other.sampling
        if self.sampling is self and inner is not None and inner is not other:
            return other.with_sampling(self.meant_for(inner))  # pyright: ignore[reportArgumentType]
        usual, theirs = type(self)(), {field.name for field in fields(other)}
        shared = [f.name for f in fields(self) if f.name in theirs and getattr(self, f.name) == getattr(usual, f.name)]
        return self.replace(**{name: getattr(other, name) for name in shared})

    def require(self, classifier: Classifier) -> None:
        """Refuse a classifier that this proof does not serve, before any work.

        Raises:
            ValueError: it says what is expected.
        """

    def bind(self, classifier: Classifier, x: Tensor) -> Classifier:
        """What `certify_batch` gets for a classifier: itself, unless a proof makes something of it once for all images.

        Args:
            x: some of the images (batch, channel, height, width).

        Raises:
            ValueError: this proof does not serve it.
        """
        return classifier

    def norm_of(self, classifier: Classifier) -> str | None:
        """Name of the threat model of all radii for a classifier; None where only its certificates tell."""
        return None

    def smoothed_part(self, model: Classifier, x: Tensor) -> tuple[Tensor, Classifier]:
        """What the noise is added to, and the classifier that sees it: the images and the model, unless overridden."""
        return x, model

    def explain(self, classifier: Classifier, x: Tensor) -> Mapping[str, Any]:
        """What a report should say about the classifier as a whole; values that JSON can hold, empty unless overridden.

        Args:
            x: some images (batch, channel, height, width) in [0, 1] to look at.
        """
        return {}
