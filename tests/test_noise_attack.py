"""Classifiers that read the last bits of a noisy image: they make certificates of float32 noise false.

Voracek & Hein, "Sound Randomized Smoothing in Floating-Point Arithmetics" (2023). Near zero the sum of 0.02 and float32
noise can take fewer values than the noise alone: multiples of 2^-30. A classifier that looks for others knows which
image was smoothed, and both images get certificates that contain the other one.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holdfast import Certificate, Gaussian, SamplingCertifier, certify
from holdfast.certifiers.adaptive import Adaptive
from holdfast.certifiers.at_radius import AtRadius
from holdfast.certifiers.betting import Betting
from holdfast.core.certifier import Certifier
from holdfast.smoothing.noise import Float32, Lattice, Noise

SIGMA, N = 0.25, 1000
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


def _certificates(read: Callable[[Tensor], Tensor], gray: Tensor, certifier: Certifier) -> list[Certificate]:
    """Of the black and of the gray image, for the classifier whose class 1 is what is read."""

    def classifier(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(read(x).long(), 2).float()

    return certify(classifier, torch.stack([BLACK, gray]), certifier, seed=1)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_float32_noise_certifies_two_classes_within_each_others_balls(read: Callable[[Tensor], Tensor]) -> None:
    black, gray = _certificates(read, GRAY, Gaussian(SIGMA, n=N, noise=Float32()))
    assert {black.prediction, gray.prediction} == {0, 1}
    assert min(black.radius, gray.radius) > DISTANCE


@pytest.mark.parametrize("gray", [GRAY, torch.full_like(GRAY, 5 / 255)], ids=["off the lattice", "on the lattice"])
@pytest.mark.parametrize("read", [*READERS.values(), *LATTICE_READERS.values()], ids=[*READERS, *LATTICE_READERS])
@pytest.mark.parametrize("noise", [None, Lattice(2.0**-8)], ids=["default", "1/256"])
def test_lattice_noise_gives_such_a_reader_nothing_to_read(
    noise: Noise | None, read: Callable[[Tensor], Tensor], gray: Tensor
) -> None:
    certifier = Gaussian(SIGMA, n=N) if noise is None else Gaussian(SIGMA, n=N, noise=noise)
    found = _certificates(read, gray, certifier)
    assert not _contradictory(*found)
    votes = [c.evidence["votes"].get("1", 0) for c in found]
    p = sum(votes) / (2 * N)
    assert abs(votes[0] - votes[1]) <= 4 * (2 * N * p * (1 - p)) ** 0.5


SEQUENTIAL = [Adaptive(SIGMA, n_max=N), AtRadius(SIGMA, n_max=N, r=(DISTANCE,)), Betting(SIGMA, n_max=N)]


@pytest.mark.parametrize("certifier", SEQUENTIAL, ids=lambda certifier: type(certifier).__name__)
def test_every_sampling_certifier_is_fooled_by_float32_noise_and_not_by_default(certifier: SamplingCertifier) -> None:
    for read in READERS.values():
        assert _contradictory(*_certificates(read, GRAY, certifier.replace(noise=Float32())))
        assert not _contradictory(*_certificates(read, GRAY, certifier))


def _contradictory(black: Certificate, gray: Certificate) -> bool:
    """Two classes are certified for the points between the two images."""
    different = black.prediction != gray.prediction and None not in (black.prediction, gray.prediction)
    return different and black.radius + gray.radius > DISTANCE
