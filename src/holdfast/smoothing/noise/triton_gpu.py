"""The noise of `Lattice` on GPUs, for rows on the lattice: bits, integer thresholds and conversion in one pass.

A program takes 16 blocks of the generator times 4 lanes for a few groups of one draw, and finds each word among the
thresholds by bisection, so that no floating-point operation decides anything: the copies are those of `definition`, bit
for bit. Coordinates off the lattice are drawn on the CPU.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
# Triton comes with the CUDA build of torch only, and launches a kernel as kernel[grid](...).

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.certifier import Seed

BLOCK = 256
"""Blocks of the generator per program, four coordinates each."""


class Row:
    """What a GPU keeps of a row on the lattice."""

    def __init__(self, whole: np.ndarray, thresholds: np.ndarray, first: int, device: torch.device) -> None:
        self.whole = torch.from_numpy(whole).to(device)
        self.thresholds = torch.from_numpy(thresholds.view(np.int64) ^ np.int64(-(2**63))).to(device)
        self.first = first


def fill(out: Tensor, channels: int, draw: int, seed: Seed, divisor: float, row: Row) -> None:
    """Write draws `draw`, `draw` + 1, ... into the rows of `out` (rows, d), of any floating dtype; see
    `numba_kernels.fill`."""
    rows, d = out.shape
    if rows == 0 or d == 0:
        return
    key = seed.seed - 2**64 if seed.seed >= 2**63 else seed.seed  # the same bits, as an int64
    with torch.cuda.device_of(out):  # else Triton takes the first GPU
        _fill[(rows, triton.cdiv(d, 4 * BLOCK))](
            out, row.whole, row.thresholds, len(row.thresholds), row.first, key, seed.example, draw,
            d, channels, d // channels, divisor, len(row.thresholds).bit_length(), BLOCK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["key", "index", "draw", "first", "count"])
def _fill(
    out, whole, thresholds, count, first, key, index, draw, d, channels, positions, divisor,
    STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    block = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.uint32)
    zero = block * 0
    number, example = (draw + row).to(tl.uint32) + zero, (index + row * 0).to(tl.uint32) + zero
    h0, h1, h2, h3 = tl.philox(key, block, number, example, zero)
    l0, l1, l2, l3 = tl.philox(key, block, number, example, zero + 1)
    here = (block // 16 * 64 + block % 16).to(tl.int64)
    start = out + row * d
    _lane(start, whole, thresholds, count, first, h0, l0, here, d, channels, positions, divisor, STEPS)
    _lane(start, whole, thresholds, count, first, h1, l1, here + 16, d, channels, positions, divisor, STEPS)
    _lane(start, whole, thresholds, count, first, h2, l2, here + 32, d, channels, positions, divisor, STEPS)
    _lane(start, whole, thresholds, count, first, h3, l3, here + 48, d, channels, positions, divisor, STEPS)


@triton.jit
def _lane(start, whole, thresholds, count, first, high, low, j, d, channels, positions, divisor, STEPS: tl.constexpr):
    """Bisection among integers of 64 bits, with the first bit flipped so that they compare as signed ones."""
    word = ((high.to(tl.uint64) << 32) | low.to(tl.uint64)).to(tl.int64, bitcast=True) ^ (-9223372036854775808)
    below, above = j * 0, j * 0 + count
    for _ in tl.static_range(STEPS):
        middle = (below + above) // 2
        reached = (middle < above) & (tl.load(thresholds + middle, mask=middle < above, other=0) <= word)
        below, above = tl.where(reached, middle + 1, below), tl.where(reached, above, middle)
    inside = j < d
    q = tl.load(whole + j, mask=inside, other=0) + (first + below).to(tl.int32)
    value = tl.div_rn(q.to(tl.float32), j.to(tl.float32) * 0 + divisor)
    if start.dtype.element_ty == tl.bfloat16:  # to nearest, ties to even, also in Triton's interpreter
        digits = value.to(tl.uint32, bitcast=True)
        rounded = ((digits + 0x7FFF + ((digits >> 16) & 1)) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        rounded = value.to(start.dtype.element_ty)
    tl.store(start + j % positions * channels + j // positions, rounded, mask=inside)
