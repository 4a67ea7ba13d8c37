"""EMMA: every class is pushed away by as much as it can gain within epsilon, but no further than to a tie.

Hu, Zou, Wang, Leino & Fredrikson, "Unlocking Deterministic Robustness Certification on ImageNet", NeurIPS 2023,
https://arxiv.org/abs/2301.12549 (recipes with 2023, and `emma-imagenet-1.0`), section 5, with the floor of their code;
"A Recipe for Improved Certifiable Robustness", ICLR 2024, https://arxiv.org/abs/2310.02513 (the others). The
certificate does not use the estimate that the loss uses: see `margin`.

    holdfast train emma-cifar10-small
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, softplus

from ..certifiers.margin import Margin
from ..core.certifier import Classifier
from ..core.recipe import Method, Recipe
from ..nn.lipschitz import lipschitz_net
from ..optim import LookaheadNAdam, WarmAdamW
from .gloro import bottom_logit


@dataclass(frozen=True)
class Emma(Method):
    """Cross-entropy of logits that are moved by what each class can gain within epsilon."""

    epsilon: float = 36 / 255
    """Radius to be robust within, in pixel units of [0, 1] images."""
    start: float = 0.1
    """Radius of training at its start, as a multiple of epsilon."""
    end: float = 3.0
    """Radius of training from half-time on, as a multiple of epsilon."""
    floor: float = 0.01
    """Least share of the radius that a class gains, also where the image is misclassified. 1: every class gains all of
    it, the loss of the 2023 code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")
        if min(self.start, self.end) < 0 or not 0 <= self.floor <= 1:
            raise ValueError(
                f"expected start, end >= 0 and floor in [0, 1], got {self.start}, {self.end}, {self.floor}"
            )

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        return cross_entropy(self.logits(model, x, y, t), y)

    def certifier(self) -> Margin:
        return Margin()

    def training_epsilon(self, t: float) -> float:
        """Radius of training at progress t: linear, as in the paper, where their code has a step per epoch."""
        return self.epsilon * (self.start + (self.end - self.start) * min(2 * t, 1.0))

    def logits(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        """Logits (batch, class), less that of the label, after every class has gained what it can."""
        constants = lipschitz_net(model).difference_estimates()
        logits = model(x)
        lead = logits.gather(1, y[:, None]) - logits
        reach = self.training_epsilon(t) * constants[y]
        share = (lead / reach.clamp_min(1e-8)).clamp(self.floor, 1).detach()
        return share * reach - lead


@dataclass(frozen=True)
class AnnealedEmma(Method):
    """EMMA with logit annealing, which stops pushing images that have a margin already.

    Lai et al., "Enhancing Certified Robustness via Block Reflector Orthogonal Layers and Logit Annealing Loss", ICML
    2025, https://arxiv.org/abs/2505.15174, applied to the logits of EMMA as in their code.
    """

    emma: Emma = Emma()
    temperature: float = 0.75
    """T in the paper."""
    offset: float = 2.0
    """Handicap of the label's logit; xi in the paper."""
    focus: float = 5.0
    """Exponent that makes images with a margin count less; beta in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be positive, got {self.temperature}")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        logits = self.emma.logits(model, x, y, t)
        handicapped = (logits - self.offset * one_hot(y, logits.shape[1])) / self.temperature
        losses = cross_entropy(handicapped, y, reduction="none")
        return (self.temperature * (1 - torch.exp(-losses)) ** self.focus * losses).mean()

    def certifier(self) -> Margin:
        return self.emma.certifier()


@dataclass(frozen=True)
class Trades(Method):
    """Plain cross-entropy, and the divergence from the plain to the robust classifier, at the radii of EMMA.

    That is what the paper of 2023 compares EMMA with, as in its code; of Leino et al. (2021): see `gloro`.
    """

    epsilon: float = 36 / 255
    """Radius to be robust within, in pixel units of [0, 1] images."""
    start: float = 0.1
    """Radius of training at its start, as a multiple of epsilon."""
    end: float = 1.5
    """Radius of training from half-time on, as a multiple of epsilon."""
    weight: float = 1.0
    """Weight of the divergence; lambda in the paper."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")
        if min(self.start, self.end, self.weight) < 0:
            raise ValueError(f"expected start, end, weight >= 0, got {self.start}, {self.end}, {self.weight}")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        constants, logits = lipschitz_net(model).difference_estimates(), model(x)
        bottom = bottom_logit(logits, constants, self.training_epsilon(t))
        divergence = softplus(bottom - logits.logsumexp(1)).mean()  # KL(plain || robust) = -log(1 - p_bottom)
        return cross_entropy(logits, y) + self.weight * divergence

    def certifier(self) -> Margin:
        return Margin()

    def training_epsilon(self, t: float) -> float:
        """As for `Emma`."""
        return Emma(self.epsilon, self.start, self.end).training_epsilon(t)


EPOCHS, WARM = 800, 20
"""On CIFAR and Tiny-ImageNet; of ImageNet 400. The warm-up is of 20 in both."""


