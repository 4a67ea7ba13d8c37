"""The kernels of the distance operations for CPUs: inner loops, and as PyTorch sees them: padding, panels, threads.

For float32 and float64; the l_p distance for p even or inf. Inputs are padded and cut into panels whose last axis has
LANES numbers, so that every inner loop has a constant length and no remainder, and a panel stays in the second-level
cache. Padding adds |0 - 0| = 0 to a distance. The panels are shared out over `torch.get_num_threads()` threads; a
kernel runs without the interpreter lock.

Four rows share each load of a panel; at p = 8 and inf they are a tile of registers (`tiles`). Powers are products only,
which is faster than exp and log; each exponent gets its own compiled kernel, kept on disk. Loops over LANES become
vector instructions; the numbers they share are read into variables first, so that the compiler knows that they stay.

The forward kernels take x (rows, inputs) and w (panel, inputs, LANES): their lanes are outputs. The backward kernels
take x (panel, rows, LANES) and w (panel, outputs, LANES): their lanes are inputs. Rows and the outputs of the backward
kernels are a multiple of ROWS.

The sorted distance keeps the largest differences in order in registers while inputs pass: each difference sinks through
the list, largest first, by a maximum and a minimum at each place. All outputs see the same operations in the same
order, whatever the batch.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from .tiles import (
    BYTES,
    NARROW,
    ROWS,
    WIDE,
    farther,
    lanes,
    load,
    plus_eighth,
    plus_seventh,
    store,
    store_sum,
    sunk,
    zeros,
)

LANES = 64
INPUTS = 1024
"""Inputs of a panel that stay in the cache while the forward kernels pass over the rows."""
OUTPUTS = 256
"""Outputs that stay in the cache, with their gradients, while the backward kernels pass over the rows."""

_compiled = njit(fastmath=True, nogil=True, cache=True, error_model="numpy")


@_compiled
def largest_difference(w, y, x, one):
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


NEGLIGIBLE = 2.0**-60
"""Terms smaller than this beside the largest one are dropped: they would only cost denormal arithmetic."""
SMALLEST = 2.0**-16
"""Distances below this fraction of the largest input have no gradient at p = 8: float32 cannot hold their powers."""


def supports(x: Tensor, p: float) -> bool:
    """Whether these kernels compute this case."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and (p == math.inf or p % 2 == 0)


def forward(x: Tensor, w: Tensor, p: float) -> Tensor:
    """See `eager.forward`."""
    rows, panels, largest = _pad(x, ROWS, 1), _output_panels(w), _largest(x, w)
    y = x.new_zeros(len(panels), len(rows), LANES)
    if p == 8:
        scale = _scale(largest)
        _share(eighth_powers, [panels.div_(scale), y], rows / scale)
        y = y.sqrt_().sqrt_().sqrt_().mul_(scale)
    else:
        _share(largest_difference, [panels, y], rows, rows.new_ones(1))
    if 8 != p < math.inf:
        total = torch.zeros_like(y)
        _share(powers(int(p)), [panels, _inverse(y), total], rows, NEGLIGIBLE ** (1 / p))
        y *= total.pow_(1 / p)
    y = _join(y, len(x), len(w))
    return y if largest < math.inf else y + _nan_if_not_finite(x) + _nan_if_not_finite(w).T


