"""Inner loops of the distance operation on CPUs, over panels of constant width.

Four rows share each load of a panel. Powers are products only, which is faster than exp and log; each exponent gets its
own compiled kernel, kept on disk. Loops over LANES become vector instructions; the numbers they share are
read into variables first, so that the compiler knows that they stay.

The forward kernels take x (rows, inputs) and w (panel, inputs, LANES): their lanes are outputs. The backward kernels
take x (panel, rows, LANES) and w (panel, outputs, LANES): their lanes are inputs. Rows and the outputs of the backward
kernels are a multiple of ROWS, the inputs of the forward kernels a multiple of DEPTH.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

LANES = 64
ROWS = 4
DEPTH = 4
"""Inputs that `largest` takes together."""
INPUTS = 1024
"""Inputs of a panel that stay in the cache while the forward kernels pass over the rows; a multiple of DEPTH."""
OUTPUTS = 256
"""Outputs that stay in the cache, with their gradients, while the backward kernels pass over the rows."""

_compiled = njit(fastmath=True, nogil=True, cache=True, error_model="numpy")


@_compiled
def largest(w, y, x):
    """y = max(y, max_j |x_j - w_j|)."""
    top = np.empty((ROWS, LANES), x.dtype)
    for panel in range(len(w)):
        for first in range(0, x.shape[1], INPUTS):
            for b in range(0, len(x), ROWS):
                top[:] = y[panel, b : b + ROWS]
                for j in range(first, min(first + INPUTS, x.shape[1]), 4):
                    x00, x01, x02, x03 = x[b, j], x[b, j + 1], x[b, j + 2], x[b, j + 3]
                    x10, x11, x12, x13 = x[b + 1, j], x[b + 1, j + 1], x[b + 1, j + 2], x[b + 1, j + 3]
                    x20, x21, x22, x23 = x[b + 2, j], x[b + 2, j + 1], x[b + 2, j + 2], x[b + 2, j + 3]
                    x30, x31, x32, x33 = x[b + 3, j], x[b + 3, j + 1], x[b + 3, j + 2], x[b + 3, j + 3]
                    for o in range(LANES):
                        w0, w1, w2, w3 = w[panel, j, o], w[panel, j + 1, o], w[panel, j + 2, o], w[panel, j + 3, o]
                        top[0, o] = max(top[0, o], _max4(x00 - w0, x01 - w1, x02 - w2, x03 - w3))
                        top[1, o] = max(top[1, o], _max4(x10 - w0, x11 - w1, x12 - w2, x13 - w3))
                        top[2, o] = max(top[2, o], _max4(x20 - w0, x21 - w1, x22 - w2, x23 - w3))
                        top[3, o] = max(top[3, o], _max4(x30 - w0, x31 - w1, x32 - w2, x33 - w3))
                y[panel, b : b + ROWS] = top


@_compiled
def eighth_powers(w, y, x):
    """Adds sum_j (x_j - w_j)^8 to y."""
    total = np.empty((ROWS, LANES), x.dtype)
    for panel in range(len(w)):
        for first in range(0, x.shape[1], INPUTS):
            for b in range(0, len(x), ROWS):
                total[:] = y[panel, b : b + ROWS]
                for j in range(first, min(first + INPUTS, x.shape[1]), 2):
                    x00, x01, x10, x11 = x[b, j], x[b, j + 1], x[b + 1, j], x[b + 1, j + 1]
                    x20, x21, x30, x31 = x[b + 2, j], x[b + 2, j + 1], x[b + 3, j], x[b + 3, j + 1]
                    for o in range(LANES):
                        w0, w1 = w[panel, j, o], w[panel, j + 1, o]
                        total[0, o] += _eighth(x00 - w0) + _eighth(x01 - w1)
                        total[1, o] += _eighth(x10 - w0) + _eighth(x11 - w1)
                        total[2, o] += _eighth(x20 - w0) + _eighth(x21 - w1)
                        total[3, o] += _eighth(x30 - w0) + _eighth(x31 - w1)
                y[panel, b : b + ROWS] = total


@cache
def powers(p: int) -> Callable[..., None]:
    """The kernel of y = sum_j t^p with t = max(|x_j - w_j| * inverse, cut)."""

    @_compiled
    def kernel(w, inverse, y, x, cut):
        total, scale = np.empty((ROWS, LANES), x.dtype), np.empty((ROWS, LANES), x.dtype)
        cut = x.dtype.type(cut)
        for panel in range(len(w)):
            for b in range(0, len(x), ROWS):
                total[:] = 0
                scale[:] = inverse[panel, b : b + ROWS]
                for j in range(x.shape[1]):
                    x0, x1, x2, x3 = x[b, j], x[b + 1, j], x[b + 2, j], x[b + 3, j]
                    for o in range(LANES):
                        w0 = w[panel, j, o]
                        total[0, o] += _power(max(abs(x0 - w0) * scale[0, o], cut), p)
                        total[1, o] += _power(max(abs(x1 - w0) * scale[1, o], cut), p)
                        total[2, o] += _power(max(abs(x2 - w0) * scale[2, o], cut), p)
                        total[3, o] += _power(max(abs(x3 - w0) * scale[3, o], cut), p)
                y[panel, b : b + ROWS] = total

    return kernel


@_compiled
def eighth_slopes(x, w, grad_x, grad_w, factor):
    """Adds factor (outputs, rows) * (x - w)^7 to grad_x and subtracts it from grad_w."""
    here, sums = np.empty((ROWS, LANES), x.dtype), np.empty((ROWS, LANES), x.dtype)
    for panel in range(len(w)):
        for first in range(0, w.shape[1], OUTPUTS):
            for b in range(0, x.shape[1], ROWS):
                here[:] = x[panel, b : b + ROWS]
                sums[:] = grad_x[panel, b : b + ROWS]
                for o in range(first, min(first + OUTPUTS, w.shape[1])):
                    f0, f1, f2, f3 = factor[o, b], factor[o, b + 1], factor[o, b + 2], factor[o, b + 3]
                    for j in range(LANES):
                        w0 = w[panel, o, j]
                        s0, s1 = f0 * _seventh(here[0, j] - w0), f1 * _seventh(here[1, j] - w0)
                        s2, s3 = f2 * _seventh(here[2, j] - w0), f3 * _seventh(here[3, j] - w0)
                        sums[0, j] += s0
                        sums[1, j] += s1
                        sums[2, j] += s2
                        sums[3, j] += s3
                        grad_w[panel, o, j] -= (s0 + s1) + (s2 + s3)
                grad_x[panel, b : b + ROWS] = sums


@cache
def slopes(exponent: int) -> Callable[..., None]:
    """As `eighth_slopes`, with grad * t^exponent where |t| > cut, t = (x - w) * inverse; the exponent is odd."""

    @_compiled
    def kernel(x, w, grad_x, grad_w, grad, inverse, cut):
        here, sums = np.empty((ROWS, LANES), x.dtype), np.empty((ROWS, LANES), x.dtype)
        zero, cut = x.dtype.type(0), x.dtype.type(cut)
        for panel in range(len(w)):
            for first in range(0, w.shape[1], OUTPUTS):
                for b in range(0, x.shape[1], ROWS):
                    here[:] = x[panel, b : b + ROWS]
                    sums[:] = grad_x[panel, b : b + ROWS]
                    for o in range(first, min(first + OUTPUTS, w.shape[1])):
                        g0, g1, g2, g3 = grad[o, b], grad[o, b + 1], grad[o, b + 2], grad[o, b + 3]
                        r0, r1, r2, r3 = inverse[o, b], inverse[o, b + 1], inverse[o, b + 2], inverse[o, b + 3]
                        for j in range(LANES):
                            w0 = w[panel, o, j]
                            t0, t1 = (here[0, j] - w0) * r0, (here[1, j] - w0) * r1
                            t2, t3 = (here[2, j] - w0) * r2, (here[3, j] - w0) * r3
                            s0 = g0 * _power(t0 if abs(t0) > cut else zero, exponent)
                            s1 = g1 * _power(t1 if abs(t1) > cut else zero, exponent)
                            s2 = g2 * _power(t2 if abs(t2) > cut else zero, exponent)
                            s3 = g3 * _power(t3 if abs(t3) > cut else zero, exponent)
                            sums[0, j] += s0
                            sums[1, j] += s1
                            sums[2, j] += s2
                            sums[3, j] += s3
                            grad_w[panel, o, j] -= (s0 + s1) + (s2 + s3)
                    grad_x[panel, b : b + ROWS] = sums

    return kernel


@_compiled
def first_equal(w, y, found, x):
    """found = the first j at which |x_j - w_j| = y; 0 where there is none."""
    for panel in range(len(w)):
        for b in range(len(x)):
            for j in range(x.shape[1] - 1, -1, -1):
                x0 = x[b, j]
                for o in range(LANES):
                    if abs(x0 - w[panel, j, o]) == y[panel, b, o]:
                        found[panel, b, o] = j


@_compiled
def _power(base, exponent):
    """base^exponent, from the exponent's binary digits, the highest one first; unrolled, since it is known."""
    power, digit = base, 1
    while digit * 2 <= exponent:
        digit *= 2
    while digit > 1:
        digit //= 2
        power *= power
        if exponent & digit:
            power *= base
    return power


@_compiled
def _max4(a, b, c, d):
    return max(max(abs(a), abs(b)), max(abs(c), abs(d)))


@_compiled
def _eighth(t):
    square = t * t
    fourth = square * square
    return fourth * fourth


@_compiled
def _seventh(t):
    square = t * t
    return t * square * (square * square)
