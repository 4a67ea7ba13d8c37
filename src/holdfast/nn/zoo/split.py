"""Our architectures in two halves: `lenet@conv1` is `lenet` cut behind its first convolution, with clipped ReLUs up to
there.

Zhong & Tandon, "SPLITZ", IEEE TIFS 20, 2025, https://arxiv.org/abs/2407.02811, section 3.
"""

import copy
from functools import partial

import torch
from torch import nn

from ...bounds.convolution import Affine
from ...bounds.masked import estimated_norm
from ...core.recipe import DataInfo
from ...core.registry import unknown
from ..lipschitz.clipped import ClippedReLU
from ..lipschitz.compose import leaves
from ..split import SplitClassifier
from .convnets import cnn, lenet
from .resnet import cifar_resnet, resnet50


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
