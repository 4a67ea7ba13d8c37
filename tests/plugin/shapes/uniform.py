"""A noise: uniform in a cube, which proves radii in l1.

Yang et al., "Randomized Smoothing of All Shapes and Sizes", ICML 2020, https://arxiv.org/abs/2002.08118, section 3.

    holdfast certify RUN uniform
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from holdfast import Gaussian, Noise
from holdfast.core.certifier import Seed
from holdfast.smoothing.noise import Stream

from .levels import LEVELS, levels

DOWN, UP = 1 - 2**-40, 1 + 2**-40
"""More than what rounding can change."""
BLOCK = 64
"""Noisy copies that are drawn at a time, whatever the batch size."""


def width(sigma: float) -> float:
    """Half of the side of a cube whose coordinates have standard deviation sigma."""
    return sigma * math.sqrt(3)


@dataclass(frozen=True)
class Uniform(Noise):
    """A cube moved by delta shares all but |delta|_1 / (2 width) with itself: so much a probability can change."""

    threat = levels.name

    def stream(self, x: Tensor, sigma: float, seed: Seed) -> Stream:
        return UniformStream(x, width(sigma), torch.Generator(x.device).manual_seed(seed.derived()))

    def sample(self, x: Tensor, sigma: float, generator: Generator | None = None) -> Tensor:
        return x + width(sigma) * x.new_empty(x.shape).uniform_(-1, 1, generator=generator)

    def radius(self, p_lower: float, p_upper: float, sigma: float) -> float:
        return max(0.0, self.scale(sigma) * (p_lower - p_upper) * DOWN)

    def share_needed(self, radius: float, sigma: float) -> float:
        return min(1.0, (1 + radius / self.scale(sigma)) / 2 * UP)

    def scale(self, sigma: float) -> float:
        return LEVELS * width(sigma)


class UniformStream(Stream):
    """Draws blocks of copies, so that copy k follows from the generator and k alone."""

    def __init__(self, x: Tensor, width: float, generator: Generator) -> None:
        self.x, self.width, self.generator = x, width, generator
        self.left = x.new_empty((0, *x.shape))

    def fill(self, out: Tensor) -> None:
        while len(out):
            if not len(self.left):
                block = self.x.new_empty((BLOCK, *self.x.shape)).uniform_(-1, 1, generator=self.generator)
                self.left = self.x + self.width * block
            count = min(len(out), len(self.left))
            out[:count], self.left, out = self.left[:count], self.left[count:], out[count:]


DEFAULT = Gaussian(noise=Uniform())
