"""Batches of noisy copies: which class each row votes for, and how many votes each trial of the batch gets.

On a CPU one compiled loop counts: between two passes of a network every operation of PyTorch finds the caches full of
other things and takes some 10 microseconds, and the eleven that were here before took 4 % of the pass of a LeNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .noise.numba_kernels import compiled


def batch_like(x: Tensor, rows: int) -> Tensor:
    """Zeros of the shape of the rows of x, in its memory format: else the model converts every batch."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    memory = torch.channels_last if last else torch.contiguous_format
    return torch.empty((rows, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=memory).zero_()


def winners(logits: Float[Tensor, "batch class"]) -> Int[Tensor, " batch"]:
    """The class that each row votes for; the number of classes where its top logit is not finite."""
    top = logits.max(dim=1)  # NaN, wherever it stands in a row, is the maximum
    return torch.where(top.values.isfinite(), top.indices, logits.shape[1])


def count(
    logits: Float[Tensor, "batch class"], rows: Sequence[int], lost: Sequence[int] = ()
) -> Int[Tensor, "group class+1"] | Int[np.ndarray, "group class+1"]:
    """Votes of consecutive groups of rows; the last column counts rows without a finite top.

    Args:
        rows: of each group; they add up to the batch.
        lost: groups whose rows vote for no class, whatever their logits are.

    Raises:
        ValueError: there is not one row of logits for every row of the batch.
    """
    _check(logits, rows)
    if logits.device.type != "cpu":
        return count_by_torch(logits, rows, lost)
    values = logits if logits.dtype in (torch.float32, torch.float64) else logits.double()
    array = np.ascontiguousarray(values.numpy(force=True))
    votes = np.zeros((len(rows), array.shape[1] + 1), np.int64)
    add_votes(array, np.array(rows), votes)
    for group in lost:
        votes[group] = 0
        votes[group, -1] = rows[group]
    return votes


def count_by_torch(
    logits: Float[Tensor, "batch class"], rows: Sequence[int], lost: Sequence[int] = ()
) -> Int[Tensor, "group class+1"]:
    """`count` on any device, without waiting for it."""
    _check(logits, rows)
    groups, classes = len(rows), logits.shape[1]
    owners = torch.repeat_interleave(torch.tensor(rows, device=logits.device), output_size=len(logits))
    if lost:
        gone = torch.isin(owners, torch.tensor(lost, device=logits.device))
        logits = logits.masked_fill(gone[:, None], torch.nan)
    cells = owners * (classes + 1) + winners(logits)
    votes = cells.new_zeros(groups * (classes + 1))
    return votes.scatter_add_(0, cells, torch.ones_like(cells)).view(groups, classes + 1)


def _check(logits: Tensor, rows: Sequence[int]) -> None:
    """A compiled loop would read on behind the last row."""
    if logits.ndim != 2 or len(logits) != sum(rows):
        raise ValueError(
            f"expected logits (batch, class) for a batch of {sum(rows)}, got {tuple(logits.shape)}: the model answers "
            "otherwise to other batches"
        )


@compiled
def add_votes(logits, rows, votes):
    """votes[g, c] += how many of the rows of group g vote for c, which is what `winners` says."""
    row = 0
    for group in range(len(rows)):
        for _ in range(rows[group]):
            best, top = 0, logits[row, 0]
            for c in range(1, logits.shape[1]):
                if not (logits[row, c] <= top or top != top):  # the first of equals, and NaN before all
                    best, top = c, logits[row, c]
            votes[group, best if isfinite(top) else logits.shape[1]] += 1
            row += 1
