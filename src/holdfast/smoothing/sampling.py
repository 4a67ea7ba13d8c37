"""Votes of a classifier under Gaussian noise: one engine that keeps the device busy for every sampling certifier.

A certifier describes what it does with ONE example as a generator, which reads like the paper's algorithm box:

    votes = yield 100           # ask for 100 fresh noisy samples, get their votes
    ...
    return Certificate(...)

The engine runs many such procedures at once. Every forward pass is full and has the same shape; it mixes examples, and
an example that is decided makes room for the next.
"""

from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..types import Certificate, Classifier

BLOCK = 2**18
"""Noise is drawn in blocks of about this many numbers, whatever the batch size: see `NoiseStream`."""

Procedure = Generator[int, list[int], Certificate]
"""Yields how many fresh samples it wants next; is sent their votes: one count per class, and last the count of samples
whose top logit is not finite, which vote for no class. Returns the certificate."""


class NoiseStream:
    """Standard normal noise for one example: draw number k depends on the seed and k alone.

    It is drawn in blocks whose size depends on the shape of the example only, so that neither the batch size nor the
    number of samples asked for at a time can change it.
    """

    def __init__(self, seed: int, like: Tensor) -> None:
        self._generator = torch.Generator(like.device).manual_seed(seed)
        self._block = torch.empty((max(1, BLOCK // like.numel()), *like.shape), dtype=like.dtype, device=like.device)
        self._used = len(self._block)

    def take(self, most: int) -> Tensor:
        """The next draws, at least one and at most `most`; valid until the next call."""
        if self._used == len(self._block):
            self._block.normal_(generator=self._generator)
            self._used = 0
        start, self._used = self._used, min(self._used + most, len(self._block))
        return self._block[start : self._used]


class Trial:
    """One example on its way through the engine."""

    def __init__(self, row: int, x: Tensor, seed: int, procedure: Procedure) -> None:
        self.row, self.x, self.procedure = row, x, procedure
        self.noise = NoiseStream(seed, x)
        self.missing = next(procedure)
        self.votes: Tensor | None = None

    def fill(self, out: Tensor, sigma: float) -> int:
        """Write as many noisy copies into `out` as are wanted and fit; how many."""
        count = min(self.missing, len(out))
        done = 0
        while done < count:
            noise = self.noise.take(count - done)
            torch.add(self.x, noise, alpha=sigma, out=out[done : done + len(noise)])
            done += len(noise)
        self.missing -= count
        return count

    def add(self, votes: Tensor) -> Certificate | None:
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


def sample(
    classifier: Classifier,
    x: Float[Tensor, "batch ..."],
    seeds: Sequence[int],
    sigma: float,
    procedure: Callable[[int], Procedure],
    batch_size: int,
) -> Iterator[tuple[int, Certificate]]:
    """Run one procedure per row of x; yield (row, certificate) as they finish.

    Args:
        classifier: maps a noisy batch of the shape of x to logits (batch, class).
        x: what the noise is added to: images, or features; never changed. Batches have its memory format.
        seeds: seeds[i] drives the noise of row i, and is what `procedure` is called with.
        sigma: standard deviation of the noise, in the unit of x.
        procedure: starts the procedure of one example.
        batch_size: rows of every forward pass.
    """
    waiting = (Trial(row, x[row], seed, procedure(seed)) for row, seed in enumerate(seeds))
    active: list[Trial] = []
    batch = x.new_zeros((batch_size, *x.shape[1:]))
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):  # else the model converts every batch
        batch = batch.contiguous(memory_format=torch.channels_last)
    while True:
        served, filled = _fill(batch, active, waiting, sigma)
        if not served:
            return
        owners = torch.repeat_interleave(torch.tensor(filled, device=x.device), output_size=batch_size)
        # another view of the batch: a model may change its pixels and its shape; the rows of a trial are written anew
        votes = _count(classifier(batch.detach()), owners, len(filled))
        for trial, row_votes in zip(served, votes, strict=False):
            if (certificate := trial.add(row_votes)) is not None:
                active.remove(trial)
                yield trial.row, certificate


def _fill(batch: Tensor, active: list[Trial], waiting: Iterator[Trial], sigma: float) -> tuple[list[Trial], list[int]]:
    """Fill a batch from the oldest trials on, admitting new ones while there is room.

    Returns the trials served and the rows of each; one more entry counts the rows left over, which hold old samples
    that nobody owns.
    """
    served: list[Trial] = []
    filled: list[int] = []
    room = batch
    while len(room):
        if len(served) == len(active):
            if (trial := next(waiting, None)) is None:
                break
            active.append(trial)
        trial = active[len(served)]
        filled.append(trial.fill(room, sigma))
        served.append(trial)
        room = room[filled[-1] :]
    return served, [*filled, len(room)]


def _count(logits: Float[Tensor, "batch class"], owners: Tensor, groups: int) -> Tensor:
    """Votes (group, class + 1) of the rows owned by each group; the last column counts rows without a finite top."""
    classes = logits.shape[1]
    top = logits.max(dim=1)  # NaN, wherever it stands in a row, is the maximum
    votes = owners * (classes + 1) + torch.where(top.values.isfinite(), top.indices, classes)
    counts = votes.new_zeros(groups * (classes + 1))
    return counts.scatter_add_(0, votes, torch.ones_like(votes)).view(groups, classes + 1)


def sparse(votes: Sequence[int]) -> dict[str, int]:
    """The counts above zero by class, the last entry (samples without a class) left out: how evidence keeps votes."""
    return {str(label): count for label, count in enumerate(votes[:-1]) if count}


def first_noise(x: Float[Tensor, "batch ..."], seeds: Sequence[int]) -> Float[Tensor, "batch ..."]:
    """The first noise that `sample` adds to each row, for showing: standard normal, of the shape of x."""
    return torch.stack([NoiseStream(seed, row).take(1)[0].clone() for row, seed in zip(x, seeds, strict=True)])
