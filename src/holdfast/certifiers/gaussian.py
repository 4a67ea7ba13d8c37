"""Randomized smoothing with Gaussian noise and a fixed number of samples.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
https://arxiv.org/abs/1902.02918, algorithm CERTIFY; options from later work, each cited at its field.

    holdfast certify RUN gaussian --n 100000
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..core.certificate import Certificate
from ..core.certifier import Classifier, Seed
from ..smoothing.certifier import SamplingCertifier, sample
from ..smoothing.evidence import FixedVotes, Procedure, SamplingEvidence, sparse, uniform
from ..smoothing.statistics.binomial import lower_bound

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gaussian(SamplingCertifier):
    """l2 certificates from n noise samples per image.

    n0 = 0 selects the class from the n samples and pays for it with half of alpha: the form of Seferis, Kollias & Cheng
    (2024), at its true level.
    """

    n: int = 100_000
    """Noise samples that bound the probability of the class; never those that selected it."""
    two_class: bool = False
    """Bound the runner-up too, with alpha / 2 for either side: proves more where no class has half of the votes.
    Cohen et al., Theorem 1; Voracek (2024), appendix B."""
    randomized: bool = False
    """Randomized Clopper-Pearson, exact instead of conservative; one random number per example. Voracek (2024)."""

    former_names: ClassVar[Mapping[str, str]] = {"randomised": "randomized"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if self.two_class and self.n0 == 0:
            raise ValueError("two_class needs samples that select the class: set n0 to 1 or more")
        if not self.cap() > 0:
            raise ValueError(
                f"n = {self.n} samples at alpha = {self.alpha} can never certify anything: even if all of them agree, "
                f"the bound is {lower_bound(self.n, self.n, self.alpha):.4f}, and 1/2 is needed; raise n or alpha"
            )

    def cap(self) -> float:
        best = 0.0 if self.randomized else None
        return self._evidence({"0": self.n0} if self.n0 else {}, {"0": self.n}, 0, best, 0).claim().radius

    def samples(self) -> int:
        return self.n0 + self.n

    def procedure(self, seed: Seed, numbers: int) -> Procedure:
        selection = (yield self.n0) if self.n0 else [0]
        votes = yield self.n
        w = uniform(seed) if self.randomized else None
        return self._evidence(sparse(selection), sparse(votes), votes[-1], w, numbers)

    @property
    def continues(self) -> bool:
        return self.noise.skips

    def continue_batch(
        self,
        classifier: Classifier,
        x: Tensor,
        seeds: Sequence[Seed],
        batch_size: int,
        found: Sequence[SamplingEvidence],
    ) -> Iterator[tuple[int, Certificate]]:
        before = dict(zip(seeds, found, strict=True))
        drawn = self.n0 + found[0].estimation

        def procedure(seed: Seed, numbers: int) -> Procedure:
            return self._more(before[seed], numbers)

        for row, evidence in sample(classifier, x, seeds, self.noise, self.sigma, procedure, batch_size, drawn):
            yield row, self.certificate(evidence)

    def _more(self, before: SamplingEvidence, numbers: int) -> Procedure:
        votes = yield self.n - before.estimation
        together = Counter(sparse(votes)) + Counter(before.votes)
        w = before.w if isinstance(before, FixedVotes) else None
        ordered = {label: together[label] for label in sorted(together, key=int)}
        return self._evidence(before.selection, ordered, votes[-1] + before.invalid, w, numbers)

    def _evidence(
        self, selection: Mapping[str, int], votes: Mapping[str, int], invalid: int, w: float | None, numbers: int
    ) -> FixedVotes:
        settings = {"sigma": self.sigma, "noise": self.noise, "n0": self.n0, "alpha": self.alpha, "n": self.n}
        settings |= {"numbers": numbers, "delta": self.delta(numbers), "two_class": self.two_class}
        return FixedVotes(**settings, selection=selection, votes=votes, invalid=invalid, w=w)


DEFAULT = Gaussian()
