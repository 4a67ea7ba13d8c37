"""The noise of `Lattice` on CPUs: bits, quantile, rounding, conversion, a chunk at a time in the first cache.

Nearly every coordinate is settled in float32: Phi^-1 of the upper 32 bits is off by less than ERROR + GROWTH |z|,
whatever the lower bits are. Where that could change the rounding, and in the tails, the first loops leave a mark, so
that they have no rare branch and run in vector instructions; the last settles the marks with all 64 bits in float64,
and where even that is too near to a boundary it hands the coordinate to mpmath. So the result is that of `definition`,
bit for bit, on every processor.

Phi^-1 is a table of polynomials where one instruction finds sixteen numbers among 32, as in AVX-512, and elsewhere a
polynomial of a logarithm, which takes twice as many instructions. No `fastmath`: every operation rounds as IEEE 754
says and fma is fused everywhere. Then going through all 2^32 words on one machine proves the bound on the error of
either for every machine (tests/test_noise_kernels.py).
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# numba passes the first argument of an intrinsic itself.

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .vectors import AVX512, MARK, TAIL, look_up, spread, two_groups

CHUNK = 1024
"""Coordinates that go through all steps together: three buffers of 4 KiB."""
GROUP = 64
ERROR, GROWTH = 1.6e-7, 2.8e-7
"""Between the tails `quantiles` are off by less than ERROR + GROWTH |z|, whatever the 32 lower bits are."""
ERROR_64 = 2.0**-40
"""In units of z, far more than the error of `quantile_64`."""
DOUBTS = 256
"""Room for coordinates that only mpmath can decide, of which there is one in 10^12."""

f4, i4, u4, u8 = np.float32, np.int32, np.uint32, np.uint64
MAGIC, MAGIC_BITS = f4(1.5 * 2**23), i4(0x4B400000)
"""s + MAGIC has the integer nearest to s in its last bits, for |s| < 2^22."""
# Least squares at Chebyshev nodes: log2(1 + r) / r, and Phi^-1(u) / (2 u - 1) in log2(4 u (1 - u)) + 6.
LOG = tuple(map(f4, (
    1.4426948, -0.7213575, 0.48093224, -0.3600656, 0.28688693, -0.25048995, 0.23570254, -0.14302878,
)))  # fmt: skip
QUANTILE = tuple(map(f4, (
    2.679762, -0.22158387, -0.004960669, 6.227615e-05, 3.48436e-05, 3.3931474e-06, 1.04945734e-07, -1.5516125e-08,
    -2.4043398e-09, -8.5195295e-11, 1.0856602e-11, 9.18718e-13,
)))  # fmt: skip


def trust(ratio: Fraction, largest: float) -> tuple[np.float32, np.float32, np.float32]:
    """(ratio, close, slope) for `settle_most`: the ratio in float32, and how far from an integer s can be trusted.

    ratio |z| < (|s| + 1/2) (1 + 2^-20): a slope in |s| bounds what grows with |z|, the rounding of the ratio and of s;
    ERROR, x / h in float32 and this comparison add a constant. largest: the largest |x / h|.
    """
    single = np.float32(ratio)
    slope = 1.001 * (GROWTH + abs(float(Fraction(float(single)) / ratio - 1)) + 2**-24)
    margin = 1.001 * float(ratio) * ERROR + slope / 2 + 2**-22 + 2**-52 * largest
    return single, np.float32(0.5 - margin), np.float32(slope)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled when first called and kept on disk, unless neither the package nor the user's cache can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


@intrinsic
def fma(typingctx, a, b, c):  # pyright: ignore[reportUnusedParameter]
    """a * b + c, rounded once, in float32."""
    single = types.float32
    return single(single, single, single), lambda context, builder, signature, args: builder.fma(*args)


@intrinsic
def bits(typingctx, value):  # pyright: ignore[reportUnusedParameter]
    """The bits of a float32 as an int32, or back."""
    to, kind = (types.int32, ir.IntType(32)) if value == types.float32 else (types.float32, ir.FloatType())
    return to(value), lambda context, builder, signature, args: builder.bitcast(args[0], kind)


@intrinsic
def prefetch(typingctx, array, i):  # pyright: ignore[reportUnusedParameter]
    """Ask for the cache line of array[i], to write to it; the program is the same without."""

    def ask(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [data.type, number, number, number])
        told = builder.module.declare_intrinsic("llvm.prefetch", [data.type], kind)
        builder.call(told, [builder.gep(data, [args[1]]), number(1), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, i), ask


@njit(inline="always")
def philox(c0, c1, c2, c3, k0, k1):
    for _ in range(10):
        a, b = u8(0xD2511F53) * u8(c0), u8(0xCD9E8D57) * u8(c2)
        c0, c1, c2, c3 = u4(b >> u8(32)) ^ c1 ^ k0, u4(b), u4(a >> u8(32)) ^ c3 ^ k1, u4(a)
        k0, k1 = u4(k0 + u4(0x9E3779B9)), u4(k1 + u4(0xBB67AE85))
    return c0, c1, c2, c3


@compiled
def words(out, first, draw, index, purpose, k0, k1):
    """Half of the words of coordinates `first` on; both are multiples of GROUP."""
    pairs = len(out) // (2 * GROUP) if AVX512 else 0
    for pair in range(pairs):
        block = u4(first // 4 + pair * 32)
        two_groups(out, pair * 2 * GROUP, block, u4(draw), u4(index), u4(purpose), u4(k0), u4(k1))
    for group in range(2 * pairs, len(out) // GROUP):
        block, here = u4(first // 4 + group * 16), group * GROUP
        for i in range(16):
            a, b, c, d = philox(u4(block + u4(i)), u4(draw), u4(index), u4(purpose), u4(k0), u4(k1))
            out[here + i], out[here + 16 + i], out[here + 32 + i], out[here + 48 + i] = a, b, c, d


@njit(inline="always")
def one_word(j, draw, index, k0, k1):
    """All 64 bits of coordinate j."""
    block, lane = u4(j // 64 * 16 + j % 16), j // 16 % 4
    a, b, c, d = philox(block, u4(draw), u4(index), u4(0), u4(k0), u4(k1))
    high = a if lane == 0 else b if lane == 1 else c if lane == 2 else d
    a, b, c, d = philox(block, u4(draw), u4(index), u4(1), u4(k0), u4(k1))
    low = a if lane == 0 else b if lane == 1 else c if lane == 2 else d
    return (u8(high) << u8(32)) | u8(low)


@njit(inline="always")
def quantile(word):
    """Phi^-1((word + 1/2) / 2^32) in float32, or MARK in a tail.

    With u = (word + 1/2) / 2^32: Phi^-1(u) = (2 u - 1) p(log 4 u (1 - u)), and p is smooth (Giles, "Approximating the
    erfinv function", 2010).
    """
    signed = i4(word ^ u4(0x80000000))
    tail = i4(word ^ u4(i4(word) >> i4(31)))
    x, t = f4(signed) * f4(2.0**-31), (f4(tail) + f4(0.5)) * f4(2.0**-31)
    y = t * (f4(2) - t)
    exponent = i4(i4(bits(y) - i4(0x3F3504F3)) >> i4(23))  # of a mantissa between sqrt(1/2) and sqrt(2)
    r = bits(i4(bits(y) - i4(exponent << i4(23)))) - f4(1)
    p = fma(LOG[7], r, LOG[6])
    p = fma(fma(fma(p, r, LOG[5]), r, LOG[4]), r, LOG[3])
    p = fma(fma(fma(p, r, LOG[2]), r, LOG[1]), r, LOG[0])
    s = fma(p, r, f4(exponent) + f4(6))
    q = fma(fma(QUANTILE[11], s, QUANTILE[10]), s, QUANTILE[9])
    q = fma(fma(fma(q, s, QUANTILE[8]), s, QUANTILE[7]), s, QUANTILE[6])
    q = fma(fma(fma(q, s, QUANTILE[5]), s, QUANTILE[4]), s, QUANTILE[3])
    q = fma(fma(fma(q, s, QUANTILE[2]), s, QUANTILE[1]), s, QUANTILE[0])
    return x * q if tail >= i4(TAIL) else MARK


@compiled
def by_polynomial(word, out):
    """`quantile` of every word."""
    for i in range(len(word)):
        out[i] = quantile(word[i])


@compiled
def by_table(word, out):
    """The same by TABLE, of a multiple of 16 words."""
    for i in range(0, len(word), 16):
        look_up(word, i, out)


quantiles = by_table if AVX512 else by_polynomial


@compiled
def settle_most(z, whole, part, ratio, close, slope, divisor, out):
    """floor(whole + part + ratio z + 1/2) / divisor, or MARK where s = part + ratio z is farther than close - slope |s|
    from an integer or z is a MARK. Arrays have at least the length of `out`. Returns whether there is a mark."""
    unsure, exact = i4(0), bits(divisor) & i4(0x7FFFFF) == 0
    factor = f4(1) / divisor
    for i in range(len(out)):
        s = fma(ratio, z[i], part[i])
        t = s + MAGIC
        q = f4(i4(bits(t) - MAGIC_BITS + whole[i]))
        rare = not abs(s - (t - MAGIC)) <= fma(slope, -abs(s), close)
        out[i] = MARK if rare else q * factor if exact else q / divisor
        unsure = i4(unsure | -i4(rare))  # numba would go on in 64 bits, at two thirds of the speed
    return unsure != 0


@compiled
def quantile_64(k):
    """Phi^-1((k + 1/2) / 2^64) in float64: Newton's method on log Phi, which is concave, from below."""
    mirrored = k >= u8(1) << u8(63)
    v = (float(~k if mirrored else k) + 0.5) * 2.0**-64
    z, step = -math.sqrt(-2 * math.log(v)), 1.0
    while step > 1e-9:
        p = 0.5 * math.erfc(-z * math.sqrt(0.5))
        step = math.log(v / p) * p * math.sqrt(2 * math.pi) * math.exp(0.5 * z * z)
        z += step
    return -z if mirrored else z


@compiled
def settle_in_double(k, whole, part, ratio):
    """(floor(whole + part + ratio z + 1/2), whether rounding errors leave a doubt)."""
    s = part + ratio * quantile_64(k)
    n = math.floor(s + 0.5)
    return i4(whole + n), 0.5 - abs(s - n) <= ratio * ERROR_64 + 2.0**-50 * (abs(whole) + abs(s) + 1)


@njit(inline="always")
def marked(values):
    """Whether there is a MARK; indices from zero on cannot be negative, so that this runs in vector instructions."""
    marks = i4(0)
    for i in range(len(values)):
        marks = i4(marks | -i4(values[i] != values[i]))
    return marks != 0


@compiled
def settle_marks(out, row, start, draw, index, k0, k1, divisor, whole, part, ratio, doubts, found):
    """Replace every MARK among the coordinates from `start` on; returns `found` plus the number of new doubts."""
    for group in range(0, len(out), GROUP):
        if not marked(out[group : group + GROUP]):
            continue
        for i in range(group, min(group + GROUP, len(out))):
            if out[i] == out[i]:
                continue
            j = start + i
            k = one_word(j, draw, index, k0, k1)
            q, doubt = settle_in_double(k, whole[j], part[j], ratio)
            out[i] = f4(q) / divisor
            if doubt and found < len(doubts):
                doubts[found, 0], doubts[found, 1] = row, j
            found += int(doubt)
    return found


@compiled
def fill(out, channels, draw, index, k0, k1, divisor, whole, part, part_64, ratio, trusted, doubts):
    """Write draws `draw`, `draw` + 1, ... into the rows of `out` (rows, d) in float32: see `numba_cpu.LatticeStream`.

    Coordinate j of d = channels x positions, in C order, stands at (j mod positions) channels + j div positions.
    whole, part, part_64: x / h as integer and rest, padded to a multiple of GROUP; trusted: see `trust`.
    Returns how many coordinates mpmath must decide; `doubts` takes (row, coordinate) of as many as fit.
    """
    word, z, found = np.empty(CHUNK, u4), np.empty(CHUNK, f4), 0
    single, close, slope = trusted
    kept = np.empty(0 if channels == 1 else out.shape[1], f4)
    for row in range(len(out)):
        here = out[row] if channels == 1 else kept
        for start in range(0, len(whole), CHUNK):
            n = min(CHUNK, len(whole) - start)
            fetch(out[row], start, start + n // 3)
            words(word[:n], start, draw + row, index, 0, k0, k1)
            fetch(out[row], start + n // 3, start + 2 * n // 3)
            quantiles(word[:n], z[:n])
            fetch(out[row], start + 2 * n // 3, start + n)
            settled = here[start : start + n]  # without the padding
            if settle_most(z, whole[start:], part[start:], single, close, slope, divisor, settled):
                found = settle_marks(
                    settled, row, start, draw + row, index, k0, k1, divisor, whole, part_64, ratio, doubts, found
                )  # fmt: skip
        if channels > 1:
            interleave(kept, channels, out[row])
    return found


@njit(inline="always")
def fetch(out, start, stop):
    """Bring a part of a row that was not used for long into the first cache, while other work is done.

    A few cache lines at a time, for a processor waits where it is asked for more than some twenty at once.
    """
    for i in range(start, min(stop, len(out)), 16):
        prefetch(out, i)


@compiled
def interleave(values, channels, out):
    """Whole channels, one after another, into memory with the channels innermost: four at a time, for a number at a
    time costs as much as drawing it. The last four, or sixteen positions, repeat some of those before."""
    positions = len(out) // channels
    if channels == 3:
        join_three(values[:positions], values[positions : 2 * positions], values[2 * positions :], out)
    elif channels > 3 and positions >= 16:
        for p in range(0, positions, 16):
            p = min(p, positions - 16)
            for c in range(0, channels, 4):
                c = min(c, channels - 4)
                spread(values, c * positions + p, positions, out, p * channels + c, channels)
    else:
        for channel in range(channels):
            out[channel::channels] = values[channel * positions : (channel + 1) * positions]


@njit(inline="always")
def join_three(a, b, c, out):
    for i in range(len(a)):
        out[3 * i], out[3 * i + 1], out[3 * i + 2] = a[i], b[i], c[i]
