"""The distance kernels for GPUs: one tile of outputs in registers per program, one step per input.

No tensor core computes a maximum, so the floating-point units are the limit: 2 instructions per pair of numbers at
p = inf, a difference and a maximum that takes absolute values for nothing. Inputs come transposed, (inputs, batch) and
(inputs, outputs), so that a step loads two contiguous vectors for a whole tile; with 2 warps a thread holds 32 x 2
results of a tile and reads x and w from shared memory, 16 bytes at a time. Integer powers are products, unrolled when
the kernel is compiled; other exponents take exp2 and log2. Gradients for x and for w are the same kernel with the roles
exchanged: no atomics, so results are reproducible. Those of p = inf are scattered by torch, which on a GPU is not.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
# Triton comes with the CUDA build of torch only, and launches a kernel as kernel[grid](...).

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64
WARPS = 2
STAGES = tl.constexpr(3)
"""Steps whose loads are in flight."""
LARGEST_CHAIN = 1024
"""The largest integer exponent that is compiled into products."""


def supports(x: Tensor, p: float) -> bool:
    """Whether these kernels compute this case."""
    return x.dtype in (torch.float32, torch.float64)


def forward(x: Tensor, w: Tensor, p: float) -> Tensor:
    """See `eager.forward`."""
    y = x.new_empty(len(x), len(w))
    transposed, grid = (x.T.contiguous(), w.T.contiguous()), _grid(y)
    with torch.cuda.device_of(x):  # else Triton takes the first GPU
        _largest[grid](*transposed, y, *y.shape, x.shape[1], TILE, num_warps=WARPS)
        if p < math.inf:
            _powers[grid](*transposed, y, *y.shape, x.shape[1], p, _chain(p), TILE, num_warps=WARPS)
    return y


def backward(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """See `eager.backward`."""
    inverse = torch.where(y > 0, 1 / y, 0)
    return _slopes(grad, x, w, inverse, p), _slopes(grad.T, w, x, inverse.T, p)


def farthest(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """See `eager.farthest`; y is the distance at p = inf."""
    found = torch.empty_like(y, dtype=torch.int32)
    transposed = x.T.contiguous(), w.T.contiguous()
    with torch.cuda.device_of(x):
        _first_equal[_grid(y)](*transposed, y.contiguous(), found, *y.shape, x.shape[1], TILE, num_warps=WARPS)
    return found.long()


def _slopes(grad: Tensor, x: Tensor, w: Tensor, inverse: Tensor, p: float) -> Tensor:
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    inputs = x.contiguous(), w.contiguous(), grad.T.contiguous(), inverse.T.contiguous()
    with torch.cuda.device_of(x):
        _slope_sums[_grid(x)](*inputs, result, *x.shape, len(w), p - 1, _chain(p - 1), TILE, num_warps=WARPS)
    return result


def _grid(result: Tensor) -> tuple[int, int]:
    return triton.cdiv(result.shape[0], TILE), triton.cdiv(result.shape[1], TILE)


def _chain(exponent: float) -> int:
    """The exponent, if it is compiled into products; else 0."""
    return int(exponent) if exponent == int(exponent) and 1 <= exponent <= LARGEST_CHAIN else 0


@triton.jit
def _largest(xt, wt, y, batch, outputs, inputs, TILE: tl.constexpr):
    b = tl.program_id(0) * TILE + tl.arange(0, TILE)
    o = tl.program_id(1) * TILE + tl.arange(0, TILE)
    top = tl.zeros((TILE, TILE), xt.dtype.element_ty)
    for j in tl.range(inputs, num_stages=STAGES):
        x = tl.load(xt + j * batch + b, mask=b < batch, other=0)
        w = tl.load(wt + j * outputs + o, mask=o < outputs, other=0)
        top = tl.maximum(top, tl.abs(x[:, None] - w[None, :]), propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + b[:, None] * outputs + o[None, :], top, mask=(b < batch)[:, None] & (o < outputs)[None, :])


@triton.jit
def _powers(xt, wt, y, batch, outputs, inputs, p, CHAIN: tl.constexpr, TILE: tl.constexpr):
    """y holds the largest distance at first, and the l_p distance in the end."""
    b = tl.program_id(0) * TILE + tl.arange(0, TILE)
    o = tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = y + b[:, None] * outputs + o[None, :]
    inside = (b < batch)[:, None] & (o < outputs)[None, :]
    top = tl.load(here, mask=inside, other=1)
    inverse = tl.where(top > 0, 1 / top, 0)
    total = tl.zeros((TILE, TILE), xt.dtype.element_ty)
    for j in tl.range(inputs, num_stages=STAGES):
        x = tl.load(xt + j * batch + b, mask=b < batch, other=0)
        w = tl.load(wt + j * outputs + o, mask=o < outputs, other=0)
        total += _power(tl.abs(x[:, None] - w[None, :]) * inverse, p, CHAIN)
    tl.store(here, tl.where(top == 0, 0, top * tl.exp2(tl.log2(total) / p)), mask=inside)


@triton.jit
def _slope_sums(
    x, w, gradt, inverset, result, batch, inputs, outputs, exponent, CHAIN: tl.constexpr, TILE: tl.constexpr
):
    """result[b, j] = sum_o grad[b, o] * sign(t) |t|^exponent with t = (x[b, j] - w[o, j]) * inverse[b, o]."""
    b = tl.program_id(0) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = b[:, None] * inputs + j[None, :]
    inside = (b < batch)[:, None] & (j < inputs)[None, :]
    own = tl.load(x + here, mask=inside, other=0)
    total = tl.zeros((TILE, TILE), x.dtype.element_ty)
    for o in tl.range(outputs, num_stages=STAGES):
        other = tl.load(w + o * inputs + j, mask=j < inputs, other=0)
        grad = tl.load(gradt + o * batch + b, mask=b < batch, other=0)
        inverse = tl.load(inverset + o * batch + b, mask=b < batch, other=0)
        t = (own - other[None, :]) * inverse[:, None]
        if CHAIN % 2 == 1:  # an odd power keeps the sign
            total += _power(t, exponent, CHAIN) * grad[:, None]
        else:
            slope = _power(tl.abs(t), exponent, CHAIN) * grad[:, None]
            total += tl.where(t < 0, -slope, tl.where(t > 0, slope, 0))
    tl.store(result + here, total, mask=inside)


@triton.jit
def _first_equal(xt, wt, y, found, batch, outputs, inputs, TILE: tl.constexpr):
    b = tl.program_id(0) * TILE + tl.arange(0, TILE)
    o = tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = b[:, None] * outputs + o[None, :]
    inside = (b < batch)[:, None] & (o < outputs)[None, :]
    top = tl.load(y + here, mask=inside, other=0)
    first = tl.zeros((TILE, TILE), tl.int32)
    for step in tl.range(inputs, num_stages=STAGES):
        j = inputs - 1 - step
        x = tl.load(xt + j * batch + b, mask=b < batch, other=0)
        w = tl.load(wt + j * outputs + o, mask=o < outputs, other=0)
        first = tl.where(tl.abs(x[:, None] - w[None, :]) == top, j, first)
    tl.store(found + here, first, mask=inside)


@triton.jit
def _power(base, exponent, CHAIN: tl.constexpr):
    """base^exponent; CHAIN is the exponent when it is compiled into products, else 0 and base >= 0."""
    if CHAIN == 0:
        return tl.where(base > 0, tl.exp2(exponent * tl.log2(base)), 0)
    power = base
    for digit in tl.static_range(CHAIN.bit_length() - 1):
        power = power * power
        if (CHAIN >> (CHAIN.bit_length() - 2 - digit)) & 1:
            power = power * base
    return power
