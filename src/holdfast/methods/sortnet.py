"""Training of SortNet: l-inf-dist nets whose neurons sort, estimated in training by random parts of their inputs.

Zhang, Jiang, He & Wang, "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function
Perspective", NeurIPS 2022, https://arxiv.org/abs/2210.01787, hyper-parameters from the commands of their code. The
architecture draws the parts. Without a perceptron the loss is that of `LInfDist`; with one, a hinge on interval bounds.
Ours: p on a ladder, means over training images that are not cropped, and the images of ImageNet: see docs/fidelity.md.

    holdfast train sortnet-mnist-0.3
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..core.certifier import Classifier
from ..core.recipe import Optimizer, Recipe
from ..nn.linf import ExponentSchedule, TanhHead, linf_net
from ..nn.linf.layers import distance_layers
from .linf_dist import LInfDist, LpAdam


@dataclass(frozen=True)
class SortNet(LInfDist):
    """Hinge on the gap to every rival, plus cross-entropy with a weight that decays while p grows."""


@dataclass(frozen=True)
class SortNetPlus(SortNet):
    """Hinge on the interval bounds of a perceptron, which ask for a margin of 1, plus cross-entropy.

    `clipped` leaves out the hinge of misclassified images.
    """

    ramp: float = 500 / 3000
    """Share of training over which the radius grows: at first with its fourth power, then linearly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ramp <= 1:
            raise ValueError(f"expected ramp in (0, 1], got {self.ramp}")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        network = linf_net(model)
        if not isinstance(network.head, TanhHead):
            raise ValueError("this method trains a perceptron on distances, such as sortnet-plus-5120x5-0.70")
        features: list[Tensor] = []
        with network.head.register_forward_pre_hook(lambda _, inputs: features.extend(inputs)):
            logits = network.tempered(model(x))
        reach = growing(t / self.ramp) * self.overshoot * self.epsilon / network.std
        margins = network.head.lower_margins(features[0] - reach, features[0] + reach, y)
        gap = (1 - margins).scatter(1, y[:, None], 0).clamp(min=0)
        if self.clipped:
            gap = gap * (logits.argmax(1) == y)[:, None]
        hinge = torch.lerp(gap.amax(1).mean(), gap.mean(), self.mean_share)
        return self.hinge * hinge + self._weight(t) * cross_entropy(logits, y)


SMOOTH = 0.4
"""The share of the ramp in which the radius grows with the fourth power."""


def growing(ratio: float) -> float:
    """From 0 to 1: k ratio^4, then linear with the same slope at the seam, k = 1 / ((4 - 3 s) s^3)."""
    if ratio >= 1:
        return 1.0
    scale = 1 / ((4 - 3 * SMOOTH) * SMOOTH**3)
    if ratio < SMOOTH:
        return scale * ratio**4
    seam = scale * SMOOTH**4
    return seam + (1 - seam) * (ratio - SMOOTH) / (1 - SMOOTH)


@dataclass(frozen=True)
class SortAdam(Optimizer):
    """AdamW whose decay leaves distance layers out: it is for the weights of a perceptron and the temperature.

    As in their code, betas and epsilon included, and the cosine from the start of training on.
    """

    lr: float = 0.02
    """Learning rate at the start; it falls to 0 with a cosine."""
    weight_decay: float = 0.02
    """Each step takes lr * weight_decay times a weight from it."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        distances = {id(weight) for layer in distance_layers(model) for weight in layer.parameters()}
        own = [weight for weight in model.parameters() if id(weight) in distances]
        others = [weight for weight in model.parameters() if id(weight) not in distances]
        groups = [{"params": own, "weight_decay": 0.0}, {"params": others}]
        return torch.optim.AdamW(groups, self.lr, betas=(0.9, 0.99), eps=1e-10, weight_decay=self.weight_decay)

    def rate(self, t: float) -> float:
        return self.lr * (1 + math.cos(math.pi * t)) / 2


CROPS = {"mnist": 1, "cifar10": 3, "tiny-imagenet": 5, "imagenet@64": 4}


def _published(dataset: str, arch: str, method: SortNet, phases: tuple[int, int, int]) -> Recipe:
    """`phases` are the epochs with p = 8, with p growing, and with p = inf."""
    method = method.replace(schedule=ExponentSchedule.of_epochs(*phases))
    shifts = {"crop": CROPS[dataset], "border": "edge", "flip": dataset != "mnist"}
    return Recipe(method, SortAdam(), dataset, arch, sum(phases), batch_size=512, **shifts)


def _imagenet(arch: str, phases: tuple[int, int, int]) -> Recipe:
    """Images of 64 x 64 pixels: the centre of a picture, scaled down. Batches are of two devices together.

    Theirs come from a folder, and how they were scaled is not said; with such a folder, `--dataset folder:DIR`.
    """
    recipe = _published("imagenet@64", arch, PLUS.replace(epsilon=1 / 255, ramp=200 / 300), phases)
    return recipe.replace(optimizer=SortAdam(0.01), batch_size=1024)


PLUS = SortNetPlus(2 / 255, 1.1, ce_start=1.0, ce_end=0.01)
SHORT, LONG = (100, 1350, 50), (200, 2750, 50)
TINY = ("tiny-imagenet", PLUS.replace(epsilon=1 / 255, ramp=500 / 1000), (100, 880, 20))

RECIPES = {
    "sortnet-digits-0.1": Recipe(
        SortNet(0.1), LpAdam(), dataset="digits", arch="sortnet-128x2-0.75", epochs=100, batch_size=64
    ),
    "sortnet-mnist-0.3-20-epochs": _published(
        "mnist", "sortnet-512x2-0.75", SortNet(0.3, 1.5, ce_start=0.05, ce_end=0.0002), (9, 9, 2)
    ).replace(optimizer=LpAdam(), border="zero"),
    "sortnet-mnist-0.1": _published(
        "mnist", "sortnet-5120x4-0.70", SortNet(0.1, 3.0, ce_start=0.1, ce_end=0.001), SHORT
    ),
    "sortnet-mnist-0.3": _published(
        "mnist", "sortnet-5120x4-0.75", SortNet(0.3, 1.5, ce_start=0.02, ce_end=0.0002), SHORT
    ),
    "sortnet-cifar10-2": _published(
        "cifar10", "sortnet-5120x5-0.75", SortNet(2 / 255, 4.0, ce_start=1.0, ce_end=0.01), LONG
    ),
    "sortnet-cifar10-8": _published(
        "cifar10", "sortnet-5120x5-0.85", SortNet(8 / 255, 3.0, ce_start=0.2, ce_end=0.002), LONG
    ),
    "sortnet-plus-cifar10-2": _published("cifar10", "sortnet-plus-5120x5-0.70", PLUS, LONG),
    "sortnet-plus-cifar10-8": _published("cifar10", "sortnet-plus-5120x5-0.60", PLUS.replace(epsilon=8 / 255), LONG),
    "sortnet-plus-tiny-imagenet-1": _published(TINY[0], "sortnet-plus-5120x5-0.70", *TINY[1:]),
    "sortnet-plus-2x-tiny-imagenet-1": _published(TINY[0], "sortnet-plus-2x-5120x5-0.70", *TINY[1:]),
    "sortnet-plus-imagenet64-1": _imagenet("sortnet-plus-5120x5-2048-0.70", (30, 260, 10)),
    "sortnet-plus-2x-imagenet64-1": _imagenet("sortnet-plus-2x-5120x5-2048-0.70", (50, 240, 10)),
}
