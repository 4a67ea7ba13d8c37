"""Classifiers that read the last bits of a noisy image: they make certificates of float32 noise false.

Voracek & Hein, "Sound Randomized Smoothing in Floating-Point Arithmetics" (2023). Near zero the sum of 0.02 and float32
noise can take fewer values than the noise alone: multiples of 2^-30. A classifier that looks for others knows which
image was smoothed, and both images get certificates that contain the other one.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holdfast.smoothing.binomial import gaussian_radius, lower_bound
from holdfast.smoothing.noise import Float32Gaussian, LatticeGaussian, Noise, Seed, deduct

SIGMA, N, ALPHA = 0.25, 1000, 0.001
BLACK, GRAY = torch.zeros(1, 28, 28), torch.full((1, 28, 28), 0.02)
DISTANCE = 0.02 * 28
NEAR_ZERO = 2.0**-7


def _units(noisy: Tensor) -> Tensor:
    """Values near zero in units of 2^-30, zero elsewhere; exact in float64."""
    values = noisy.double().flatten(1)
    return torch.where(values.abs() < NEAR_ZERO, values * 2.0**30, 0.0)


def low_bits(noisy: Tensor) -> Tensor:
    """Whether a value lies off the grid of 2^-30."""
    units = _units(noisy)
    return (units != units.round()).any(1)


def parity(noisy: Tensor) -> Tensor:
    """Whether a value in units of 2^-31 is odd."""
    return ((2 * _units(noisy)).floor().remainder(2) == 1).any(1)


def exponent(noisy: Tensor) -> Tensor:
    """Whether the last bit that is set in a value stands for less than 2^-30."""
    mantissa, power = torch.frexp(_units(noisy))
    whole = (mantissa * 2.0**24).long()
    last = power + torch.log2((whole & -whole).clamp(min=1).double()) - 24
    return ((whole != 0) & (last < 0)).any(1)


def residue(noisy: Tensor) -> Tensor:
    """Whether a value has a residue other than 0 and 1/2 modulo 2^-29."""
    rest = (_units(noisy) / 2).remainder(1.0)
    return ((rest != 0) & (rest != 0.5)).any(1)


def _of_lattice(read: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A reader of the integers q of noisy images on the lattice of 1/255, by the majority of its coordinates."""
    return lambda noisy: 2 * read((noisy.double() * 255).round().flatten(1)).sum(1) > noisy[0].numel()


READERS = {"low bits": low_bits, "parity": parity, "exponent": exponent, "residue": residue}
LATTICE_READERS = {
    "low bits of the quotient": _of_lattice(lambda q: (q / 255).float().view(torch.int32) & 1),
    "parity": _of_lattice(lambda q: q.remainder(2)),
    "exponent": _of_lattice(lambda q: torch.frexp(q).exponent % 2),
    "residue": _of_lattice(lambda q: q.remainder(5) < 2),
}


def _votes(noise: Noise, read: Callable[[Tensor], Tensor], x: Tensor) -> int:
    out = torch.empty(N, *x.shape)
    noise.stream(x, SIGMA, Seed(1, int(x.sum() > 0))).fill(out)
    return int(read(out).sum())


def _certificate(noise: Noise, votes: int) -> tuple[bool, float]:
    """(class, radius) of the class with more votes, at its true cost in delta."""
    p_lower = deduct(lower_bound(max(votes, N - votes), N, ALPHA), noise.delta(SIGMA, BLACK.numel()))
    return 2 * votes > N, gaussian_radius(p_lower, SIGMA)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_float32_noise_certifies_two_classes_within_each_others_balls(read: Callable[[Tensor], Tensor]) -> None:
    black, gray = (_certificate(Float32Gaussian(), _votes(Float32Gaussian(), read, x)) for x in (BLACK, GRAY))
    assert black[0] != gray[0]
    assert min(black[1], gray[1]) > DISTANCE


@pytest.mark.parametrize("gray", [GRAY, torch.full_like(GRAY, 5 / 255)], ids=["off the lattice", "on the lattice"])
@pytest.mark.parametrize("read", [*READERS.values(), *LATTICE_READERS.values()], ids=[*READERS, *LATTICE_READERS])
@pytest.mark.parametrize("noise", [LatticeGaussian(), LatticeGaussian(2.0**-8)], ids=["1/255", "1/256"])
def test_lattice_noise_gives_such_a_reader_nothing_to_read(
    noise: Noise, read: Callable[[Tensor], Tensor], gray: Tensor
) -> None:
    votes = [_votes(noise, read, x) for x in (BLACK, gray)]
    black_class, black_radius = _certificate(noise, votes[0])
    gray_class, gray_radius = _certificate(noise, votes[1])
    assert black_class == gray_class or black_radius + gray_radius < DISTANCE
    p = sum(votes) / (2 * N)
    assert abs(votes[0] - votes[1]) <= 4 * (2 * N * p * (1 - p)) ** 0.5
