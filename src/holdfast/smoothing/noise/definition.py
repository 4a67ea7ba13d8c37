"""What the noisy images of `Lattice` are, by mathematics: slow, in integers and mpmath, judge of the kernels.

Let h = 1 / divisor be the step of a lattice. Coordinate j of a noisy copy of x is float32(q) / divisor with

    q = floor((x_j + sigma Phi^-1((k + 1/2) / 2^64)) / h + 1/2),

k a uniform word of 64 bits. Phi increases: q >= n exactly where k + 1/2 >= 2^64 Phi((n - 1/2 - x_j / h) h / sigma), so
that no inverse is needed to decide. The words come from Philox-4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011) with key = the 64 bits of the seed and counter = (block, draw, index, purpose):
of every 64 coordinates in C order, four that lie 16 apart share a block, so that 16 blocks side by side fill a vector
register. Purpose 0 gives the upper halves of the words, purpose 1 the lower halves.

With k real instead of an integer the noise would be exactly Gaussian (specification of randomized smoothing: Cohen,
Rosenfeld & Kolter 2019); `total_variation` bounds what the 64 bits take away.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import mpmath
import numpy as np
from jaxtyping import UInt64
from scipy.special import ndtri

from ...core.certifier import Seed

BITS = 64
PRECISION = 200
"""Bits of mpmath: a boundary would have to lie within 2^-100 of a word before its rounding could matter."""
GROUP = 64
"""Coordinates that share 16 blocks of the generator."""
LARGEST = 2**22
"""The last k for which float32(k) / divisor is nearer to k h than to its neighbors, whatever the divisor."""
DELTA = 1e-9
"""The least distance in total variation that certificates are charged for: one number for images of any shape."""


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox-4x32-10: four words of 32 bits for a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c3 ^ k1, a & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def word(coordinate: int, draw: int, seed: Seed) -> int:
    """The 64 random bits of one coordinate of one draw."""
    group, place = divmod(coordinate, GROUP)
    lane, i = divmod(place, 16)
    key = seed.seed & 0xFFFFFFFF, seed.seed >> 32
    high, low = (philox((16 * group + i, draw, seed.example, purpose), key)[lane] for purpose in (0, 1))
    return high << 32 | low


def place(x: float, divisor: float) -> Fraction:
    """x / h: an integer k for x = float32(k) / divisor, which stands for the real number k h; else x as it is."""
    k = round(Fraction(x) * Fraction(divisor))
    on = abs(k) <= LARGEST and x == float(np.float32(k) / np.float32(divisor))
    return Fraction(k) if on else Fraction(x) * Fraction(divisor)


def first_word(n: int, place: Fraction, ratio: Fraction, bits: int = BITS) -> int:
    """The least word that gives q >= n at place = x / h under noise of ratio = sigma / h; 2^bits if there is none."""
    boundary = (n - Fraction(1, 2) - place) / ratio
    with mpmath.workprec(PRECISION):
        p = mpmath.ncdf(mpmath.mpf(boundary.numerator) / boundary.denominator)
        return int(mpmath.ceil(mpmath.ldexp(p, bits) - mpmath.mpf(0.5)))


def lattice_point(k: int, place: Fraction, ratio: Fraction, bits: int = BITS) -> int:
    """q of the word k: the largest n whose first word is at most k."""
    u = (k + 0.5) / 2**bits if k < 2 ** (bits - 1) else (2**bits - k - 0.5) / 2**bits
    z = float(ndtri(u)) * (1 if k < 2 ** (bits - 1) else -1)
    n = math.floor(place + Fraction(z) * ratio + Fraction(1, 2))  # close; the words decide
    while k >= first_word(n + 1, place, ratio, bits):
        n += 1
    while k < first_word(n, place, ratio, bits):
        n -= 1
    return n


def noisy(x: Sequence[float], sigma: float, divisor: float, seed: Seed, draw: int) -> list[int]:
    """q of every coordinate of one draw, x in C order."""
    ratio = Fraction(sigma) * Fraction(divisor)
    places = [place(value, divisor) for value in x]
    return [lattice_point(word(j, draw, seed), at, ratio) for j, at in enumerate(places)]


@lru_cache(maxsize=8)
def thresholds(ratio: Fraction, bits: int = BITS) -> tuple[UInt64[np.ndarray, " boundary"], int]:
    """The noise of an image on the lattice, q - x / h, without floating point: (words, n) such that a word k gives n
    plus the number of entries that are at most k."""
    top = math.ceil(reach(bits) * ratio)
    lower = [first_word(-m, Fraction(0), ratio, bits) for m in range(top, -1, -1)]
    upper = [2**bits - t for t in lower[::-1]]  # the words of z and -z add up to 2^bits - 1
    return np.array([t for t in lower + upper if t < 2**bits], dtype=np.uint64), -top - 1


def reach(bits: int = BITS) -> float:
    """t with Phi(-t) <= exp(-t^2 / 2) / 2 = 2^-(bits + 1): no word gives a larger |z|."""
    return math.sqrt(2 * math.log(2) * bits) * (1 + 1e-12)


def total_variation(ratio: float, dimensions: int, bits: int = BITS) -> float:
    """At least the distance in total variation between the lattice noise and rounded real Gaussian noise.

    The words of a cell are its share of 2^bits but for less than one, there are 2 t ratio + 2 cells with |z| <= t, and
    the real noise beyond t = `reach` has 2^-bits. Half of the sum of all that is the distance in one coordinate;
    distances of independent coordinates add up.
    """
    return math.ldexp(dimensions * (2 * reach(bits) * ratio + 3), -bits) * (1 + 1e-12)
