"""The compiled noise is the definition, bit for bit, also for words chosen to sit on a boundary."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from scipy.special import ndtr, ndtri
from scipy.stats import chi2

from holdfast.core.certifier import Seed
from holdfast.smoothing.noise import definition as d
from holdfast.smoothing.noise import numba_kernels, vectors
from holdfast.smoothing.noise.numba_kernels import ERROR, GROWTH, TAIL, trust

HALF = 2**32


def _drawn(count: int, draw: int = 0, purpose: int = 0) -> np.ndarray:
    out = np.empty(count, np.uint32)
    numba_kernels.words(out, 0, draw, 7, purpose, 5, 2**31)
    return out


def _whole_words(count: int, draw: int = 0) -> np.ndarray:
    return _drawn(count, draw).astype(np.uint64) << np.uint64(32) | _drawn(count, draw, purpose=1)


def _quantiles(words: np.ndarray, by: Callable[..., None] = numba_kernels.quantiles) -> np.ndarray:
    """Of the upper halves of words: `by_table` takes sixteen at a time."""
    z = np.empty(len(words) + -len(words) % 16, np.float32)
    by(np.pad(words, (0, len(z) - len(words))).astype(np.uint32), z)
    return z[: len(words)]


def _fast(words: np.ndarray, part: float, ratio: float) -> np.ndarray:
    """What the first loops say for 64-bit words: a value or MARK."""
    q, places = np.empty(len(words), np.float32), np.full(len(words), part, np.float32)
    z, whole, one = _quantiles(words >> np.uint64(32)), np.zeros(len(words), np.int32), np.float32(1)
    numba_kernels.settle_most(z, whole, places, *trust(Fraction(ratio), 0.0), one, q)
    return q


def test_words_are_those_of_the_definition() -> None:
    seed = Seed(2**63 + 5, 7)
    found = _whole_words(192, draw=3)
    assert found.tolist() == [d.word(j, 3, seed) for j in range(192)]
    later = np.empty(64, np.uint32)
    numba_kernels.words(later, 128, 3, 7, 0, 5, 2**31)
    assert later.tolist() == (found[128:] >> np.uint64(32)).tolist()


BOUNDARIES = [(0.0, 63.75), (0.0, 255.0), (0.3, 64.0), (-0.4999, 127.5), (0.125, 0.25), (0.25, 65536.0)]


@pytest.mark.parametrize(("part", "ratio"), BOUNDARIES)
def test_words_next_to_a_boundary_fall_on_its_right_side(part: float, ratio: float) -> None:
    place, exact_ratio = Fraction(part), Fraction(ratio)
    most = int(7 * ratio)  # farther out some cells have no word
    for n in [*range(-2, 3), *range(-most, most, max(1, most // 40))]:
        first = d.first_word(n, place, exact_ratio)
        words = [k for k in (first - 2, first - 1, first, first + 1) if 0 <= k < 2**64]
        expected = np.array([n - 1 + int(k >= first) for k in words])
        for k, q in zip(words, expected.tolist(), strict=True):
            assert d.lattice_point(k, place, exact_ratio) == q
            found, doubt = numba_kernels.settle_in_double(np.uint64(k), 0, part, ratio)
            assert doubt or found == q
            if part == 0:
                thresholds, least = d.thresholds(exact_ratio)
                assert least + np.searchsorted(thresholds, np.uint64(k), side="right") == q
        fast = _fast(np.array(words, np.uint64), part, ratio)
        assert np.all(np.isnan(fast) | (fast == expected))


@pytest.mark.parametrize(("part", "ratio"), [(0.0, 63.75), (0.0, 255.0), (0.3, 64.0), (-0.4999, 20.0)])
def test_ten_million_words_are_rounded_as_defined(part: float, ratio: float) -> None:
    top = int(d.reach() * ratio) + 2
    boundaries = [d.first_word(n, Fraction(part), Fraction(ratio)) for n in range(-top, top + 1)]
    table = np.array([t for t in boundaries if t < 2**64], np.uint64)
    marks = 0
    for draw in range(10):
        words = _whole_words(250_048, draw)
        expected = np.searchsorted(table, words, side="right") - top - 1
        fast = _fast(words, part, ratio)
        rare = np.isnan(fast)
        assert np.array_equal(fast[~rare], expected[~rare])
        for k, q in zip(words[rare], expected[rare], strict=True):
            found, doubt = numba_kernels.settle_in_double(k, 0, part, ratio)
            assert found == q
            assert not doubt
        marks += int(rare.sum())
    assert 0 < marks < 10 * 250_048 * (2 * TAIL / HALF + 1e-6 * ratio + 2e-6)


KERNELS = pytest.mark.parametrize(
    "kernel",
    [
        numba_kernels.by_polynomial,
        pytest.param(
            numba_kernels.by_table, marks=pytest.mark.skipif(not vectors.AVX512, reason="a processor with AVX-512")
        ),
    ],
    ids=["polynomial", "table"],
)


def _error(kernel: Callable[..., None], words: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """The largest error of a fast quantile beyond GROWTH |z|, whatever the lower 32 bits: z is in (low, high)."""
    found = _quantiles(words, kernel)
    return float((np.maximum(found - low, high - found) - GROWTH * np.abs(found)).max())


@KERNELS
def test_the_error_of_a_fast_quantile_is_below_its_bound_for_one_word_in_a_thousand(
    kernel: Callable[..., None],
) -> None:
    parts = [np.arange(first, first + 2**16) for first in (TAIL, HALF // 2 - 2**15, HALF - TAIL - 2**16)]
    for words in [*parts, *np.array_split(np.arange(TAIL, HALF - TAIL, 1021), 8)]:
        assert _error(kernel, words, ndtri(words / HALF), ndtri((words + 1) / HALF)) < ERROR


@KERNELS
def test_tails_have_no_fast_quantile(kernel: Callable[..., None]) -> None:
    """`by_table` has one word more, the mirror image of TAIL."""
    assert np.isnan(_quantiles(np.concatenate([np.arange(TAIL), HALF - np.arange(1, TAIL)]), kernel)).all()
    more = np.array([HALF - TAIL])
    assert (
        np.isnan(_quantiles(more, kernel)) or _error(kernel, more, ndtri(more / HALF), ndtri((more + 1) / HALF)) < ERROR
    )


@pytest.mark.slow
@KERNELS
def test_the_error_of_a_fast_quantile_is_below_its_bound_for_every_word(kernel: Callable[..., None]) -> None:
    """This proves ERROR for every processor: each operation is one of IEEE 754. Some half a minute.

    Between words 16 apart Phi^-1 moves by at most 2e-5 and is within |z| (2e-5)^2 / 8 < 1e-9 of a straight line.
    """
    size = 2**18
    for first in range(TAIL, HALF - TAIL, size):
        ends = ndtri(np.arange(first, first + size + 1, 16) / HALF)
        assert _first_beyond(_quantiles(np.arange(first, first + size, dtype=np.uint32), kernel), ends) is None, first


@njit
def _first_beyond(found: np.ndarray, ends: np.ndarray) -> int | None:
    """The first of `found` that is off by its bound or more; it is to lie between two places of a line from end to end
    of every 16."""
    for i in range(len(found)):
        start, slope = ends[i // 16], (ends[i // 16 + 1] - ends[i // 16]) / 16
        low = start + i % 16 * slope
        if not max(found[i] - low, low + slope - found[i]) < ERROR + GROWTH * abs(found[i]) - 1e-9:
            return i
    return None


@pytest.mark.parametrize("tail", [0, 1, 10, 2**20, 2**40, 2**63 - 1])
def test_the_quantile_in_double_is_exact_to_its_bound(tail: int) -> None:
    z = numba_kernels.quantile_64(np.uint64(tail))
    assert z == -numba_kernels.quantile_64(np.uint64(2**64 - 1 - tail))
    v = (tail + 0.5) * 2.0**-64
    assert abs(ndtr(z) / v - 1) * v * np.sqrt(2 * np.pi) * np.exp(z * z / 2) < numba_kernels.ERROR_64 / 100


def _chi_square(draws: int, ratio: float = 63.75) -> float:
    """p-value of the noise of `draws` values on the lattice, against rounded Gaussian noise."""
    columns = 2**18
    whole, part, out = np.zeros(columns, np.int32), np.zeros(columns, np.float32), np.empty((1, columns), np.float32)
    trusted, doubts = trust(Fraction(ratio), 0.0), np.empty((1, 2), np.int64)
    top = int(4 * ratio)  # the values beyond count together
    counts, rounds = np.zeros(2 * top + 1), -(-draws // columns)
    for draw in range(rounds):
        numba_kernels.fill(
            out, 1, draw, 11, 2**32 - 1, 3, np.float32(1), whole, part, part.astype(float), ratio, trusted, doubts,
        )  # fmt: skip
        counts += np.bincount(np.clip(out[0], -top, top).astype(np.int64) + top, minlength=2 * top + 1)
    edges = np.concatenate([[-np.inf], np.arange(-top, top) + 0.5, [np.inf]]) / ratio
    expected = rounds * columns * np.diff(ndtr(edges))
    assert expected.min() > 1
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 2 * top))


def test_ten_million_values_have_the_distribution_of_rounded_gaussian_noise() -> None:
    assert 1e-3 < _chi_square(10**7) < 1 - 1e-3


@pytest.mark.slow
def test_a_hundred_million_values_have_the_distribution_of_rounded_gaussian_noise() -> None:
    assert 1e-3 < _chi_square(10**8) < 1 - 1e-3


def test_kernels_work_where_nothing_can_be_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    assert numba_kernels.compiled(_plus_one)(1) == 2


def _plus_one(value: int) -> int:
    return value + 1


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton comes with the CUDA build of torch")
def test_the_gpu_kernel_draws_the_same_bits_in_tritons_interpreter() -> None:
    script = Path(__file__).with_name("noise_triton_check.py")
    subprocess.run([sys.executable, str(script)], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True)
