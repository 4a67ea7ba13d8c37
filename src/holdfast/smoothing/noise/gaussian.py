"""Gaussian noise for randomized smoothing: on a lattice, where the theorem holds for the program, or in float32.

Cohen's theorem (Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019) is about
real numbers. In float32 the low bits of x + noise tell which x was smoothed, and a classifier that reads them gets
certificates that are false (Voracek & Hein, "Sound Randomized Smoothing in Floating-Point Arithmetics", 2023). On a
lattice the program is the smoothing of an ordinary function of a real vector, the network behind a rounding, so that
the theorem holds at every x up to the distance in total variation `delta`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from ..sampling import NoiseStream
from . import definition
from .definition import Seed
from .numba_cpu import LatticeStream

COARSEST, FINEST = 2**-10, 2**16
"""Bounds of sigma / step: beyond them the slow paths would be the rule."""


class Stream(Protocol):
    """The noisy copies of one row, in their order; number k depends on the row, the noise, the seed and k alone."""

    def fill(self, out: Tensor) -> None:
        """Write the next len(out) copies into `out` (rows, *shape), of any floating dtype and memory format."""
        ...


class Noise(ABC):
    """How the noise of a smoothed classifier is drawn."""

    arithmetic: ClassVar[str]
    """What records, reports and evidence say about it."""

    @abstractmethod
    def stream(self, x: Tensor, sigma: float, seed: Seed) -> Stream:
        """The noisy copies of the row x, for sigma in the unit of x."""

    @abstractmethod
    def delta(self, sigma: float, dimensions: int) -> float:
        """At least how far any probability of a class is from the one under real noise: see `deduct` and `add`."""


@dataclass(frozen=True)
class LatticeGaussian(Noise):
    """x + noise rounded to a lattice, defined by mathematics: the same bits on every machine (see `definition`).

    A pixel float32(k) / 255 stands for the real number k / 255, and so on for other steps; any other value for itself.
    """

    arithmetic: ClassVar[str] = "lattice"

    step: float | None = None
    """Distance of neighboring points: 1 / m for an integer m, or a power of two. None: 1/255 for rows with three
    dimensions, such as images, and a power of two near sigma / 64 for others."""

    def __post_init__(self) -> None:
        if self.step is not None:
            _divisor(self.step)

    def stream(self, x: Tensor, sigma: float, seed: Seed) -> Stream:
        """The noisy copies of the row x.

        Raises:
            ValueError: sigma is not positive and finite, or too large or small for the step; x is not finite or too
                large for it; the seed does not fit.
        """
        return _lattice_stream(x, sigma, _divisor(self._step(sigma, x.ndim)), seed)

    def delta(self, sigma: float, dimensions: int) -> float:
        finest = min(self._step(sigma, 1), self._step(sigma, 3))
        ratio = _ratio(sigma, _divisor(finest))
        return max(definition.DELTA, definition.total_variation(ratio, dimensions))

    def _step(self, sigma: float, ndim: int) -> float:
        """By the shape alone: a step that followed from the values of x would smooth another function at every x."""
        if self.step is not None:
            return self.step
        return 1 / 255 if ndim == 3 else feature_step(sigma)


@dataclass(frozen=True)
class Float32Gaussian(Noise):
    """Noise in float32 from the generator of torch, as in published work: certificates are about real arithmetic, and
    not about the program that ran."""

    arithmetic: ClassVar[str] = "float32"

    def stream(self, x: Tensor, sigma: float, seed: Seed) -> Stream:
        return _Float32Stream(x, sigma, seed.check())

    def delta(self, sigma: float, dimensions: int) -> float:
        """0, which nothing proves."""
        return 0.0


class _Float32Stream:
    def __init__(self, x: Tensor, sigma: float, seed: Seed) -> None:
        self.x, self.sigma = x, sigma
        self.noise = NoiseStream(
            int(np.random.SeedSequence((seed.seed, seed.index)).generate_state(1, np.uint64)[0]), x
        )

    def fill(self, out: Tensor) -> None:
        done = 0
        while done < len(out):
            noise = self.noise.take(len(out) - done)
            torch.add(self.x, noise, alpha=self.sigma, out=out[done : done + len(noise)])
            done += len(noise)


def feature_step(sigma: float) -> float:
    """The power of two nearest to sigma / 64: the rounding adds 2^-15 to 2^-14 of the variance of the noise."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"expected a positive, finite sigma, got {sigma}")
    return 2.0 ** round(math.log2(sigma / 64))


def _lattice_stream(x: Tensor, sigma: float, divisor: float, seed: Seed) -> LatticeStream:
    _ratio(sigma, divisor)
    return LatticeStream(x, sigma, divisor, seed)


def _ratio(sigma: float, divisor: float) -> float:
    """sigma in steps."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"expected a positive, finite sigma, got {sigma}")
    if not COARSEST <= sigma * divisor <= FINEST:
        raise ValueError(
            f"expected a step between sigma / {FINEST} = {sigma / FINEST:g} and {1 / COARSEST:g} sigma = "
            f"{sigma / COARSEST:g}, got 1/{divisor:g}"
        )
    return sigma * divisor


def _divisor(step: float) -> float:
    """1 / step, exactly."""
    if step > 0 and 2**-40 <= step <= 2**40:
        m = round(1 / step)
        if 1 <= m <= 2**16 and 1 / m == step:
            return float(m)
        if math.frexp(step)[0] == 0.5:
            return 1 / step
    raise ValueError(f"expected a step of 1/m for an integer m up to 65536, or a power of two, got {step}")
