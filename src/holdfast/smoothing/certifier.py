"""SamplingCertifier: the base of all certifiers that count votes under noise.

A child is an algorithm box: `procedure` says what is done with the votes of ONE example; which noise is drawn, how
examples share forward passes and what a certificate stores is settled here.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.certificate import Certificate
from ..core.certifier import Certifier, Classifier, Seed
from .evidence import Procedure, SamplingEvidence, sparse
from .noise import Float32, Lattice, Noise
from .statistics.binomial import check_alpha
from .statistics.sequential import looks
from .walk import Selection, Walk

if TYPE_CHECKING:
    from torch import Tensor


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
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if self.n0 < 0:
            raise ValueError(f"n0 must not be negative, got {self.n0}")
        check_alpha(self.alpha)
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

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        from .engine import sample

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
