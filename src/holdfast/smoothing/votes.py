"""Batches of noisy copies: which class each row votes for, and how many votes each trial of the batch gets.

Whatever runs between two passes of a network finds the caches full of other things: there, counting 64 rows takes up to
90 microseconds, and 7 when it is done again at once. So logits are put aside until somebody waits for their votes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import isfinite
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .noise.numba_kernels import compiled

Owner = TypeVar("Owner")
ROOM = 2**18
"""Logits that are put aside before they are counted all the same: 1 MiB of float32."""


def batch_like(x: Tensor, rows: int) -> Tensor:
    """Zeros of the shape of the rows of x, in its memory format: else the model converts every batch."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    memory = torch.channels_last if last else torch.contiguous_format
    return torch.empty((rows, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=memory).zero_()


class Ballots(Generic[Owner]):
    """Logits of passes whose votes nobody waits for yet."""

    def __init__(self) -> None:
        self._passes: list[tuple[Tensor, Sequence[Owner], Sequence[int]]] = []
        self._shape: torch.Size | None = None

    @property
    def full(self) -> bool:
        return self._shape is not None and len(self._passes) * self._shape.numel() >= ROOM

    def put(self, logits: Float[Tensor, "batch class"], owners: Sequence[Owner], rows: Sequence[int]) -> None:
        """Keep a copy of the logits of a pass, for a model may write its next ones into the same memory.

        Args:
            owners: of consecutive groups of rows.
            rows: of each group, and at last of the one that nobody owns.

        Raises:
            ValueError: as `count`; or there are more or fewer classes than before, or their type is another one.
        """
        if logits.shape != self._shape:
            _check(logits, rows, self._shape)
            self._shape = logits.shape
        if self._passes and logits.dtype != (before := self._passes[-1][0].dtype):
            raise ValueError(f"the model answers in {logits.dtype} now, and in {before} before; expected one type")
        self._passes.append((logits.detach().clone(), owners, rows))

    def take(self, lost: Callable[[Owner], bool]) -> Iterator[tuple[Owner, Tensor | np.ndarray]]:
        """Count all that is kept, and keep it no longer: owners, some of them more than once, and votes of their rows.

        Args:
            lost: whether the rows of an owner vote for no class, as in `count`.
        """
        passes, self._passes = self._passes, []
        groups = (group for _, owners, rows in passes for group in zip([*owners, None], rows, strict=True))
        owned = (group for group in groups if group != (None, 0))
        runs = [(owner, sum(rows for _, rows in run)) for owner, run in groupby(owned, lambda group: group[0])]
        gone = [group for group, (owner, _) in enumerate(runs) if owner is not None and lost(owner)]
        votes = count(torch.cat([logits for logits, _, _ in passes]), [rows for _, rows in runs], gone)
        return ((owner, row) for (owner, _), row in zip(runs, votes, strict=True) if owner is not None)


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


def _check(logits: Tensor, rows: Sequence[int], before: Sequence[int] | None = None) -> None:
    """A compiled loop would read on behind the last row. before: the shape of other logits with as many classes."""
    if logits.ndim != 2 or len(logits) != sum(rows) or (before and logits.shape[1] != before[1]):
        classes = before[1] if before else "class"
        raise ValueError(
            f"expected logits (batch, {classes}) for a batch of {sum(rows)}, got {tuple(logits.shape)}: the model "
            "answers otherwise to other batches"
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
