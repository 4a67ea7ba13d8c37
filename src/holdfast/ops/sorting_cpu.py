"""The kernel of the sorted distance on CPUs: the largest differences of a few outputs, kept in order while inputs pass.

A difference that is not among the largest of any of its neighbors costs a comparison; another one sinks through the
sorted list, largest first, by a maximum and a minimum at each place. All outputs see the same operations in the same
order, whatever the batch.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .numba_cpu import _join, _nan_if_not_finite, _pad, _share

LANES = 16
"""Outputs side by side."""


def sums(below: Tensor, above: Tensor, w: Tensor, weights: list[float]) -> Tensor:
    """(batch, outputs): the weighted sums of the largest of max(below - w, w - above, 0), the largest first."""
    padded = _pad(w, LANES, 1)
    panels = padded.view(-1, LANES, padded.shape[1]).transpose(1, 2).contiguous()
    y = below.new_zeros(len(panels), len(below), LANES)
    factors = torch.tensor(weights, dtype=below.dtype)
    _share(_sums, [panels, y], _pad(below, 1, 1), _pad(above, 1, 1), factors)
    found = _join(y, len(below), len(w))
    return found + _nan_if_not_finite(below + above) + _nan_if_not_finite(w).T


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _sums(w, y, below, above, weights):
    top, gap = np.empty((len(weights), LANES), w.dtype), np.empty(LANES, w.dtype)
    last = len(weights) - 1
    for panel in range(len(w)):
        for b in range(len(below)):
            top[:] = 0
            for j in range(below.shape[1]):
                low, high = below[b, j], above[b, j]
                most = w.dtype.type(0)
                for o in range(LANES):
                    gap[o] = max(low - w[panel, j, o], w[panel, j, o] - high)
                    most = max(most, gap[o] - top[last, o])
                if most > 0:
                    for k in range(len(weights)):
                        for o in range(LANES):
                            larger = max(top[k, o], gap[o])
                            gap[o] = min(top[k, o], gap[o])
                            top[k, o] = larger
            for k in range(len(weights)):
                for o in range(LANES):
                    y[panel, b, o] += weights[k] * top[k, o]
