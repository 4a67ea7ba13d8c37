"""SmoothAdv: adversarial training of the smoothed classifier, alone or with consistency regularisation.

Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS 2019,
https://arxiv.org/abs/1906.04584, the PGD variant. MNIST: the baseline of SmoothMix; CIFAR-10: the re-run of Jeong et
al. (CAT-RS, 2023); ImageNet: the released logs PGD_1step, whose other settings are not published. The released code
divides epsilon by 256 where the papers say 255; we keep its numbers: 255 / 256 is 0.996.

With consistency regularisation the noisy copies of an adversarial image shall all be predicted alike: Jeong & Shin,
"Consistency Regularization for Certified Robustness of Smoothed Classifiers", NeurIPS 2020,
https://arxiv.org/abs/2006.04062, section 4. All its settings from the folder names of the released logs.

    holdfast train smoothadv-mnist-0.50
    holdfast train smoothadv-consistency-mnist-1.00
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..attacks import attack, warm_up
from ..certifiers.gaussian import Gaussian
from ..core.certifier import Classifier
from ..core.recipe import Method
from ..smoothing.copies import check, cross_entropy, draw, predict
from ._protocol import cifar10, digits, imagenet, mnist
from .consistency import inconsistency


@dataclass(frozen=True)
class SmoothAdv(Method):
    """Cross-entropy on noisy copies of adversarial images, which were found with the same noise."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    copies: int = 4
    """Noisy copies of an image in each step; m_train in the paper."""
    epsilon: float = 255 / 256
    """Largest l2 distance of an adversarial image, in pixel units."""
    steps: int = 10
    """Steps of the attack, each of length 2 epsilon / steps; T in the paper."""
    warmup: float = 1 / 9
    """Part of the training over which epsilon grows linearly from 0: 10 epochs of 90. The released code steps it up
    once per epoch, which is half an epoch earlier on average."""

    def __post_init__(self) -> None:
        check(self, copies=1, epsilon=0, steps=0, warmup=0)

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        return cross_entropy(self.logits(model, x, y, t), y)

    def logits(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Float[Tensor, "copies batch class"]:
        """Logits of the noisy copies of adversarial images."""
        noise = draw(x, self.sigma, self.copies)
        epsilon = self.epsilon * warm_up(t, self.warmup)
        x = attack(model, x, y, noise, self.steps, 2 * epsilon / max(self.steps, 1), epsilon)
        return predict(model, x, noise)

    def certifier(self) -> Gaussian:
        return Gaussian(sigma=self.sigma)


@dataclass(frozen=True)
class SmoothAdvConsistency(Method):
    """The loss of Consistency, on the adversarial images of SmoothAdv."""

    smoothadv: SmoothAdv
    """The adversarial images, and the noise."""
    weight: float = 1.0
    """Weight of the divergence of the copies from their mean; lambda in the paper."""
    entropy: float = 0.5
    """Weight of the entropy of the mean prediction; eta in the paper."""

    def __post_init__(self) -> None:
        check(self, weight=0, entropy=0)

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        logits = self.smoothadv.logits(model, x, y, t)
        return cross_entropy(logits, y) + inconsistency(logits, self.weight, self.entropy)

    def certifier(self) -> Gaussian:
        return self.smoothadv.certifier()


def _cifar10(sigma: float, copies: int, epsilon: float) -> SmoothAdv:
    return SmoothAdv(sigma, copies, epsilon, warmup=10 / 150)


RECIPES = {
    "smoothadv-digits-0.25": digits(SmoothAdv(0.25, copies=2, epsilon=0.5, steps=4)),
    **{f"smoothadv-mnist-{sigma:.2f}": mnist(SmoothAdv(sigma), copies=4) for sigma in (0.25, 0.5, 1.0)},
    **{
        f"smoothadv-cifar10-{sigma:.2f}": cifar10(SmoothAdv(sigma, copies, epsilon, warmup=10 / 150), copies)
        for sigma, copies, epsilon in ((0.25, 4, 1.0), (0.5, 8, 1.0), (1.0, 2, 2.0))
    },
    **{
        f"smoothadv-imagenet-{sigma:.2f}": imagenet(SmoothAdv(sigma, 1, epsilon, steps=1))
        for sigma, epsilon in ((0.5, 255 / 256), (1.0, 2.0))
    },
    "smoothadv-consistency-digits-0.25": digits(SmoothAdvConsistency(SmoothAdv(0.25, copies=2, epsilon=0.5, steps=4))),
    **{
        f"smoothadv-consistency-mnist-{sigma:.2f}": mnist(SmoothAdvConsistency(SmoothAdv(sigma)), copies=4)
        for sigma in (0.25, 0.5, 1.0)
    },
    **{
        f"smoothadv-consistency-cifar10-{sigma:.2f}": cifar10(
            SmoothAdvConsistency(_cifar10(sigma, copies, epsilon), weight), copies
        )
        for sigma, copies, epsilon, weight in ((0.25, 4, 255 / 256, 2.0), (0.5, 2, 2.0, 1.0), (1.0, 2, 2.0, 1.0))
    },
}
