"""A smoothed classifier as a module: predict, perhaps abstaining, and certify."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from .certification import certify, default_batch_size, noise_of, noise_seed
from .certifiers.split import Split
from .checks import as_module, check, check_certifier, check_images
from .models.split import SplitClassifier
from .smoothing.binomial import check_alpha
from .smoothing.sampling import Procedure, sample, sparse
from .types import Certificate, Certifier, Classifier

ABSTAIN = -1
"""What `SmoothedClassifier.predict` returns where it abstains."""


class SmoothedClassifier(nn.Module):
    """g(x) = the class that `model` most probably gives to x + noise, with the noise of a sampling certifier.

    Cohen et al. (2019), eq. (1). Each call draws fresh noise; with the same seed it draws the same. The noise of the
    certifier `Split` is on the features of a `SplitClassifier`.
    """

    def __init__(self, model: nn.Module | Classifier, certifier: Certifier) -> None:
        super().__init__()
        check_certifier(certifier)
        sigma = getattr(certifier, "sigma", None)
        if sigma is None:
            raise ValueError(f"expected a certifier that samples, such as Gaussian(sigma=0.25), got {certifier}")
        if isinstance(certifier, Split) and not isinstance(model, SplitClassifier):
            raise ValueError(f"the certifier Split needs a SplitClassifier, got {type(model).__name__}")
        self.model, self.certifier, self.sigma = as_module(model), certifier, float(sigma)

    def forward(self, x: Tensor) -> Tensor:
        """The same as `predict`."""
        return self.predict(x)

    def predict(
        self,
        x: Tensor,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> Tensor:
        """Classes (batch,), -1 where it abstains; wrong with probability at most alpha per image.

        Cohen et al. (2019), algorithm PREDICT.

        Args:
            x: images (batch, channel, height, width) in [0, 1].
            n: noisy samples per image.
            alpha: probability that a prediction is not that of g.
            seed: image i gets the noise of (seed, indices[i]); drawn afresh where there is none.
            indices: names the images; default 0, 1, ...
        """
        check_alpha(alpha)
        check_images(x)
        check(self.model, x, default_batch_size(x.device))
        seed, named = noise_of(len(x), seed, indices)
        seeds = [noise_seed(seed, index) for index in named]
        classes = torch.full((len(x),), ABSTAIN, device=x.device)
        for row, certificate in self._votes(x, seeds, n, alpha):
            if certificate.prediction is not None:
                classes[row] = certificate.prediction
        return classes

    def certify(self, x: Tensor, **options: Any) -> list[Certificate]:
        """`holdfast.certify` with this model and certifier."""
        return certify(self.model, x, self.certifier, **options)

    @torch.inference_mode()
    def _votes(self, x: Tensor, seeds: list[int], n: int, alpha: float) -> Iterator[tuple[int, Certificate]]:
        batch_size = default_batch_size(x.device)
        noisy, classifier = x, self.model
        if isinstance(self.certifier, Split) and isinstance(self.model, SplitClassifier):
            noisy, classifier = self.model.features(x), self.model.right
        yield from sample(classifier, noisy, seeds, self.sigma, lambda _: _predict(n, alpha), batch_size)


def _predict(n: int, alpha: float) -> Procedure:
    votes = yield n
    first, second = sorted(votes[:-1], reverse=True)[:2]
    sure = first > second and binomtest(first, first + second, 0.5).pvalue <= alpha
    top = votes[:-1].index(first) if sure else None
    return Certificate(top, 0.0, "l2", 1 - alpha, {"votes": sparse(votes), "n": n, "alpha": alpha})
