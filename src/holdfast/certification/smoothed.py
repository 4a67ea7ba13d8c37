"""A smoothed classifier as a module: predict, perhaps abstaining, and certify."""

from collections.abc import Iterator
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from .driver import certify, default_batch_size, noise_seed
from .checks import check
from ..certifiers.split import Split
from ..nn.split import SplitClassifier
from ..smoothing.engine import Procedure, sample, sparse
from ..core.certificate import Certificate
from ..core.certifier import Certifier

ABSTAIN = -1
"""What `SmoothedClassifier.predict` returns where it abstains."""


class SmoothedClassifier(nn.Module):
    """g(x) = the class that `model` most probably gives to x + noise, with the noise of a sampling certifier.

    Cohen et al. (2019), eq. (1). Each call with the same seed draws the same noise. The noise of the certifier `Split`
    is on the features of a `SplitClassifier`.
    """

    def __init__(self, model: nn.Module, certifier: Certifier) -> None:
        super().__init__()
        sigma = getattr(certifier, "sigma", None)
        if sigma is None:
            raise ValueError(f"expected a certifier that samples, such as Gaussian(sigma=0.25), got {certifier}")
        if isinstance(certifier, Split) and not isinstance(model, SplitClassifier):
            raise ValueError(f"the certifier Split needs a SplitClassifier, got {type(model).__name__}")
        self.model, self.certifier, self.sigma = model, certifier, float(sigma)

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
        seeds = [noise_seed(seed, index) for index in range(len(x))]
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
