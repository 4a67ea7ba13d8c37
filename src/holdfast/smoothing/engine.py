"""Votes of a classifier under noise: one engine that keeps the device busy for every sampling certifier.

A certifier describes what it does with ONE example as a generator, which reads like the paper's algorithm box:

    votes = yield 100           # ask for 100 fresh noisy samples, get their votes
    ...
    return FixedVotes(...)

The engine runs many such procedures at once. Every forward pass is full and has the same shape; it mixes examples, and
an example that is decided makes room for the next.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.certifier import Classifier, Seed
from .evidence import Procedure, SamplingEvidence
from .noise import Batch, Noise, Stream
from .votes import count


class Trial:
    """One example on its way through the engine."""

    def __init__(self, row: int, stream: Stream, procedure: Procedure) -> None:
        self.row, self.stream, self.procedure = row, stream, procedure
        self.missing = next(procedure)
        self.votes: Tensor | np.ndarray | None = None

    def fill(self, batch: Batch, start: int) -> int:
        """Write as many noisy copies as are wanted and fit into the rows from `start` on; how many."""
        count = min(self.missing, len(batch) - start)
        self.stream.write(batch, start, start + count)
        self.missing -= count
        return count

    def add(self, votes: Tensor | np.ndarray) -> SamplingEvidence | None:
        """Count votes; when none are missing, ask the procedure, which wants more or is finished."""
        self.votes = votes if self.votes is None else self.votes + votes
        if self.missing:
            return None
        counts, self.votes = self.votes.tolist(), None
        try:
            self.missing = self.procedure.send(counts)
        except StopIteration as finished:
            return finished.value
        return None


class Nothing(Stream):
    """Of an input that is not finite: there is no noisy copy, and whatever the classifier says counts for no class."""

    def fill(self, out: Tensor) -> None:
        out.zero_()

    def skip(self, copies: int) -> None:
        pass


def sample(
    classifier: Classifier,
    x: Float[Tensor, "batch ..."],
    seeds: Sequence[Seed],
    noise: Noise,
    sigma: float,
    procedure: Callable[[Seed, int], Procedure],
    batch_size: int,
    drawn: int = 0,
) -> Iterator[tuple[int, SamplingEvidence]]:
    """Run one procedure per row of x; yield (row, evidence) as they finish.

    Args:
        classifier: maps a noisy batch of the shape of x to logits (batch, class).
        x: what the noise is added to: images, or features; never changed. Batches have its memory format. A row that
            is not finite gets no votes.
        seeds: seeds[i] drives the noise of row i.
        noise: how it is drawn.
        sigma: its standard deviation, in the unit of x.
        procedure: starts the procedure of one example, from its seed and the numbers that a noisy copy holds.
        batch_size: rows of every forward pass.
        drawn: copies of every row that were drawn before, and are left out.
    """
    numbers = x[0].numel()
    finite = x.isfinite().reshape(len(x), -1).all(1).tolist()
    streams = (noise.stream(x[row], sigma, seed) if finite[row] else Nothing() for row, seed in enumerate(seeds))
    streams = map(_from_copy(drawn), streams) if drawn else streams
    waiting = (Trial(row, stream, procedure(seeds[row], numbers)) for row, stream in enumerate(streams))
    active: list[Trial] = []
    batch = Batch(batch_like(x, batch_size))
    while True:
        served, filled = _fill(batch, active, waiting)
        if not served:
            return
        lost = [group for group, trial in enumerate(served) if isinstance(trial.stream, Nothing)]
        # another view of the batch: a model may change its pixels and its shape; the rows of a trial are written anew
        votes = count(classifier(batch.tensor.detach()), filled, lost)
        for trial, row_votes in zip(served, votes, strict=False):
            if (evidence := trial.add(row_votes)) is not None:
                active.remove(trial)
                yield trial.row, evidence


def _from_copy(number: int) -> Callable[[Stream], Stream]:
    def skipped(stream: Stream) -> Stream:
        stream.skip(number)
        return stream

    return skipped


def batch_like(x: Tensor, rows: int) -> Tensor:
    """Zeros of the shape of the rows of x, in its memory format: else the model converts every batch."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    memory = torch.channels_last if last else torch.contiguous_format
    return torch.empty((rows, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=memory).zero_()


def _fill(batch: Batch, active: list[Trial], waiting: Iterator[Trial]) -> tuple[list[Trial], list[int]]:
    """Fill a batch from the oldest trials on, admitting new ones while there is room.

    Returns the trials served and the rows of each; one more entry counts the rows left over, which hold old samples
    that nobody owns.
    """
    served: list[Trial] = []
    filled: list[int] = []
    start = 0
    while start < len(batch):
        if len(served) == len(active):
            if (trial := next(waiting, None)) is None:
                break
            active.append(trial)
        trial = active[len(served)]
        filled.append(trial.fill(batch, start))
        served.append(trial)
        start += filled[-1]
    return served, [*filled, len(batch) - start]
