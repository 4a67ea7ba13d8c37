"""A smoothed classifier as a module: predict, perhaps abstaining, and certify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from ..core.certificate import Certificate
from ..core.certifier import Certifier, Seed
from ..core.evidence import Claim
from ..smoothing.engine import sample
from ..smoothing.evidence import Procedure, SamplingEvidence, runner_up, sparse
from .checks import check
from .driver import certify, default_batch_size

ABSTAIN = -1
"""What `SmoothedClassifier.predict` returns where it abstains."""


@dataclass(frozen=True)
class PredictionVotes(SamplingEvidence):
    """Votes that decide a class without a radius: Cohen et al. (2019), algorithm PREDICT."""

    def claim(self) -> Claim:
        first = self.votes.get(str(self.top), 0)
        second = runner_up(self.votes, self.top)
        sure = first > second and binomtest(first, first + second, 0.5).pvalue <= self.alpha
        return Claim(self.top if sure else None, 0.0)


class SmoothedClassifier(nn.Module):
    """g(x) = the class that `model` most probably gives to x + noise, with the noise of a sampling certifier.

    Cohen et al. (2019), eq. (1). Each call with the same seed draws the same noise. The noise of the certifier `Split`
    is on the features of a `SplitClassifier`.
    """

    def __init__(self, model: nn.Module, certifier: Certifier) -> None:
        super().__init__()
        if certifier.sampling is None:
            raise ValueError(f"expected a certifier that samples, such as Gaussian(sigma=0.25), got {certifier}")
        certifier.require(model)
        self.model, self.certifier, self.sampling = model, certifier, certifier.sampling

    def forward(self, x: Tensor) -> Tensor:
        """The same as `predict`."""
        return self.predict(x)

    def predict(self, x: Tensor, n: int = 1000, alpha: float = 0.001, seed: int = 0) -> Tensor:
        """Classes (batch,), -1 where it abstains; wrong with probability at most alpha per image.

        Cohen et al. (2019), algorithm PREDICT.

        Args:
            x: images (batch, channel, height, width) in [0, 1].
            n: noisy samples per image.
            alpha: probability that a prediction is not that of g.
        """
        check(self.model, x)
        noise, sigma = self.sampling.noise, self.sampling.sigma

        def procedure(seed: Seed, numbers: int) -> Procedure:
            votes = yield n
            settings = {"sigma": sigma, "noise": noise, "n0": 0, "alpha": alpha, "delta": noise.delta(sigma, numbers)}
            return PredictionVotes(**settings, selection={}, votes=sparse(votes), invalid=votes[-1])

        classes = torch.full((len(x),), ABSTAIN, device=x.device)
        seeds = [Seed(seed, index) for index in range(len(x))]
        with torch.inference_mode():
            z, classifier = self.certifier.smoothed_part(self.model, x)
            for row, evidence in sample(classifier, z, seeds, noise, sigma, procedure, default_batch_size(x.device)):
                claim = evidence.claim()
                if claim is not None and claim.prediction is not None:
                    classes[row] = claim.prediction
        return classes

    def certify(self, x: Tensor, **options: Any) -> list[Certificate]:
        """`holdfast.certify` with this model and certifier."""
        return certify(self.model, x, self.certifier, **options)
