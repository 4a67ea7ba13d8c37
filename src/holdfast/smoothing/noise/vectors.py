"""The steps of the noise that compilers leave slow, written for vectors of sixteen: bits, quantile, memory format.

In a round of Philox a product waits for the one before; 32 blocks side by side fill the time, where a vectorized loop
has 16. The quantile finds its coefficients in a table: one instruction of AVX-512 reads sixteen of 32 numbers. Both are
for processors that have AVX512; `spread` is for all.
"""

# pyright: reportCallIssue=false
# numba passes the first argument of an intrinsic itself.

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

FEATURES = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES  # pyright: ignore
AVX512 = "+avx512f" in FEATURES.split(",")
"""Whether numba compiles for a processor that has it."""
TAIL = 2**18
"""Of 2^32: words this near to either end have no quantile here, |z| > 3.83."""
MARK = np.float32(np.nan)
"""Of a coordinate that float32 does not settle, and of Phi^-1 in the tails."""
# Phi^-1 of the words from TAIL to 2^31 on, by half octaves: coefficients of (mantissa - 1.25) for mantissas from 1 to
# 1.5, the second half octave of a word shifted down to them. Least squares as above, rounded from the last one on.
PIECES = (
    (-3.7868195, -3.7023365, -3.6108665, -3.5226557, -3.4269724, -3.334512, -3.2339981, -3.1366355, -3.0305107,
     -2.9274111, -2.8146648, -2.7047327, -2.5840197, -2.465771, -2.3352332, -2.2065752, -2.0635281, -1.9213508,
     -1.7616705, -1.6010087, -1.4177972, -1.2298588, -1.0099903, -0.77642179, -0.48877656, -0.15731071),
    (0.1988667, 0.1449344, 0.2074644, 0.1514616, 0.2172389, 0.1589219, 0.2284797, 0.1675557, 0.2415847, 0.1776988,
     0.257119, 0.1898357, 0.2759158, 0.2046967, 0.2992625, 0.2234418, 0.3292724, 0.2480438, 0.369703, 0.2821877,
     0.4280244, 0.3337464, 0.5218045, 0.4235484, 0.7061665, 0.6344591),
    (-0.0748584, -0.0388826, -0.0776854, -0.0404029, -0.0808404, -0.0421051, -0.0843873, -0.0440271, -0.0884093,
     -0.0462157, -0.093012, -0.0487324, -0.0983323, -0.0516551, -0.1045397, -0.0550787, -0.1118326, -0.059102,
     -0.1203599, -0.0637399, -0.1298384, -0.0684903, -0.1374618, -0.0696373, -0.1218282, -0.0316572),
    (0.038881, 0.014416, 0.040273, 0.014949, 0.041817, 0.015543, 0.043543, 0.016209, 0.045487, 0.016961, 0.047693,
     0.01782, 0.050223, 0.01881, 0.053154, 0.019961, 0.056588, 0.02132, 0.060661, 0.022941, 0.065575, 0.024935,
     0.071949, 0.027928, 0.08669, 0.044668),
    (-0.02389, -0.0062, -0.02472, -0.00642, -0.02563, -0.00667, -0.02665, -0.00694, -0.02779, -0.00725, -0.02908,
     -0.0076, -0.03054, -0.008, -0.03224, -0.00847, -0.03421, -0.00901, -0.03652, -0.00965, -0.03928, -0.01042,
     -0.04254, -0.01127, -0.04444, -0.00778),
    (0.01526, 0.00281, 0.01578, 0.00291, 0.01635, 0.00302, 0.01698, 0.00314, 0.01768, 0.00328, 0.01848, 0.00343,
     0.01938, 0.0036, 0.02042, 0.00381, 0.02162, 0.00404, 0.02303, 0.00432, 0.02469, 0.00465, 0.0267, 0.00506,
     0.02971, 0.00714),
)  # fmt: skip
TABLE = np.full((6, 32), MARK)
"""The column is bits 22 to 26 of a word as a float32: the last of its exponent, and the first of its mantissa."""
TABLE[:, 2:28] = PIECES
TABLE[:, 28] = 0  # of 2^31, where words next to it are rounded to

WORD, LANE = ir.IntType(32), ir.IntType(64)
WORDS, FLOATS, LANES = ir.VectorType(WORD, 16), ir.VectorType(ir.FloatType(), 16), ir.VectorType(LANE, 32)


def filled(kind, value):
    return ir.Constant(kind, [value] * kind.count)


def place(context, builder, array, value, i, kind):
    """Address of sixteen numbers of an array."""
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [i]), kind.as_pointer())