def _recipe(method: Method, dataset: str, arch: str, crop: int = 4, share: float = 0.5) -> Recipe:
    """2024: NAdam with Lookahead, batches of 256, clipped at 3, RandAugment of a share of the images.

    The published batches hold 768 generated images besides: --extra-data npz:FILE.
    """
    optimizer = LookaheadNAdam(warm_up=WARM / EPOCHS)
    plain = Recipe(method, optimizer, dataset, arch, EPOCHS, batch_size=256, crop=crop, flip=True, clip=3.0)
    return plain.replace(randaugment=share)


def _first(method: Method, dataset: str, arch: str, crop: int = 4) -> Recipe:
    """2023: AdamW, batches of 256, clipped at 3, no RandAugment."""
    return _recipe(method, dataset, arch, crop, share=0.0).replace(optimizer=WarmAdamW(warm_up=WARM / EPOCHS))


def _imagenet(method: Method, arch: str) -> Recipe:
    """2024: batches of 256, the shorter side from 224 to 288 pixels, RandAugment of every image."""
    recipe = _recipe(method, "imagenet", arch, crop=0, share=1.0).replace(epochs=400, sides=(224, 288))
    return recipe.replace(optimizer=LookaheadNAdam(warm_up=WARM / 400))


def _first_imagenet(method: Method, arch: str) -> Recipe:
    """2023: batches of 1,024, no weight decay, the shorter side of 256 pixels."""
    recipe = _imagenet(method, arch).replace(batch_size=1024, sides=(256, 256), randaugment=0.0)
    return recipe.replace(optimizer=WarmAdamW(warm_up=WARM / 400, weight_decay=0.0))


def _small(arch: str) -> Recipe:
    """A third party's 30 epochs without generated images: VRA 51.0 at 36/255, by power iteration.

    Ours: no RandAugment.
    """
    return _recipe(Emma(), "cifar10", arch, share=0.0).replace(epochs=30)


def _short(recipe: Recipe) -> Recipe:
    """Ours, chosen on held-out training images: a fifth of the epochs, in which smaller batches, three times the rate
    and whole images bring more than crops; see docs/speedrun.md."""
    optimizer = LookaheadNAdam(lr=3e-3, warm_up=0.1)
    return recipe.replace(optimizer=optimizer, epochs=recipe.epochs // 5, batch_size=128, crop=0)


TINY = "tiny-imagenet"
SNAPSHOT = "liresnet-2023-18x256"
FIRST, FIRST_MARGIN = Emma(end=1.5), Emma(end=1.5, floor=1.0)
"""With the loss of the paper of 2023, and with that of its code."""

RECIPES = {
    "emma-digits": _recipe(Emma(), "digits", "liresnet-2x32", crop=0, share=0.0).replace(
        epochs=60, batch_size=64, flip=False
    ),
    "emma-cifar10-small": _small("liresnet-small"),
    "emma-cifar10-small-short": _short(_small("liresnet-small")),
    "emma-cifar10-small-stride1": _small("liresnet-small-stride1"),
    "emma-cifar10-12x128": _recipe(Emma(), "cifar10", "liresnet-12x128"),
    **{
        f"emma{suffix}-{dataset}": _recipe(method, dataset, "liresnet-12x512")
        for suffix, method in (("", Emma()), ("-annealed", AnnealedEmma()))
        for dataset in ("cifar10", "cifar100")
    },
    "emma-tiny-imagenet": _recipe(Emma(), TINY, "liresnet-12x512", crop=8),
    "emma-imagenet": _imagenet(Emma(end=2.0), "liresnet-12x588"),
    "emma-2023-cifar10": _first(FIRST, "cifar10", "liresnet-2023-12x512"),
    "emma-2023-cifar100": _first(FIRST, "cifar100", "liresnet-2023-12x512"),
    "emma-2023-cifar100-18x256": _first(FIRST, "cifar100", SNAPSHOT),
    "emma-2023-tiny-imagenet": _first(FIRST, TINY, f"{SNAPSHOT}-stride4", crop=8),
    "emma-2023-imagenet": _first_imagenet(FIRST, "liresnet-2023-12x588"),
    "emma-imagenet-1.0": _first_imagenet(Emma(1.0, end=1.5), "liresnet-2023-18x588"),
    **{
        f"emma-2023-{block}-cifar10": _first(FIRST, "cifar10", f"liresnet-2023-{block}-18x256")
        for block in ("plain", "residual")
    },
    **{f"trades-2023-{dataset}": _first(Trades(), dataset, SNAPSHOT) for dataset in ("cifar10", "cifar100")},
    "margin-2023-cifar10": _first(FIRST_MARGIN, "cifar10", SNAPSHOT),
    "margin-2023-cifar100": _first(FIRST_MARGIN, "cifar100", SNAPSHOT),
    "margin-2023-tiny-imagenet": _first(FIRST_MARGIN, TINY, f"{SNAPSHOT}-stride4", crop=8),
}
