"""Gaussian noise as torch draws it and floating point adds it: the way of published code, kept for comparison.

A certificate from it is about real arithmetic, which is not what ran: see `docs/certificates.md`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Stream

BLOCK = 2**18
"""Noise is drawn in blocks of about this many numbers, whatever the batch size."""


class Float32Stream(Stream):
    """Draws in blocks whose size depends on the shape of the input only, so that nothing else can change a draw."""

    def __init__(self, x: Tensor, sigma: float, seed: int) -> None:
        self._x, self._sigma = x, sigma
        self._generator = torch.Generator(x.device).manual_seed(seed)
        self._block = torch.empty((max(1, BLOCK // x.numel()), *x.shape), dtype=x.dtype, device=x.device)
        self._used = len(self._block)

    def fill(self, out: Tensor) -> None:
        while len(out):
            if self._used == len(self._block):
                self._block.normal_(generator=self._generator)
                self._used = 0
            noise = self._block[self._used : self._used + len(out)]
            torch.add(self._x, noise, alpha=self._sigma, out=out[: len(noise)])
            self._used += len(noise)
            out = out[len(noise) :]