def backward(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """See `eager.backward`."""
    scale = _scale(_largest(x, w))
    x_panels, w_panels, y = _input_panels(x / scale), _input_panels(w / scale), y / scale
    grad_x, grad_w = torch.zeros_like(x_panels), torch.zeros_like(w_panels)
    results = [x_panels, w_panels, grad_x, grad_w]
    if p == 8:
        inverse = torch.where(y > SMALLEST, 1 / y, 0)
        square = inverse * inverse
        factor = grad * inverse * square * (square * square)
        _share(eighth_slopes, results, _pad(factor, ROWS, ROWS).T.contiguous())
    else:
        factors = [_pad(factor, ROWS, ROWS).T.contiguous() for factor in (grad, _inverse(y))]
        _share(slopes(int(p) - 1), results, *factors, NEGLIGIBLE ** (1 / (p - 1)))
    return _join(grad_x, *x.shape), _join(grad_w, *w.shape)


def farthest(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """See `eager.farthest`; y is the distance at p = inf."""
    rows, panels = _pad(x, ROWS, 1), _output_panels(w)
    found = torch.zeros(len(panels), len(rows), LANES, dtype=torch.int32)
    distance = _pad(y, ROWS, LANES).view(len(rows), -1, LANES).transpose(0, 1).contiguous()
    _share(first_equal, [panels, distance, found], rows)
    return _join(found, len(x), len(w)).long()


def _share(kernel: Callable[..., None], panels: list[Tensor], *rest: Tensor | float) -> None:
    """Call a kernel on the panels, a part of them on each thread."""
    threads = min(torch.get_num_threads(), len(panels[0]))
    parts = zip(*(np.array_split(panel.numpy(), threads) for panel in panels), strict=True)
    common = [value.numpy() if isinstance(value, Tensor) else value for value in rest]
    if threads == 1:
        kernel(*next(parts), *common)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(kernel, *part, *common) for part in parts]:
            done.result()


def _pad(value: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros at the end of both axes, up to multiples of `rows` and `columns`; no copy where nothing is missing."""
    missing = (0, -value.shape[1] % columns, 0, -value.shape[0] % rows)
    return (F.pad(value.detach(), missing) if any(missing) else value.detach()).contiguous()


def _output_panels(w: Tensor) -> Tensor:
    """(outputs, inputs) -> (panel, inputs, LANES), a copy: neighbouring outputs side by side."""
    padded = _pad(w, LANES, 1)
    return padded.view(-1, LANES, padded.shape[1]).transpose(1, 2).contiguous()


def _input_panels(value: Tensor) -> Tensor:
    """(rows, inputs) -> (panel, rows, LANES): neighbouring inputs side by side."""
    padded = _pad(value, ROWS, LANES)
    return padded.view(len(padded), -1, LANES).transpose(0, 1).contiguous()


def _join(panels: Tensor, rows: int, columns: int) -> Tensor:
    """(panel, rows, LANES) -> (rows, columns), without the padding."""
    return panels.transpose(0, 1).flatten(1)[:rows, :columns].contiguous()


def _largest(x: Tensor, w: Tensor) -> float:
    """The largest absolute value; NaN if there is one."""
    return torch.stack([*x.aminmax(), *w.aminmax()]).abs().max().item()


def _scale(largest: float) -> float:
    """The power of two next to the largest number: dividing by it is exact and keeps eighth powers in range."""
    return 2.0 ** math.frexp(largest)[1] if 0 < largest < math.inf else 1.0


def _inverse(y: Tensor) -> Tensor:
    return torch.where(y > 0, 1 / y, 0)


def _nan_if_not_finite(value: Tensor) -> Tensor:
    """(rows, 1): 0, but NaN in a row that holds NaN or inf, for which the compiled kernels promise nothing."""
    return (value * 0).sum(dim=1, keepdim=True)


def sorted_sums(below: Tensor, above: Tensor, w: Tensor, weights: list[float]) -> Tensor:
    """(batch, outputs): the weighted sums of the largest of max(below - w, w - above, 0), the largest first."""
    padded = _pad(w, width := BYTES // w.itemsize, 1)
    panels = padded.view(-1, width, padded.shape[1]).transpose(1, 2).contiguous()
    y = below.new_zeros(len(panels), len(below), width)
    factors = torch.tensor(weights, dtype=below.dtype)
    _share(_sorted_kernel(len(weights)), [panels, y], _pad(below, 1, 1), _pad(above, 1, 1), factors)
    found = _join(y, len(below), len(w))
    return found + _nan_if_not_finite(below + above) + _nan_if_not_finite(w).T


@cache
def _sorted_kernel(terms: int) -> Callable[..., None]:
    """The kernel that keeps so many differences."""

    @njit(nogil=True, cache=True, error_model="numpy")
    def kernel(w, y, below, above, weights):
        rows, inputs = below.shape
        width = w.shape[2]
        for panel in range(len(w)):
            for b in range(rows):
                ordered = zeros(w, terms)
                for j in range(inputs):
                    ordered = sunk(ordered, below, above, b * inputs + j, w, (panel * inputs + j) * width)
                store_sum(ordered, weights, y, (panel * rows + b) * width)

    return kernel
