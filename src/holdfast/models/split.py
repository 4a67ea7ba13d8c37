"""A classifier in two halves: noise is added to the features between them, and the radius is measured before them.

Zhong & Tandon, "SPLITZ: Certifiable Robustness via Split Lipschitz Randomized Smoothing", IEEE TIFS 20, 2025,
https://arxiv.org/abs/2407.02811, section 3. Where a network of ours can be cut has a name: `lenet@conv1` is `lenet` cut
behind its first convolution, whose ReLUs up to there are clipped.
"""

import copy
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ..lipschitz.affine import Affine
from ..lipschitz.clipped import ClippedReLU
from ..lipschitz.compose import leaves, materialise
from ..lipschitz.masked import estimated_norm
from ..spec import unknown
from ..types import DataInfo
from .convnets import cnn, lenet
from .resnet import cifar_resnet, resnet50

Part = Literal["whole", "left", "right"]


class SplitClassifier(nn.Module):
    """right(left(x)): images in [0, 1] -> features -> logits.

    Everything that happens to an image before the noise belongs to the left half: also the normalisation.

    Args:
        left: a chain of layers with a proven bound; an empty `nn.Sequential` leaves plain smoothing.
        right: any network.
    """

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    @classmethod
    def cut(cls, model: nn.Module, at: int | str) -> "SplitClassifier":
        """A chain of layers, cut in two; the layers are shared, not copied.

        Args:
            model: an `nn.Sequential`.
            at: how many of its layers come first, or the name of the last of them.

        Raises:
            ValueError: the model is no chain, or has no such cut.
        """
        if not isinstance(model, nn.Sequential):
            raise ValueError(
                f"only an nn.Sequential can be cut, got a {type(model).__name__}; give its halves to SplitClassifier"
            )
        names = [name for name, _ in model.named_children()]
        if isinstance(at, str):
            if at not in names:
                raise unknown("layer to cut behind", at, names)
            at = names.index(at) + 1
        if not 0 <= at < len(names):
            raise ValueError(f"cannot cut a chain of {len(names)} layers at {at}: expected 0 to {len(names) - 1}")
        layers = list(model.children())
        return cls(nn.Sequential(*layers[:at]), nn.Sequential(*layers[at:]))

    def forward(self, x: Tensor, part: Part = "whole") -> Tensor:
        """The logits of images; or the features of images (left), or the logits of features (right)."""
        if part == "right":
            return self.right(x)
        features = self.left(x)
        return features if part == "left" else self.right(features)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """What the noise is added to, as it is certified: computed in float64, then rounded to the precision of x."""
        return materialise(self.left)(x.to(torch.float64, copy=True)).to(x.dtype)


def clipped(left: nn.Module) -> nn.Module:
    """A copy in which every ReLU is a `ClippedReLU`."""
    left = copy.deepcopy(left)
    for name, layer in left.named_children():
        setattr(left, name, ClippedReLU() if isinstance(layer, nn.ReLU) else clipped(layer))
    return left


WHOLE = {"cnn": cnn, "lenet": lenet, "resnet110": partial(cifar_resnet, depth=110), "resnet50": resnet50}

CUTS: dict[str, dict[str, int]] = {
    "cnn": {"conv1": 2, "conv2": 4},
    "lenet": {"conv1": 2, "pool1": 3, "conv2": 5, "pool2": 6},
    "resnet110": {"conv1": 4},
    "resnet50": {"conv1": 4},
}
"""Names of the cut points of our architectures, and how many layers are before each."""


def split_architecture(data: DataInfo, arch: str, cut: str) -> SplitClassifier:
    """An architecture, freshly initialised, cut at a named point.

    Raises:
        ValueError: it has no such cut point; the nearest names are suggested.
    """
    if cut not in CUTS[arch]:
        raise unknown(f"cut point of {arch}", cut, CUTS[arch])
    whole = SplitClassifier.cut(WHOLE[arch](data), CUTS[arch][cut])
    left = clipped(whole.left)
    _start_small(left, data.shape)
    return SplitClassifier(left, whole.right)


@torch.no_grad()
def _start_small(left: nn.Module, shape: tuple[int, ...]) -> None:
    """Divide the weights of every convolution by its norm: from a constant of 1 on, a small one is soon learnt."""
    for leaf in leaves(left, shape):
        affine = Affine.of(leaf.layer)
        if affine and isinstance(leaf.layer, nn.Conv2d):
            mask = torch.ones(1, *leaf.shape)
            leaf.layer.weight /= estimated_norm(affine, torch.ones(()), mask, steps=20)


ARCHITECTURES = {
    f"{arch}@{cut}": partial(split_architecture, arch=arch, cut=cut) for arch, cuts in CUTS.items() for cut in cuts
}
