"""Inner loops of the distance operation on CPUs, over panels of constant width.

Four rows share each load of a panel; at p = 8 and inf they are a tile of registers (`tiles`). Powers are products only,
which is faster than exp and log; each exponent gets its own compiled kernel, kept on disk. Loops over LANES become
vector instructions; the numbers they share are read into variables first, so that the compiler knows that they stay.

The forward kernels take x (rows, inputs) and w (panel, inputs, LANES): their lanes are outputs. The backward kernels
take x (panel, rows, LANES) and w (panel, outputs, LANES): their lanes are inputs. Rows and the outputs of the backward
kernels are a multiple of ROWS.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from .tiles import NARROW, ROWS, WIDE, farther, lanes, load, plus_eighth, plus_seventh, store

LANES = 64
INPUTS = 1024
"""Inputs of a panel that stay in the cache while the forward kernels pass over the rows."""
OUTPUTS = 256
"""Outputs that stay in the cache, with their gradients, while the backward kernels pass over the rows."""

_compiled = njit(fastmath=True, nogil=True, cache=True, error_model="numpy")


@_compiled
def largest(w, y, x, one):
    """y = max(y, max_j |x_j - w_j|); `one` is a 1, see `farther`."""
    rows, inputs = x.shape
    for panel in range(len(w)):
        for first in range(0, inputs, INPUTS):
            for b in range(0, rows, ROWS):
                for o in range(0, LANES, lanes(x.itemsize, WIDE)):
                    here = (panel * rows + b) * LANES + o
                    top = load(y, here, LANES, WIDE)
                    for j in range(first, min(first + INPUTS, inputs)):
                        top = farther(top, x, b * inputs + j, inputs, w, (panel * inputs + j) * LANES + o, one)
                    store(top, y, here, LANES)


@_compiled
def eighth_powers(w, y, x):
    """Adds sum_j (x_j - w_j)^8 to y."""
    rows, inputs = x.shape
    for panel in range(len(w)):
        for first in range(0, inputs, INPUTS):
            for b in range(0, rows, ROWS):
                for o in range(0, LANES, lanes(x.itemsize, WIDE)):
                    here = (panel * rows + b) * LANES + o
                    total = load(y, here, LANES, WIDE)
                    for j in range(first, min(first + INPUTS, inputs)):
                        total = plus_eighth(total, x, b * inputs + j, inputs, w, (panel * inputs + j) * LANES + o)
                    store(total, y, here, LANES)


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
    rows, outputs = x.shape[1], w.shape[1]
    for panel in range(len(w)):
        for first in range(0, outputs, OUTPUTS):
            for b in range(0, rows, ROWS):
                for j in range(0, LANES, lanes(x.itemsize, NARROW)):
                    place = (panel * rows + b) * LANES + j
                    here, total = load(x, place, LANES, NARROW), load(grad_x, place, LANES, NARROW)
                    for o in range(first, min(first + OUTPUTS, outputs)):
                        row = (panel * outputs + o) * LANES + j
                        total = plus_seventh(total, here, w, grad_w, row, factor, o * rows + b)
                    store(total, grad_x, place, LANES)


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