@intrinsic
def two_groups(typingctx, out, i, block, draw, index, purpose, k0, k1):  # pyright: ignore[reportUnusedParameter]
    """The upper or lower words of 32 blocks from `block` on into out[i:i+128]; see `definition`.

    Products of 32 bits stand in lanes of 64, and nothing clears the upper halves of what is not multiplied yet.
    """

    def rounds(context, builder, signature, args):
        def spread(word):
            one = builder.insert_element(ir.Constant(LANES, ir.Undefined), builder.zext(word, LANE), WORD(0))
            return builder.shuffle_vector(one, one, filled(ir.VectorType(WORD, 32), 0))

        def product(c, factor):
            return builder.mul(builder.and_(c, filled(LANES, 2**32 - 1)), filled(LANES, factor))

        c0, c1, c2, c3 = map(spread, args[2:6])
        c0, half = builder.add(c0, ir.Constant(LANES, [*range(32)])), filled(LANES, 32)
        for r in range(10):
            keys = zip(args[6:], (0x9E3779B9, 0xBB67AE85), strict=True)
            k0, k1 = (spread(builder.add(key, WORD(step * r % 2**32))) for key, step in keys)
            a, b = product(c0, 0xD2511F53), product(c2, 0xCD9E8D57)
            c0, c1 = builder.xor(builder.xor(builder.lshr(b, half), c1), k0), b
            c2, c3 = builder.xor(builder.xor(builder.lshr(a, half), c3), k1), a
        for k, c in enumerate((c0, c1, c2, c3)):
            c = builder.bitcast(c, ir.VectorType(WORD, 64))
            for group in range(2):
                lower = ir.Constant(WORDS, [*range(32 * group, 32 * group + 32, 2)])
                at = builder.add(args[1], args[1].type(64 * group + 16 * k))
                to = place(context, builder, signature.args[0], args[0], at, WORDS)
                builder.store(builder.shuffle_vector(c, c, lower), to, align=4)
        return context.get_dummy_value()

    return types.void(out, i, block, draw, index, purpose, k0, k1), rounds


@intrinsic
def look_up(typingctx, word, i, out):  # pyright: ignore[reportUnusedParameter]
    """Phi^-1 of the words from i to i + 15 by TABLE, or MARK in a tail."""

    def horner(context, builder, signature, args):
        def call(name, kinds, *operands):
            return builder.call(builder.module.declare_intrinsic(name, (), ir.FunctionType(FLOATS, kinds)), operands)

        words, to = (
            place(context, builder, signature.args[k], args[k], args[1], kind) for k, kind in ((0, WORDS), (2, FLOATS))
        )
        words = builder.load(words, align=4)
        size = builder.and_(builder.bitcast(builder.sitofp(words, FLOATS), WORDS), filled(WORDS, 2**31 - 1))
        least = filled(WORDS, int(np.float32(TAIL / 2).view(np.int32)))
        size = builder.select(builder.icmp_signed(">", size, least), size, least)
        column = builder.lshr(size, filled(WORDS, 22))
        mantissa = builder.or_(builder.and_(size, filled(WORDS, 2**22 - 1)), filled(WORDS, 0x3F800000))
        x = builder.fsub(builder.bitcast(mantissa, FLOATS), filled(FLOATS, 1.25))
        z = None
        for row in TABLE[::-1].tolist():
            low, high = ir.Constant(FLOATS, row[:16]), ir.Constant(FLOATS, row[16:])
            found = call("llvm.x86.avx512.vpermi2var.ps.512", [FLOATS, WORDS, FLOATS], low, column, high)
            z = found if z is None else call("llvm.fma.v16f32", [FLOATS] * 3, z, x, found)
        upper = builder.and_(words, filled(WORDS, -(2**31)))
        builder.store(builder.bitcast(builder.xor(builder.bitcast(z, WORDS), upper), FLOATS), to, align=4)
        return context.get_dummy_value()

    return types.void(word, i, out), horner


@intrinsic
def spread(typingctx, values, first, apart, out, at, channels):  # pyright: ignore[reportUnusedParameter]
    """out[at + p channels + c] = values[first + c apart + p] for four c and sixteen p."""

    def transpose(context, builder, signature, args):
        def unpack(a, b, ways):
            return (
                builder.shuffle_vector(a, b, ir.Constant(WORDS, [4 * part + k for part in range(4) for k in way]))
                for way in ways
            )

        def channel(k):
            at = builder.add(args[1], builder.mul(args[2], args[2].type(k)))
            return builder.load(place(context, builder, signature.args[0], args[0], at, FLOATS), align=4)

        single, double = ((0, 16, 1, 17), (2, 18, 3, 19)), ((0, 1, 16, 17), (2, 3, 18, 19))
        ab, cd = unpack(channel(0), channel(1), single), unpack(channel(2), channel(3), single)
        joined = [four for pair in zip(ab, cd, strict=True) for four in unpack(*pair, double)]
        for p in range(16):
            lanes = ir.Constant(ir.VectorType(WORD, 4), [*range(p // 4 * 4, p // 4 * 4 + 4)])
            four = builder.shuffle_vector(joined[p % 4], joined[p % 4], lanes)
            to = builder.add(args[4], builder.mul(args[5], args[5].type(p)))
            builder.store(four, place(context, builder, signature.args[3], args[3], to, four.type), align=4)
        return context.get_dummy_value()

    return types.void(values, first, apart, out, at, channels), transpose
