"""Training of l-inf-distance nets: cross-entropy of scaled logits, which fades out, beside a clipped hinge on margins.

Zhang, Jiang, He & Wang, "Boosting the Certified Robustness of L-infinity Distance Nets", ICLR 2022,
https://arxiv.org/abs/2110.06850, section 4 and appendix, hyper-parameters from their code and logs; with `clipped` off
and no cross-entropy the loss of the first paper, Zhang, Cai, Lu, He & Wang, ICML 2021,
https://arxiv.org/abs/2102.05363.

    holdfast train linf-dist-mnist-0.3
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..certifiers.linf_box import LInfBox
from ..core.certifier import Classifier
from ..core.recipe import Method, Optimizer, Recipe
from ..nn.linf import ExponentSchedule, estimate_means, linf_net, set_exponent
from ..nn.linf.layers import distance_layers


@dataclass(frozen=True)
class LInfDist(Method):
    """Hinge on the gap to every rival, plus cross-entropy with a weight that decays while p grows."""

    epsilon: float = 0.3
    """Radius to be robust within, in pixel units of [0, 1] images."""
    overshoot: float = 1.5
    """Radius of training, as a multiple of epsilon; the hinge asks for a margin of twice that."""
    hinge: float = 1.0
    """Weight of the hinge."""
    clipped: bool = True
    """The hinge stops at a gap of 0: it does not push misclassified images."""
    mean_share: float = 0.0
    """Share of the hinge that averages over all rivals, instead of the strongest."""
    ce_start: float = 0.05
    """Weight of cross-entropy while p = 8."""
    ce_end: float = 0.0002
    """Weight of cross-entropy at the end."""
    schedule: ExponentSchedule = field(default_factory=ExponentSchedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.epsilon < math.inf and 0 < self.overshoot < math.inf):
            raise ValueError(f"epsilon and overshoot must be positive, got {self.epsilon} and {self.overshoot}")
        if min(self.hinge, self.ce_start, self.ce_end) < 0 or not 0 <= self.mean_share <= 1:
            found = f"{self.hinge}, {self.ce_start}, {self.ce_end}, {self.mean_share}"
            raise ValueError(f"expected hinge, ce_start, ce_end >= 0 and mean_share in [0, 1], got {found}")
        if (self.ce_start == 0) != (self.ce_end == 0):
            raise ValueError("the weight of cross-entropy is 0 throughout or nowhere: it decays exponentially")

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        network = linf_net(model)
        logits = model(x)
        return self.hinge * self._hinge(logits, y) + self._weight(t) * cross_entropy(network.tempered(logits), y)

    def before_step(self, model: nn.Module, t: float) -> None:
        set_exponent(model, self.schedule.exponent(t))

    def certifier(self) -> LInfBox:
        return LInfBox()

    def finish(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        estimate_means(model, batches)

    def _hinge(self, logits: Tensor, y: Tensor) -> Tensor:
        """1 where a rival is as large as the label, 0 where it is below by twice the radius of training."""
        margin = 2 * self.overshoot * self.epsilon
        gap = (logits - logits.gather(1, y[:, None])) / margin + 1
        gap = gap.scatter(1, y[:, None], 0).clamp(0, 1 if self.clipped else None)
        return torch.lerp(gap.amax(1).mean(), gap.mean(), self.mean_share)

    def _weight(self, t: float) -> float:
        if self.ce_start == 0:
            return 0.0
        return self.ce_start * (self.ce_end / self.ce_start) ** self.schedule.growth(t)


@dataclass(frozen=True)
class LpAdam(Optimizer):
    """Adam with the settings of l-inf-distance nets: a constant rate, then a cosine to 0; decay in the layer's norm.

    Zhang et al., ICML 2021, https://arxiv.org/abs/2102.05363, section 5 and their code; ICLR 2022,
    https://arxiv.org/abs/2110.06850: rate 0.03, no decay.
    """

    lr: float = 0.03
    """Learning rate at the start."""
    constant: float = 0.0
    """Share of training before the cosine begins."""
    weight_decay: float = 0.0
    """Each step takes lr * weight_decay times the gradient of |w_o|_p^2 / 2 from the weights w_o of a neuron, where p
    is the exponent that its layer computes with (2 for other weights: ordinary decay)."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr, betas=(0.9, 0.99), eps=1e-10)
        if self.weight_decay:
            optimizer.register_step_pre_hook(partial(self._decay, model))
        return optimizer

    def rate(self, t: float) -> float:
        turn = math.pi * max(0.0, t - self.constant) / (1 - self.constant)
        return self.lr * (1 + math.cos(turn)) / 2

    @torch.no_grad()
    def _decay(self, model: nn.Module, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        exponents = {layer.weight: layer.p for layer in distance_layers(model)}
        for group in optimizer.param_groups:
            for weight in group["params"]:
                shares = _gradient_shares(weight, exponents.get(weight, 2.0))
                weight.mul_(1 - group["lr"] * self.weight_decay * shares)


def _gradient_shares(weight: torch.Tensor, p: float) -> torch.Tensor:
    """(|w_i| / |w|_p)^(p - 2) for each row w: the gradient of |w|_p^2 / 2 over w. At p = inf, 1 at the largest."""
    if p == 2:
        return torch.ones_like(weight)
    size = weight.abs()
    if p == math.inf:
        return torch.zeros_like(weight).scatter(1, size.argmax(1, keepdim=True), 1.0)
    ratio = size / size.amax(1, keepdim=True).clamp(min=1e-10)
    return (ratio / ratio.pow(p).sum(1, keepdim=True).pow(1 / p)).pow(p - 2)


def _recipe(dataset: str, arch: str, method: LInfDist, phases: tuple[int, int, int]) -> Recipe:
    """`phases` are the epochs with p = 8, with p growing, and with p = inf."""
    method = method.replace(schedule=ExponentSchedule.of_epochs(*phases))
    colour = dataset == "cifar10"
    return Recipe(
        method, LpAdam(), dataset, arch, epochs=sum(phases), batch_size=512, crop=3 if colour else 1, flip=colour
    )


def _short(dataset: str, arch: str, method: LInfDist, phases: tuple[int, int, int]) -> Recipe:
    """Ours, chosen on held-out training images, as is the margin: smaller batches, twice the rate; docs/speedrun.md."""
    return _recipe(dataset, arch, method, phases).replace(batch_size=128, optimizer=LpAdam(lr=0.06))


def _published(dataset: str, arch: str, method: LInfDist, phases: tuple[int, int, int]) -> Recipe:
    """The crops of 2022 repeat the pixels at the edge; those of the short recipes, which are ours, are over black."""
    return _recipe(dataset, arch, method, phases).replace(border="edge")


def _first(dataset: str, arch: str, method: LInfDist, phases: tuple[int, int, int]) -> Recipe:
    """The loss and the optimiser of 2021."""
    recipe = _recipe(dataset, arch, method.replace(clipped=False, ce_start=0.0, ce_end=0.0), phases)
    optimizer = LpAdam(lr=0.02, constant=phases[0] / sum(phases), weight_decay=0.005)
    return recipe.replace(optimizer=optimizer, crop=4 if dataset == "cifar10" else 1)


GREY, COLOUR = "linf-dist-5120x4", "linf-dist-5120x5"

RECIPES = {
    "linf-dist-digits-0.1": Recipe(
        LInfDist(0.1), LpAdam(), dataset="digits", arch="linf-dist-128x2", epochs=100, batch_size=64
    ),
    "linf-dist-mnist-0.3-20-epochs": _recipe("mnist", "linf-dist-512x2", LInfDist(0.3), (9, 9, 2)),
    "linf-dist-mnist-0.3-30-epochs": _recipe("mnist", "linf-dist-512x3", LInfDist(0.3), (13, 13, 4)),
    "linf-dist-mnist-0.3-100-epochs": _recipe("mnist", "linf-dist-1024x3", LInfDist(0.3), (45, 45, 10)),
    "linf-dist-mnist-0.3-short": _short("mnist", "linf-dist-512x3", LInfDist(0.3, 1.25), (17, 17, 4)),
    "linf-dist-mnist-0.1": _published("mnist", GREY, LInfDist(0.1, 3.0), (25, 375, 50)),
    "linf-dist-mnist-0.3": _published("mnist", GREY, LInfDist(0.3, 1.5), (25, 375, 50)),
    **{
        f"linf-dist-cifar10-{radius}": _published(
            "cifar10", COLOUR, LInfDist(radius / 255, overshoot, ce_start=start, ce_end=end), (100, 1150, 50)
        )
        for radius, overshoot, start, end in ((2, 5.0, 0.05, 0.002), (8, 3.0, 0.1, 0.0005), (16, 2.5, 0.1, 0.0002))
    },
    "linf-dist-2021-mnist-0.3": _first("mnist", GREY, LInfDist(0.3, 1.5, mean_share=0.25), (50, 300, 50)),
    "linf-dist-2021-fashion-mnist-0.1": _first("fashion-mnist", GREY, LInfDist(0.1, 2.25), (50, 300, 50)),
    "linf-dist-2021-cifar10-8": _first("cifar10", COLOUR, LInfDist(8 / 255, 5.0, mean_share=0.25), (100, 650, 50)),
}
