"""The kernel of the sorted distance on CPUs: the largest differences, kept in order in registers while inputs pass.

Each difference sinks through the list, largest first, by a maximum and a minimum at each place. All outputs see the
same operations in the same order, whatever the batch.
"""

from collections.abc import Callable
from functools import cache

import torch
from numba import njit
from torch import Tensor

from .numba_cpu import _join, _nan_if_not_finite, _pad, _share
from .tiles import BYTES, store_sum, sunk, zeros


def sums(below: Tensor, above: Tensor, w: Tensor, weights: list[float]) -> Tensor:
    """(batch, outputs): the weighted sums of the largest of max(below - w, w - above, 0), the largest first."""
    padded = _pad(w, width := BYTES // w.itemsize, 1)
    panels = padded.view(-1, width, padded.shape[1]).transpose(1, 2).contiguous()
    y = below.new_zeros(len(panels), len(below), width)
    factors = torch.tensor(weights, dtype=below.dtype)
    _share(_kernel(len(weights)), [panels, y], _pad(below, 1, 1), _pad(above, 1, 1), factors)
    found = _join(y, len(below), len(w))
    return found + _nan_if_not_finite(below + above) + _nan_if_not_finite(w).T


@cache
def _kernel(terms: int) -> Callable[..., None]:
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
