"""Gaussian noise on a lattice, where the theorem holds for the program that runs.

Cohen's theorem (Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019) is about
real numbers. In float32 the low bits of x + noise tell which x was smoothed, and a classifier that reads them gets
certificates that are false (Voracek & Hein, "Sound Randomized Smoothing in Floating-Point Arithmetics", 2023). On a
lattice the program is the smoothing of an ordinary function of a real vector, the network behind a rounding, so that
the theorem holds at every x up to the distance in total variation `delta`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from ...core.certifier import Seed
from .base import NormalNoise, Stream

if TYPE_CHECKING:
    from torch import Tensor

COARSEST, FINEST = 2**-10, 2**16
"""Bounds of sigma / step: beyond them the slow paths would be the rule."""


@dataclass(frozen=True)
class Lattice(NormalNoise):
    """x + noise rounded to a lattice, defined by mathematics: the same bits on every machine (see `definition`).

    A pixel float32(k) / 255 stands for the real number k / 255, and so on for other steps; any other value for itself.
    """

    skips: ClassVar[bool] = True

    step: float | None = None
    """Distance of neighboring points of lattice noise: 1 / m for an integer m, or a power of two. Default 1/255 for
    images, and for the features of `split` the power of two nearest to sigma / 64."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _divisor(self.step)

    def stream(self, x: Tensor, sigma: float, seed: Seed) -> Stream:
        """The noisy copies of the row x.

        Raises:
            ValueError: sigma is not positive and finite, or too large or small for the step; x is not finite or too
                large for it; the seed does not fit.
        """
        from .numba_cpu import LatticeStream

        self._ratio(sigma)
        return LatticeStream(x, sigma, _divisor(self.step), seed)

    def delta(self, sigma: float, numbers: int) -> float:
        """For images and features alike."""
        return _delta(max(self._ratio(sigma), 0.0 if self.step else sigma / feature_step(sigma)), numbers)

    def on_features(self, sigma: float) -> Lattice:
        """By sigma alone: a step that followed from the features would smooth another function at every image.

        Raises:
            ValueError: the step is no power of two, so that features on the lattice would be no machine numbers.
        """
        step = feature_step(sigma) if self.step is None else self.step
        if math.frexp(step)[0] != 0.5:
            raise ValueError(f"features need a step that is a power of two, such as {feature_step(sigma)}, got {step}")
        return Lattice(step)

    def _ratio(self, sigma: float) -> float:
        """sigma in steps."""
        divisor = _divisor(self.step)
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be positive, got {sigma}")
        if not COARSEST <= sigma * divisor <= FINEST:
            raise ValueError(
                f"sigma = {sigma:g} needs a step between sigma / {FINEST} = {sigma / FINEST:g} and {1 / COARSEST:g} "
                f"sigma = {sigma / COARSEST:g}, got 1/{divisor:g}; give another step to the noise"
            )
        return sigma * divisor


@lru_cache(maxsize=64)
def _delta(ratio: float, numbers: int) -> float:
    """Kept, because all records of a run ask for it."""
    from . import definition

    return max(definition.DELTA, definition.total_variation(ratio, numbers))


def feature_step(sigma: float) -> float:
    """The power of two nearest to sigma / 64: the rounding adds 2^-15 to 2^-14 of the variance of the noise."""
    return 2.0 ** round(math.log2(sigma / 64))


def _divisor(step: float | None) -> float:
    """1 / step, exactly; a step that was typed with seven digits or more counts as the nearest 1 / m."""
    if step is None:
        return 255.0
    if 2**-40 <= step <= 2**40:
        if math.frexp(step)[0] == 0.5:
            return 1 / step
        m = round(1 / step)
        if 1 <= m <= 2**16 and abs(m * step - 1) <= 1e-6:
            return float(m)
    raise ValueError(f"expected a step of 1/m for an integer m up to 65536, or a power of two, got {step}")
