"""A smoothed classifier as a module: predict, perhaps abstaining, and certify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..core.arguments import integer
from ..core.certificate import Certificate, Claim
from ..core.certifier import Certifier, Classifier, Seed
from ..smoothing.certifier import sample
from ..smoothing.evidence import Procedure, SamplingEvidence, runner_up, sparse
from ..smoothing.statistics.binomial import check_alpha
from .checks import as_module, check, check_certifier
from .images import as_images, certify, noise_of
from .runtime import batch_size_of

ABSTAIN = -1
"""What `SmoothedClassifier.predict` returns where it abstains."""


@dataclass(frozen=True)
class PredictionVotes(SamplingEvidence):
    """Votes that decide a class without a radius: Cohen et al. (2019), algorithm PREDICT."""

    def claim(self) -> Claim:
        first = self.votes.get(str(self.top), 0)
        second = runner_up(self.votes, self.top)
        level = self.alpha - self.estimation * self.delta  # all samples together are that far from the ideal ones
        sure = first > second and binomtest(first, first + second, 0.5).pvalue <= level
        return Claim(self.top if sure else None, 0.0)


class SmoothedClassifier(nn.Module):
    """g(x) = the class that `model` most probably gives to x + noise, with the noise of a sampling certifier.

    Cohen et al. (2019), eq. (1). Each call draws fresh noise; with the same seed it draws the same. The noise of the
    certifier `Split` is on the features of a `SplitClassifier`.

    Args:
        model: maps images in [0, 1] to logits (batch, class); in eval mode.
        certifier: one that samples: its noise, sigma and alpha are used.
        samples: noise samples of `forward`.
        votes: `forward` returns the share of the samples that each class wins, instead of the mean of their softmax.
        batch_size: noisy images in one forward pass; default 64 on a CPU, 1024 elsewhere.
    """

    def __init__(
        self,
        model: nn.Module | Classifier,
        certifier: Certifier,
        samples: int = 100,
        votes: bool = False,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_certifier(certifier)
        if certifier.drawing is None:
            raise ValueError(f"expected a certifier that samples, such as Gaussian(sigma=0.25), got {certifier}")
        self.samples, self.votes = integer("samples", samples, 1), votes
        self.batch_size = None if batch_size is None else integer("batch_size", batch_size, 1)
        self.model = as_module(model)
        certifier.require(self.model)
        self.certifier, self.sampling = certifier, certifier.drawing
        self.training = self.model.training

    def forward(self, x: Tensor) -> Tensor:
        """Shares (batch, class) that sum to 1 over the classes: the mean softmax over fresh noise, differentiable in x.

        Salman et al. (2019), eq. (6): the soft version of g, which attack libraries can follow. Not a certificate.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(f"expected a floating-point torch.Tensor of images, got {getattr(x, 'dtype', type(x))}")
        z, classifier = self.certifier.smoothed_part(self.model, x)
        total: Tensor | None = None
        for part in torch.arange(len(z) * self.samples, device=z.device).split(self._batch_size(z)):
            logits = classifier(self.sampling.noise.sample(z[part // self.samples], self.sampling.sigma))
            shares = one_hot(logits.argmax(1), logits.shape[1]).to(z.dtype) if self.votes else logits.softmax(1)
            total = shares.new_zeros(len(z), shares.shape[1]) if total is None else total
            total = total.index_add(0, part // self.samples, shares)
        assert total is not None
        return total / self.samples

    @torch.inference_mode()
    def predict(
        self,
        x: Any,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> Tensor:
        """Classes (batch,), -1 where it abstains; wrong with probability at most alpha per image.

        Cohen et al. (2019), algorithm PREDICT.

        Args:
            x: images (batch, channel, height, width) in [0, 1], or what `as_images` makes them of.
            n: noise samples per image.
            alpha: probability that a prediction is not that of g.
            seed: image i gets the noise of (seed, indices[i]); drawn afresh where there is none.
            indices: names the images; default 0, 1, ...
        """
        check_alpha(alpha)
        integer("n", n, 1)
        x = as_images(x)
        check(self.model, x, self._batch_size(x))
        seed, named = noise_of(len(x), seed, indices)
        noise, sigma = self.sampling.noise, self.sampling.sigma

        def procedure(seed: Seed, numbers: int) -> Procedure:
            votes = yield n
            settings = {"sigma": sigma, "noise": noise, "n0": 0, "alpha": alpha}
            settings |= {"numbers": numbers, "delta": noise.delta(sigma, numbers)}
            return PredictionVotes(**settings, selection={}, votes=sparse(votes), invalid=votes[-1])

        classes = torch.full((len(x),), ABSTAIN, device=x.device)
        z, classifier = self.certifier.smoothed_part(self.model, x)
        seeds = [Seed(seed, index) for index in named]
        for row, evidence in sample(classifier, z, seeds, noise, sigma, procedure, self._batch_size(x)):
            claim = evidence.claim()
            if claim is not None and claim.prediction is not None:
                classes[row] = claim.prediction
        return classes

    def certify(self, x: Any, **options: Any) -> list[Certificate]:
        """`holdfast.certify` with this model and certifier."""
        return certify(self.model, x, self.certifier, **options)

    def _batch_size(self, x: Tensor) -> int:
        return batch_size_of(self.batch_size, x.device)
