"""LiResNet: linear residual blocks between a stem and a neck, with MinMax after every linear layer.

Hu, Zou, Wang, Leino & Fredrikson, "Unlocking Deterministic Robustness Certification on ImageNet", NeurIPS 2023,
https://arxiv.org/abs/2301.12549 (names with 2023), and "A Recipe for Improved Certifiable Robustness", ICLR 2024,
https://arxiv.org/abs/2310.02513, which makes the neck orthogonal and adds Cholesky-orthogonal residual dense layers.

`liresnet-2x32`, `-small`, `-small-stride1` and `-12x128` are ours, and keep a MinMax and a bias between the two layers
of the neck, where the networks of 2024 have neither: certified runs of them exist.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ...core.recipe import DataInfo
from ..lipschitz import (
    LinearResidualBlock,
    LipschitzNet,
    MinMax,
    Residual,
    Shift,
    orthogonal,
    orthogonal_residual,
    unit_rows,
)
from ..lipschitz.compose import output_shape


@dataclass(frozen=True)
class Size:
    """How large a LiResNet is."""

    depth: int
    """Linear residual blocks."""
    width: int
    """Their channels."""
    features: int = 2048
    """Outputs of the neck."""
    chord: int = 8
    """Cholesky-orthogonal residual dense layers; 0 is the network of 2023, with a neck that is not orthogonal."""
    expansion: int = 1
    """Channels of the neck, as a multiple of the width."""
    stem: tuple[int, int] = (5, 2)
    """Side and stride of the kernel of the stem, for images below 128 pixels."""
    steps: int = 10
    """Of power iteration in each step of training."""
    block: str = "linear"
    """What the backbone is of: `linear` residual blocks; for comparison `plain` convolutions, or `residual` blocks of
    two convolutions with a MinMax between them."""
    centered: bool = True
    """The blocks subtract a mean, as in the code of 2024."""
    bare_neck: bool = False
    """Neither a bias nor a MinMax between the two layers of the neck, as in the code of 2024."""


def liresnet(data: DataInfo, size: Size) -> LipschitzNet:
    """Stem, blocks at one resolution, 4x4 patches and a dense layer as neck, dense residual layers, unit-row head."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(shift=Shift(-0.5), stem=_stem(data, size))
    layers |= {f"block{i}": _block(size) for i in range(1, size.depth + 1)}
    _, height, width = output_shape(layers["stem"], data.shape)
    wide = size.width * size.expansion
    neck = nn.Conv2d(size.width, wide, 4, 4, bias=not size.bare_neck)
    dense = nn.Linear(wide * (height // 4) * (width // 4), size.features)
    for name, layer in (("neck", neck), ("dense", dense)):
        nn.init.orthogonal_(layer.weight)
        layers[name] = orthogonal(layer) if size.chord else layer
    layers |= {f"chord{i}": orthogonal_residual(size.features, size.chord) for i in range(1, size.chord + 1)}
    return LipschitzNet(
        _activated(layers, ("shift", "neck") if size.bare_neck else ("shift",)),
        unit_rows(size.features, data.classes),
        data.shape,
        size.steps,
    )


def _stem(data: DataInfo, size: Size) -> nn.Conv2d:
    """Large images are cut into patches of about as many numbers as there are channels."""
    channels, height, _ = data.shape
    patch = round(math.sqrt(size.width / 3))
    side, stride = size.stem
    stem = (
        nn.Conv2d(channels, size.width, patch, patch)
        if height >= 128
        else nn.Conv2d(channels, size.width, side, stride, padding=side // 2)
    )
    nn.init.orthogonal_(stem.weight)
    return stem


def _block(size: Size) -> nn.Module:
    if size.block == "linear":
        return LinearResidualBlock(size.width, size.depth, centered=size.centered)
    first, second = (nn.Conv2d(size.width, size.width, 3, padding=1) for _ in range(2))
    for layer in (first, second):
        nn.init.orthogonal_(layer.weight)
    if size.block == "plain":
        return first
    with torch.no_grad():
        second.weight *= SMALL
    return Residual(nn.Sequential(first, MinMax(), second))


SMALL = 0.01
"""Factor of the weights that a residual block begins with. The code of 2023 has a learnt one that begins at 0, where a
power iteration finds nothing to follow."""


def _activated(layers: OrderedDict[str, nn.Module], bare: tuple[str, ...]) -> nn.Sequential:
    """MinMax after every layer but those that are to stay bare; the features are flat after the neck."""
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in layers.items():
        if name == "dense":
            chain["flatten"] = nn.Flatten()
        chain[name] = layer
        if name not in bare:
            chain[f"{name}-minmax"] = MinMax()
    return nn.Sequential(chain)


SNAPSHOT = Size(18, 256, features=512, chord=0, expansion=2, centered=False)
"""The networks for small images of the code of 2023."""

SIZES = {
    "liresnet-2x32": Size(2, 32, features=32, chord=1, steps=5),
    "liresnet-small": Size(6, 64, features=256, chord=4, steps=5),
    "liresnet-small-stride1": Size(6, 64, features=256, chord=4, stem=(5, 1), steps=5),
    "liresnet-12x128": Size(12, 128, features=512),
    "liresnet-12x512": Size(12, 512, bare_neck=True),
    "liresnet-12x588": Size(12, 588, bare_neck=True),
    "liresnet-2023-12x512": Size(12, 512, chord=0, centered=False),
    "liresnet-2023-18x256": SNAPSHOT,
    "liresnet-2023-18x256-stride4": replace(SNAPSHOT, stem=(7, 4)),
    "liresnet-2023-plain-18x256": replace(SNAPSHOT, block="plain"),
    "liresnet-2023-residual-18x256": replace(SNAPSHOT, block="residual"),
    "liresnet-2023-8x588": Size(8, 588, chord=0, centered=False),
    "liresnet-2023-12x588": Size(12, 588, chord=0, centered=False),
    "liresnet-2023-18x588": Size(18, 588, chord=0, expansion=2, centered=False),
}
"""Depth x width; the names with 2023 have no Cholesky-orthogonal layers."""

ARCHITECTURES = {name: partial(liresnet, size=size) for name, size in SIZES.items()}
