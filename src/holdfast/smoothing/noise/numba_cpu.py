"""The noisy copies of one row: what the kernels need to know about it, memory formats, threads, the way to a GPU."""

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...core.certifier import Seed
from . import definition, numba_kernels
from .base import Batch, Stream
from .definition import GROUP, LARGEST

PARALLEL = 2**18
"""Values from which on a call is shared out over the threads of torch: some 0.4 ms on one."""
BUFFER = 2**17
"""Values that are drawn before they are converted to another dtype, device or memory format."""
SIZE = 2**30
"""Coordinates beyond this many steps would not fit into the integers of the kernels."""


class LatticeStream(Stream):
    """The noisy copies of a row, in their order: number k depends on the row, the noise, the seed and k alone."""

    def __init__(self, x: Tensor, sigma: float, divisor: float, seed: Seed) -> None:
        self.shape, self.seed, self.draw = x.shape, seed.check(), 0
        self.divisor, self.on_gpu = divisor, None
        self.doubts = np.empty((numba_kernels.DOUBTS, 2), np.int64)
        self.x = x.detach()
        self.ratio = Fraction(sigma) * Fraction(divisor)
        values = self.x.to("cpu", torch.float64).flatten().numpy()
        if not np.abs(values).max(initial=0) * divisor < SIZE:  # NaN is not less than anything
            raise ValueError(
                f"expected finite values below 2^30 steps of 1/{divisor:g}, got one of "
                f"{values[np.abs(values).argmax()]:g}: give the noise a larger step"
            )
        self._split(values)
        trusted = numba_kernels.trust(self.ratio, float(np.abs(self.whole).max(initial=0)))
        self.settings = (
            seed.example, seed.seed & 0xFFFFFFFF, seed.seed >> 32, np.float32(divisor),
            self.whole, self.part, self.part_64, float(self.ratio), trusted,
        )  # fmt: skip

    def fill(self, out: Tensor) -> None:
        """Write the next len(out) copies into `out` (rows, *shape): any floating dtype, memory format and device.

        Raises:
            ValueError: the rows do not have the shape of x, are not floating point, or more than 2^32 are drawn.
        """
        if out.shape[1:] != self.shape or not out.is_floating_point():
            raise ValueError(
                f"expected floating-point rows of shape {tuple(self.shape)}, got {out.dtype} of {tuple(out.shape)}"
            )
        batch = Batch(out.detach())
        if batch.array is not None:
            self.write(batch, 0, len(batch))
            return
        self._check_draws(len(out))
        if batch.dense is not None and out.device.type == "cuda" and self.on_lattice and find_spec("triton"):
            self.draw_on_gpu(*batch.dense)
            return
        for part in out.split(max(1, BUFFER // max(1, self.shape.numel()))):
            copies = torch.empty(part.shape, dtype=torch.float32, device="cpu")
            self._draw(copies.view(len(part), self.shape.numel()).numpy(), 1)
            part.copy_(copies)

    def write(self, batch: Batch, start: int, stop: int) -> None:
        if batch.array is None or batch.dense is None:
            super().write(batch, start, stop)
            return
        self._check_draws(stop - start)
        rows = batch.array if stop - start == batch.size else batch.array[start:stop]
        self._draw(rows, batch.dense[1])

    def skip(self, copies: int) -> None:
        self.draw += copies

    def _check_draws(self, copies: int) -> None:
        if self.draw + copies > 2**32:
            raise ValueError(f"an example has 2^32 draws, and {self.draw + copies} are asked for")

    def _split(self, x: np.ndarray) -> None:
        """x / h as an integer and the rest, which is zero on the lattice: see `definition.place`."""
        scaled = x * self.divisor
        whole = np.rint(scaled)
        on_lattice = (whole.astype(np.float32) / np.float32(self.divisor) == x) & (np.abs(whole) <= LARGEST)
        missing = (0, -len(whole) % GROUP)
        self.whole = np.pad(whole, missing).astype(np.int32)
        self.on_lattice = bool(on_lattice.all())
        if self.on_lattice:
            self.part, self.part_64 = _nothing(len(self.whole))
            return
        self.part_64 = np.pad(np.where(on_lattice, 0.0, scaled - whole), missing)
        self.part = self.part_64.astype(np.float32)

    def _draw(self, rows: np.ndarray, channels: int) -> None:
        """Fill rows (rows, d) of memory, whose coordinates are channels x positions with the channels innermost."""
        threads = min(torch.get_num_threads(), len(rows)) if rows.size >= PARALLEL else 1
        if threads == 1:
            self._draw_part(rows, channels, self.draw, self.doubts)
        else:
            starts = [len(rows) * i // threads for i in range(threads + 1)]
            with ThreadPoolExecutor(threads) as pool:
                for done in [
                    pool.submit(self._draw_part, rows[a:b], channels, self.draw + a) for a, b in pairwise(starts)
                ]:
                    done.result()
        self.draw += len(rows)

    def draw_on_gpu(self, rows: Tensor, channels: int) -> None:
        """`fill` for a row on the lattice and memory on a GPU; arguments as `_draw`."""
        from . import triton_gpu

        if self.on_gpu is None or self.on_gpu.whole.device != rows.device:
            self.on_gpu = triton_gpu.Row(self.whole, *definition.thresholds(self.ratio), rows.device)
        triton_gpu.fill(rows, channels, self.draw, self.seed, self.divisor, self.on_gpu)
        self.draw += len(rows)

    def _draw_part(self, rows: np.ndarray, channels: int, draw: int, doubts: np.ndarray | None = None) -> None:
        doubts = np.empty((numba_kernels.DOUBTS, 2), np.int64) if doubts is None else doubts
        found = numba_kernels.fill(rows, channels, draw, *self.settings, doubts)
        if found > len(doubts):
            raise RuntimeError(
                f"more than {len(doubts)} of {rows.size} coordinates are too near to a boundary for float64"
            )
        for row, j in doubts[:found].tolist() if found else ():
            positions = math.prod(self.shape) // channels
            k = definition.word(j, draw + row, self.seed)
            q = definition.lattice_point(k, definition.place(float(self.x.flatten()[j]), self.divisor), self.ratio)
            rows[row, j % positions * channels + j // positions] = np.float32(q) / np.float32(self.divisor)


@lru_cache(maxsize=2)
def _nothing(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rests of all rows on the lattice: one pair, for some hundred large images can be under way."""
    return np.zeros(count, np.float32), np.zeros(count)
