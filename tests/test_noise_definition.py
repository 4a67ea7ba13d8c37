"""The definition of the lattice noise: the generator, the rounding, its distribution, what a certificate is charged."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from holdfast.certifiers.gaussian import Gaussian
from holdfast.core.certifier import Seed
from holdfast.smoothing.noise import Float32, Lattice, less, more
from holdfast.smoothing.noise import definition as d

KNOWN_ANSWERS = [  # Random123, kat_vectors: philox4x32 10
    ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: tuple, key: tuple, expected: str) -> None:
    assert " ".join(f"{word:08x}" for word in d.philox(counter, key)) == expected


def test_no_two_coordinates_draws_examples_or_seeds_share_a_word() -> None:
    words = {
        d.word(j, draw, Seed(seed, index))
        for j in (*range(130), 2**20)
        for draw in (0, 1, 2**32 - 1)
        for index in (0, 1, 2**32 - 1)
        for seed in (0, 1, 2**32, 2**63, 2**64 - 1)
    }
    assert len(words) == 131 * 3 * 3 * 5


@pytest.mark.parametrize("x", [0.0, 0.02, -1.75, 300 / 255, 1e-9])
@pytest.mark.parametrize(("sigma", "divisor"), [(0.25, 255.0), (0.5, 128.0), (0.001, 255.0)])
def test_every_16_bit_word_is_rounded_as_the_formula_says(x: float, sigma: float, divisor: float) -> None:
    """q = floor((x + sigma Phi^-1(u)) / h + 1/2), by mpmath's inverse of the error function."""
    place, ratio = d.place(x, divisor), Fraction(sigma) * Fraction(divisor)
    with mpmath.workprec(150):
        for k in [*range(40), *range(40, 2**16, 997), *range(2**16 - 40, 2**16)]:
            z = mpmath.sqrt(2) * mpmath.erfinv((2 * k + 1) * mpmath.mpf(2) ** -16 - 1)
            expected = mpmath.floor(mpmath.mpf(place.numerator) / place.denominator + z * float(ratio) + 0.5)
            assert d.lattice_point(k, place, ratio, 16) == int(expected)


@pytest.mark.parametrize("ratio", [Fraction(1, 4), Fraction(255, 4), Fraction(0.3) * 255])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_thresholds_are_the_definition_for_every_word(ratio: Fraction, bits: int) -> None:
    thresholds, first = d.thresholds(ratio, bits)
    words = np.arange(2**bits, dtype=np.uint64)
    found = first + np.searchsorted(thresholds, words, side="right")
    some = range(0, 2**bits, 1 if bits == 8 else 331)
    assert [int(found[k]) for k in some] == [d.lattice_point(k, Fraction(0), ratio, bits) for k in some]


@pytest.mark.parametrize("ratio", [0.25, 1.0, 63.75])
@pytest.mark.parametrize("bits", [8, 16])
def test_no_distribution_is_farther_from_gaussian_than_is_claimed(ratio: float, bits: int) -> None:
    """By going through all words of a smaller size; the claim for 64 bits is the same formula."""
    thresholds, first = d.thresholds(Fraction(ratio), bits)
    values, counts = np.unique(
        first + np.searchsorted(thresholds, np.arange(2**bits, dtype=np.uint64), side="right"), return_counts=True
    )
    real = ndtr((values + 0.5) / ratio) - ndtr((values - 0.5) / ratio)
    distance = (np.abs(counts / 2**bits - real).sum() + 1 - real.sum()) / 2
    assert 0 < distance <= d.total_variation(ratio, 1, bits)


def test_no_word_lies_beyond_the_reach_on_which_the_claim_rests() -> None:
    for bits in (8, 16, 64):
        with mpmath.workprec(150):
            assert mpmath.ncdf(-d.reach(bits)) <= mpmath.mpf(2) ** -(bits + 1)


def test_delta_is_one_number_for_all_common_images_and_grows_where_it_must() -> None:
    noise = Lattice()
    for sigma in (0.25, 0.5, 1.0):
        for dimensions in (784, 3072, 150_528):
            assert noise.delta(sigma, dimensions) == 1e-9 >= d.total_variation(255 * sigma, dimensions)
    assert noise.delta(100.0, 10**9) == d.total_variation(25_500.0, 10**9) > 1e-9
    assert Lattice(step=2.0**-20).delta(0.05, 10**9) > noise.delta(0.05, 10**9)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.1))
def test_delta_is_charged_towards_safety(p: float, delta: float) -> None:
    assert Fraction(less(p, delta)) <= max(Fraction(0), Fraction(p) - Fraction(delta))
    assert Fraction(more(p, delta)) >= min(Fraction(1), Fraction(p) + Fraction(delta))
    assert 0 <= less(p, delta) <= p <= more(p, delta) <= 1
    assert less(p, 0.0) == p == more(p, 0.0)


def test_caps_move_to_the_safe_side() -> None:
    lattice, float32 = (Gaussian(0.5, noise=noise).cap() for noise in (Lattice(), Float32()))
    assert 0.99 * float32 < lattice < float32
