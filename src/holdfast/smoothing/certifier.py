"""SamplingCertifier: the base of all certifiers that count votes under noise, and the engine that counts them.

A child is an algorithm box: `procedure` says what is done with the votes of ONE example, as a generator:

    votes = yield 100           # ask for 100 fresh noisy samples, get their votes
    ...
    return FixedVotes(...)

Which noise is drawn, how examples share forward passes and what a certificate stores is settled here. The engine,
`sample`, runs many procedures at once. Every forward pass is full and has the same shape; it mixes examples, and an
example that is decided makes room for the next. No torch in here before samples are drawn.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..core.certificate import Certificate
from ..core.certifier import Certifier, Classifier, Seed
from .evidence import Procedure, SamplingEvidence, Votes, sparse
from .noise import Batch, Float32, Lattice, Noise, Stream
from .statistics.binomial import check_alpha
from .statistics.sequential import RadiusBoundaries, looks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


MOST = 10**12
"""Samples of an example: more take years, and are no longer counted exactly by floats."""


@dataclass(frozen=True)
class SamplingCertifier(Certifier):
    """Certificates from the votes of noisy copies."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    n0: int = 100
    """Noise samples that select the top class; never those that bound its probability."""
    alpha: float = 0.001
    """Probability that the certificate of an example is wrong."""
    noise: Noise = Lattice()  # noqa: RUF009 (frozen; a plain default leaves fingerprints alone)
    """How noise is drawn."""

    former_defaults: ClassVar[Mapping[str, Any]] = {"noise": Float32()}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if self.n0 < 0:
            raise ValueError(f"n0 must not be negative, got {self.n0}")
        check_alpha(self.alpha)
        if (most := max(getattr(self, name, 0) for name in ("n0", "n", "n_max"))) > MOST:
            raise ValueError(f"expected at most {MOST:,} samples of an example, got {most:,}")
        self.delta(0)  # a noise that does not go with sigma is refused before any work

    @abstractmethod
    def procedure(self, seed: Seed, numbers: int) -> Procedure:
        """What is done with one example: a generator that asks for samples and returns their `SamplingEvidence`.

        Args:
            seed: of the example; for procedures that need randomness of their own.
            numbers: how many numbers one noisy copy holds, for the delta of the noise.
        """

    def refuse_seed(self, seed: int) -> None:
        """Refuse noise that the settings themselves rest on, before any work.

        Raises:
            ValueError: it says what is expected.
        """

    @property
    def sampling(self) -> SamplingCertifier:
        return self

    def norm_of(self, classifier: Classifier) -> str:
        return self.noise.threat

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        for row, evidence in sample(classifier, x, seeds, self.noise, self.sigma, self.procedure, batch_size):
            yield row, self.certificate(evidence)

    def certificate(self, evidence: SamplingEvidence) -> Certificate:
        """The certificate that follows from votes."""
        claim = evidence.claim()
        return Certificate(claim.prediction, claim.radius, evidence.norm, evidence.confidence, evidence.to_record())

    @property
    def continues(self) -> bool:
        """Whether votes of a run with fewer samples can be gone on from, by `continue_batch`."""
        return False

    def continue_batch(
        self,
        classifier: Classifier,
        x: Tensor,
        seeds: Sequence[Seed],
        batch_size: int,
        found: Sequence[SamplingEvidence],
    ) -> Iterator[tuple[int, Certificate]]:
        """`certify_batch` from the votes of a run with the same settings but fewer samples: the same certificates.

        Args:
            found: of every row, all with equally many samples.
        """
        raise NotImplementedError(f"{type(self).__name__} starts anew")

    def delta(self, numbers: int) -> float:
        """How far off the probability of any class can be because noise is drawn by a computer."""
        return self.noise.delta(self.sigma, numbers)


