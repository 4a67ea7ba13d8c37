"""Randomized smoothing with Gaussian noise and a fixed number of samples.

Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
https://arxiv.org/abs/1902.02918, algorithm CERTIFY; options from later work, each cited at its field.

    holdfast certify RUN gaussian --n 100000
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from ..smoothing.binomial import (
    check_alpha,
    gaussian_radius,
    lower_bound,
    randomised_lower_bound,
    two_class_radius,
    upper_bound,
)
from ..smoothing.sampling import Procedure, sample, sparse
from ..types import Certificate, Certifier, Classifier


@dataclass(frozen=True)
class Gaussian(Certifier):
    """l2 certificates from n noisy samples per image."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    n0: int = 100
    """Samples that select the class. 0 selects it from the n samples and pays for it with half of alpha: the form of
    Seferis, Kollias & Cheng (2024), at its true level."""
    n: int = 100_000
    """Samples that bound the probability of the class; never those that selected it."""
    alpha: float = 0.001
    """Probability that the certificate of an example is wrong."""
    two_class: bool = False
    """Bound the best rival too, with alpha / 2 for either side: proves more where no class has half of the votes.
    Cohen et al., Theorem 1; Voracek (2024), appendix B."""
    randomised: bool = False
    """Randomised Clopper-Pearson, exact instead of conservative; one random number per example. Voracek (2024)."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma < np.inf:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        check_alpha(self.alpha)
        if self.n0 < 0:
            raise ValueError(f"n0 must not be negative, got {self.n0}")
        if self.two_class and self.n0 == 0:
            raise ValueError("two_class needs samples that select the class: set n0 to 1 or more")
        if not self.cap() > 0:
            raise ValueError(
                f"n = {self.n} samples at alpha = {self.alpha} can never certify anything: even if all of them agree, "
                f"the bound is {lower_bound(self.n, self.n, self._level()):.4f}, and 1/2 is needed; raise n or alpha"
            )

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[int], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        return sample(classifier, x, seeds, self.sigma, self._procedure, batch_size)

    def cap(self) -> float:
        bound = partial(randomised_lower_bound, w=0.0) if self.randomised else lower_bound  # the luckiest draw of w
        winner = bound(self.n, self.n, self._level())
        rival = upper_bound(0, self.n, self._level()) if self.two_class else 1 - winner
        return two_class_radius(winner, rival, self.sigma)

    def samples(self) -> int:
        return self.n0 + self.n

    def _level(self) -> float:
        return self.alpha / 2 if self.two_class or self.n0 == 0 else self.alpha

    def _procedure(self, seed: int) -> Procedure:
        selection = (yield self.n0) if self.n0 else None
        votes = yield self.n
        top = int(np.argmax((selection or votes)[:-1]))
        evidence = {
            "selection": sparse(selection or []),
            "votes": sparse(votes),
            "invalid": votes[-1],
            "samples": self.samples(),
        }
        evidence |= self._bounds(top, votes[:-1], seed)
        return Certificate(
            prediction=top if evidence["radius"] > 0 else None,
            radius=evidence.pop("radius"),
            norm="l2",
            confidence=1 - self.alpha,
            evidence=evidence,
        )

    def _bounds(self, top: int, votes: list[int], seed: int) -> dict[str, float]:
        """The radius and the numbers it follows from."""
        found: dict[str, float] = {"sigma": self.sigma, "n0": self.n0, "n": self.n, "alpha": self.alpha}
        if self.randomised:
            found["w"] = w = float(np.random.default_rng([seed, 1]).random())
            found["p_lower"] = randomised_lower_bound(votes[top], self.n, self._level(), w)
        else:
            found["p_lower"] = lower_bound(votes[top], self.n, self._level())
        if not self.two_class:
            return found | {"radius": gaussian_radius(found["p_lower"], self.sigma)}
        found["p_upper"] = upper_bound(max(votes[:top] + votes[top + 1 :]), self.n, self._level())
        found["one_class_radius"] = gaussian_radius(lower_bound(votes[top], self.n, self.alpha), self.sigma)
        return found | {"radius": two_class_radius(found["p_lower"], found["p_upper"], self.sigma)}


DEFAULT = Gaussian()
