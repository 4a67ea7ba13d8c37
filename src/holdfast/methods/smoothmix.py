"""SmoothMix: between an image and its adversarial version, confidence shall fall towards the uniform prediction.

Jeong et al., "SmoothMix: Training Confidence-calibrated Smoothed Classifiers for Certified Robustness", NeurIPS 2021,
https://arxiv.org/abs/2111.09277, section 3. Like the released code, and unlike the usual way of mixing, the gradient
flows through the target as well. ImageNet: the paper says "in a similar way" and no setting is released; ours are those
of CIFAR-10, a guess.

    holdfast train smoothmix-mnist-1.00
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attacks import attack, warm_up
from ..certifiers.gaussian import Gaussian
from ..core.certifier import Classifier
from ..core.recipe import Method
from ..core.threat import l2
from ..smoothing.copies import check, cross_entropy, draw, log_mean_softmax, predict
from ._protocol import cifar10, digits, imagenet, mnist, short_mnist


@dataclass(frozen=True)
class SmoothMix(Method):
    """Cross-entropy on noisy copies, and calibrated confidence on the way to an unrestricted adversarial image."""

    sigma: float = 0.25
    """Standard deviation of the noise, in pixel units of [0, 1] images."""
    copies: int = 4
    """Noisy copies of an image in each step, the same for the attack and both terms; m in the paper."""
    eta: float = 5.0
    """Weight of the mixed images; eta in the paper, `tau` in the released logs. 0 leaves Gaussian training."""
    steps: int = 4
    """Steps of the attack; T in the paper. 0 mixes an image with itself, and its target with the uniform one."""
    step_size: float = 1.0
    """l2 length of a step of the attack, in pixel units; alpha in the paper."""
    maxnorm: float = 0.0
    """Largest l2 distance of the adversarial image from the clean one, in pixel units: the restriction that the paper
    compares with, at 2, 4, 6 and 8; 0: none, as published otherwise."""
    one_step: bool = False
    """Replace the clean image by the first step of the attack, within warm-up * step_size: "one-step adversary"."""
    mix: float = 0.5
    """The share of the adversarial image is drawn from [0, mix]; lambda in the paper, which takes 1/2. 0 mixes
    nothing."""
    warmup: float = 1 / 9
    """Part of the training over which eta and the one-step adversary grow linearly from 0: 10 epochs of 90. The
    released code steps them up once per epoch, which is half an epoch earlier on average."""

    def __post_init__(self) -> None:
        check(self, copies=1, eta=0, steps=0, step_size=0, maxnorm=0, mix=0, warmup=0)
        if self.mix > 1:
            raise ValueError(f"mix must be at most 1, got {self.mix}")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        noise = draw(x, self.sigma, self.copies)
        warm = warm_up(t, self.warmup)
        x, adversary = self._ends(model, x, y, noise, warm)
        clean = predict(model, x, noise)
        smoothed = log_mean_softmax(clean).exp()
        share = self.mix * torch.rand(len(x), device=x.device, dtype=x.dtype)
        mixed = x.lerp(adversary, share.view(-1, *[1] * (x.ndim - 1)))
        target = smoothed.lerp(torch.full_like(smoothed, 1 / smoothed.shape[1]), share[:, None])
        target = target.clamp(min=1e-20)  # the gradient of 0 log 0 is NaN
        predicted = predict(model, mixed, noise).log_softmax(-1)
        divergence = F.kl_div(predicted, target.expand_as(predicted), reduction="none").sum(-1)
        right = smoothed.argmax(1) == y
        return cross_entropy(clean, y) + self.eta * warm * (right * divergence).mean()

    def certifier(self) -> Gaussian:
        return Gaussian(sigma=self.sigma)

    def _ends(self, model: Classifier, x: Tensor, y: Tensor, noise: Tensor, warm: float) -> tuple[Tensor, Tensor]:
        """The images to mix: the clean one, or that after one step, and that after all steps."""
        if self.maxnorm:
            first = attack(model, x, y, noise, min(self.steps, 1), self.step_size, self.maxnorm)
            last = attack(model, x, y, noise, max(self.steps - 1, 0), self.step_size, self.maxnorm, start=first)
        else:
            first = attack(model, x, y, noise, min(self.steps, 1), self.step_size)
            last = attack(model, first, y, noise, max(self.steps - 1, 0), self.step_size)
        if not self.one_step:
            return x, last
        limit = torch.full_like(y, warm * self.step_size, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))
        return (x + l2.project((first - x).detach(), limit)).clamp(0, 1), last


ENDS = {"smoothmix": False, "smoothmix-onestep": True}
"""Both variants of the paper."""

RECIPES = {
    "smoothmix-digits-0.25": digits(SmoothMix(0.25, copies=2, step_size=0.5)),
    **{
        f"{name}-mnist-{sigma:.2f}": mnist(SmoothMix(sigma, eta=5.0, steps=steps, one_step=one_step), copies=4)
        for name, one_step in ENDS.items()
        for sigma, steps in ((0.25, 2), (0.5, 4), (1.0, 8))
    },
    "smoothmix-mnist-0.50-short": short_mnist(SmoothMix(0.5, eta=5.0, steps=4), copies=4),
    **{
        f"{name}-eta1-mnist-{sigma:.2f}": mnist(SmoothMix(sigma, eta=1.0, steps=steps, one_step=one_step), copies=4)
        for name, one_step in ENDS.items()
        for sigma, steps in ((0.25, 3), (0.5, 4), (1.0, 8))
    },
    **{
        f"{name}-cifar10-{sigma:.2f}": cifar10(
            SmoothMix(sigma, copies=2, step_size=step_size, one_step=one_step, warmup=10 / 150), copies=2
        )
        for name, one_step in ENDS.items()
        for sigma, step_size in ((0.25, 0.5), (0.5, 1.0), (1.0, 2.0))
    },
    **{
        f"{name}-imagenet-{sigma:.2f}": imagenet(
            SmoothMix(sigma, copies=2, step_size=step_size, one_step=one_step), copies=2
        )
        for name, one_step in ENDS.items()
        for sigma, step_size in ((0.25, 0.5), (0.5, 1.0), (1.0, 2.0))
    },
}