class Trial:
    """One example on its way through the engine."""

    def __init__(self, row: int, stream: Stream, procedure: Procedure) -> None:
        self.row, self.stream, self.procedure = row, stream, procedure
        self.missing = next(procedure)
        self.votes: Tensor | np.ndarray | None = None

    @property
    def lost(self) -> bool:
        """Whether its rows hold no noisy copies, and vote for no class."""
        return isinstance(self.stream, Nothing)

    def fill(self, batch: Batch, start: int) -> int:
        """Write as many noisy copies as are wanted and fit into the rows from `start` on; how many."""
        count = min(self.missing, len(batch) - start)
        self.stream.write(batch, start, start + count)
        self.missing -= count
        return count

    def add(self, votes: Tensor | np.ndarray) -> None:
        self.votes = votes if self.votes is None else self.votes + votes

    def go_on(self) -> SamplingEvidence | None:
        """Show the votes, of which none are missing, to the procedure, which wants more or is finished."""
        assert self.votes is not None
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
        noise, sigma: how it is drawn, and its standard deviation, in the unit of x.
        procedure: starts the procedure of one example, from its seed and the numbers that a noisy copy holds.
        batch_size: rows of every forward pass.
        drawn: copies of every row that were drawn before, and are left out.
    """
    from .votes import Ballots, batch_like

    numbers, streams = x[0].numel(), _streams(x, seeds, noise, sigma, drawn)
    waiting = (Trial(row, stream, procedure(seeds[row], numbers)) for row, stream in enumerate(streams))
    active: list[Trial] = []
    batch, ballots = Batch(batch_like(x, batch_size)), Ballots[Trial]()
    while (work := _fill(batch, active, waiting))[0]:
        served, filled = work
        # another view of the batch: a model may change its pixels and its shape; the rows of a trial are written anew
        ballots.put(classifier(batch.tensor.detach()), served, filled)
        complete = [trial for trial in served if not trial.missing]
        for trial, votes in ballots.take(lambda one: one.lost) if complete or ballots.full else ():
            trial.add(votes)
        for trial in complete:
            if (evidence := trial.go_on()) is not None:
                active.remove(trial)
                yield trial.row, evidence


def _streams(x: Tensor, seeds: Sequence[Seed], noise: Noise, sigma: float, drawn: int) -> Iterator[Stream]:
    """The noisy copies of every row, without those that were drawn before."""
    finite = x.isfinite().reshape(len(x), -1).all(1).tolist()
    for row, seed in enumerate(seeds):
        stream = noise.stream(x[row], sigma, seed) if finite[row] else Nothing()
        if drawn:
            stream.skip(drawn)
        yield stream


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


@dataclass(frozen=True)
class SequentialCertifier(SamplingCertifier):
    """Base of those that look at the votes several times, at fixed numbers of samples."""

    first: int = 100
    """Noise samples at the first look."""
    growth: float = 1.15
    """Factor between the samples of one look and the next."""
    n_max: int = 100_000
    """Noise samples after the last look."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n0 < 1:
            raise ValueError(f"n0 must be at least 1: samples of their own select the class; got {self.n0}")
        looks(self.first, self.n_max, self.growth)

    def looks(self) -> tuple[int, ...]:
        """Numbers of samples at which the votes are looked at."""
        return looks(self.first, self.n_max, self.growth)

    def samples(self) -> int:
        return self.n0 + self.n_max

    def settings(self, selection: Selection, votes: Walk, numbers: int) -> dict[str, Any]:
        """What every `SequentialVotes` stores."""
        names = ("sigma", "noise", "n0", "alpha", "first", "growth", "n_max")
        return {name: getattr(self, name) for name in names} | {
            "numbers": numbers,
            "delta": self.delta(numbers),
            "selection": selection.votes,
            "votes": sparse(votes.total),
            "invalid": votes.total[-1] if votes.total else 0,
            "counts": tuple(votes.counts),
        }


@dataclass(frozen=True)
class Selection:
    """The class that a first sample selects, and the votes that selected it."""

    top: int
    votes: Votes
    samples: int


def select(n0: int) -> Generator[int, list[int], Selection]:
    """Ask for n0 samples and take the class with most votes."""
    votes = yield n0
    return Selection(int(np.argmax(votes[:-1])), sparse(votes), n0)


@dataclass
class Walk:
    """The votes of one example, look by look."""

    top: int
    total: list[int] = field(default_factory=list)
    """Votes of all samples after the selection, by class; last those for no class."""
    counts: list[int] = field(default_factory=list)
    """Votes of the top class at every look."""
    rivals: list[int] = field(default_factory=list)
    """Most votes of any other class at every look."""

    def look(self, n: int) -> Generator[int, list[int], None]:
        """Ask for what is missing to n samples."""
        votes = yield n - sum(self.total)
        self.total = [a + b for a, b in zip(self.total, votes, strict=True)] if self.total else votes
        self.counts.append(self.total[self.top])
        self.rivals.append(max(self.total[: self.top] + self.total[self.top + 1 : -1]))


@dataclass(frozen=True)
class Standing:
    """What the tests of a grid of radii say so far."""

    certified: int
    """How many radii of the grid are certified."""
    possible: int
    """How many are not ruled out."""
    looks: int
    """Looks taken."""
    count: int
    """Votes of the top class."""


def walk(tests: RadiusBoundaries, top: int, enough: Callable[[Standing], bool]) -> Generator[int, list[int], Walk]:
    """Sample from look to look until `enough` says stop, or the last look is taken.

    The largest number certified at any look counts: the error of ever crossing is what the boundaries bound. Stopping
    early can only lower it.
    """
    votes, certified, possible = Walk(top), 0, len(tests.radii)
    for look, n in enumerate(tests.looks):
        yield from votes.look(n)
        count = votes.counts[-1]
        certified = max(certified, int(tests.certified(look, count)))
        possible = min(possible, int(tests.possible(look, count)))
        if enough(Standing(certified, possible, look + 1, count)):
            break
    return votes
