"""Noise: how the noisy copies of an input are drawn, and which radius the votes on them prove."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...core.certifier import Seed
from ...core.config import Config
from ..statistics.binomial import share_needed, two_class_radius

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Batch:
    """Rows that are written again and again; how they lie in memory is asked once."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.size = tensor, len(tensor)
        self.dense = dense_rows(tensor)
        self.array: np.ndarray | None = None
        """The rows of `dense` for kernels, if they are float32 in the memory of a CPU."""
        if self.dense is not None and tensor.device.type == "cpu" and str(tensor.dtype) == "torch.float32":
            self.array = self.dense[0].numpy()

    def __len__(self) -> int:
        return self.size


def dense_rows(rows: Tensor) -> tuple[Tensor, int] | None:
    """A view of a dense batch as (rows, d) in the order of memory, and how many channels are innermost."""
    d = math.prod(rows.shape[1:])
    if rows.is_contiguous():
        return rows.view(len(rows), d), 1
    last = rows.movedim(1, -1) if rows.ndim == 4 else rows
    return (last.view(len(rows), d), rows.shape[1]) if last.is_contiguous() else None


class Stream(ABC):
    """The noisy copies of one input, in a fixed order: number k follows from the seed and k alone."""

    @abstractmethod
    def fill(self, out: Tensor) -> None:
        """Write the next copies into `out`, (copy, ...), of any floating dtype and memory format."""

    def write(self, batch: Batch, start: int, stop: int) -> None:
        """`fill` the rows from `start` to `stop` of a batch of the shape of the input."""
        self.fill(batch.tensor[start:stop])

    def skip(self, copies: int) -> None:
        """Leave out the next copies, of a noise that `skips`."""
        raise NotImplementedError(f"{type(self).__name__} draws one copy after another")


@dataclass(frozen=True)
class Noise(Config):
    """A distribution of noise, scaled by sigma, its standard deviation in every coordinate."""

    threat: ClassVar[str] = "l2"
    """Name of the threat model that its radii are about."""
    skips: ClassVar[bool] = False
    """Whether a copy follows from its number alone, so that copies drawn before need not be drawn again."""

    @abstractmethod
    def stream(self, x: Tensor, sigma: float, seed: Seed) -> Stream:
        """The noisy copies of one input x, without a batch dimension."""

    @abstractmethod
    def sample(self, x: Tensor, sigma: float, generator: Generator | None = None) -> Tensor:
        """One noisy copy of every input of a batch, differentiable in x: what training sees, and no proof counts.

        Args:
            generator: of torch, on the device of x; its global one by default.
        """

    @abstractmethod
    def radius(self, p_lower: float, p_upper: float, sigma: float) -> float:
        """The radius proven, rounded down, if the top class has at least p_lower of the votes and no other class more
        than p_upper; 0.0 where none is."""

    @abstractmethod
    def share_needed(self, radius: float, sigma: float) -> float:
        """A share of the votes, rounded up, that proves the radius when no other class has more than the rest."""

    def scale(self, sigma: float) -> float:
        """A radius by which others are measured: steps of grids and tolerances are shares of it."""
        return sigma

    def delta(self, sigma: float, numbers: int) -> float:
        """How far the probability of any class can be from that under the ideal noise, for inputs of so many numbers.

        0.0 claims nothing about the arithmetic.
        """
        return 0.0

    def on_features(self, sigma: float) -> Noise:
        """The same noise for features instead of pixels, whose unit is that of sigma."""
        return self


@dataclass(frozen=True)
class NormalNoise(Noise):
    """Base of all that draw Gaussian noise: radii in l2 by Cohen, Rosenfeld & Kolter, ICML 2019, Theorem 1."""

    def sample(self, x: Tensor, sigma: float, generator: Generator | None = None) -> Tensor:
        return x + sigma * x.new_empty(x.shape).normal_(generator=generator)

    def radius(self, p_lower: float, p_upper: float, sigma: float) -> float:
        return two_class_radius(p_lower, p_upper, sigma)

    def share_needed(self, radius: float, sigma: float) -> float:
        return share_needed(radius, sigma)


@dataclass(frozen=True)
class Float32(NormalNoise):
    """Normal numbers of torch's generator, added in the precision of the input: the way of published code.

    Kept for comparison. Its certificates are about real arithmetic, which is not what ran: see `docs/certificates.md`.
    """

    def stream(self, x: Tensor, sigma: float, seed: Seed) -> Stream:
        return Float32Stream(x, sigma, seed.derived())


BLOCK = 2**18
"""Noise is drawn in blocks of about this many numbers, whatever the batch size."""


class Float32Stream(Stream):
    """Draws in blocks whose size depends on the shape of the input only, so that nothing else can change a draw."""

    def __init__(self, x: Tensor, sigma: float, seed: int) -> None:
        import torch  # when it is drawn: settings and reports need none

        self._x, self._sigma = x, sigma
        self._generator = torch.Generator(x.device).manual_seed(seed)
        self._block = torch.empty((max(1, BLOCK // x.numel()), *x.shape), dtype=x.dtype, device=x.device)
        self._used = len(self._block)

    def fill(self, out: Tensor) -> None:
        import torch

        while len(out):
            if self._used == len(self._block):
                self._block.normal_(generator=self._generator)
                self._used = 0
            noise = self._block[self._used : self._used + len(out)]
            torch.add(self._x, noise, alpha=self._sigma, out=out[: len(noise)])
            self._used += len(noise)
            out = out[len(noise) :]


def less(share: float, delta: float) -> float:
    """share - delta, rounded down, at least 0."""
    return max(0.0, float(np.nextafter(share - delta, -1.0))) if delta else share


def more(share: float, delta: float) -> float:
    """share + delta, rounded up, at most 1."""
    return min(1.0, float(np.nextafter(share + delta, 2.0))) if delta else share
