"""Networks with small proven Lipschitz constants: of globally-robust training, LiResNet, and l-inf-distance neurons.

GloRo: convolutions and dense layers, each with an activation behind it. Leino, Wang & Fredrikson, "Globally-Robust
Neural Networks", ICML 2021, https://arxiv.org/abs/2102.08452, table 1: with ReLU in the scripts of the paper (names
with relu), with MinMax in their later library. The multilayer perceptrons of Tobler et al., "Verified Certified
Robustness", CAV 2025, https://arxiv.org/abs/2505.06958.

LiResNet: linear residual blocks between a stem and a neck, with MinMax after every linear layer. Hu, Zou, Wang, Leino &
Fredrikson, "Unlocking Deterministic Robustness Certification on ImageNet", NeurIPS 2023,
https://arxiv.org/abs/2301.12549 (names with 2023), and "A Recipe for Improved Certifiable Robustness", ICLR 2024,
https://arxiv.org/abs/2310.02513, which makes the neck orthogonal and adds Cholesky-orthogonal residual dense layers.
`liresnet-2x32`, `-small`, `-small-stride1` and `-12x128` are ours, and keep a MinMax and a bias between the two layers
of the neck, where the networks of 2024 have neither: certified runs of them exist.

l-inf-distance neurons, of the published sizes and of sizes for a CPU. Zhang, Cai, Lu, He & Wang, ICML 2021,
https://arxiv.org/abs/2102.05363, table 1 and their code: fully connected nets of width 5120, nets with a perceptron on
top ("plus"), and a convolutional net, whose accuracy they do not report. SortNet: Zhang, Jiang, He & Wang, NeurIPS
2022, https://arxiv.org/abs/2210.01787, and their code. The name ends with the share of inputs that training keeps. The
first layer is that of plain nets; the others sort, the last one too. What they call 2x sees four parts of an image.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import torch
from torch import Tensor, nn

from ...core.recipe import DataInfo
from ..linf import (
    DistanceHead,
    LInfDistConv2d,
    LInfDistLinear,
    LInfDistNet,
    SortDistConv2d,
    SortDistLinear,
    TanhHead,
)
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
from ..lipschitz.network import output_shape

Convolution = tuple[int, int, int]
"""Channels, kernel side, stride."""


def gloro(
    data: DataInfo,
    convolutions: tuple[Convolution, ...],
    dense: tuple[int, ...],
    activation: type[nn.Module] = MinMax,
    steps: int = 5,
    initial: Callable[[Tensor], Tensor] = nn.init.xavier_uniform_,
) -> LipschitzNet:
    """Convolutions that keep size / stride, then dense layers, each followed by an activation; a linear head.

    Args:
        steps: of power iteration in each step of training.
        initial: fills the weights; Glorot's uniform ones by default.
    """
    after = activation.__name__.lower()
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = data.shape[0]
    for i, (width, side, stride) in enumerate(convolutions, 1):
        layers[f"conv{i}"] = nn.Conv2d(channels, width, side, stride, padding=(side - stride + 1) // 2)
        layers[f"conv{i}-{after}"] = activation()
        channels = width
    inputs = math.prod(output_shape(nn.Sequential(layers), data.shape))
    layers["flatten"] = nn.Flatten()
    for i, width in enumerate(dense, 1):
        layers[f"dense{i}"] = nn.Linear(inputs, width)
        layers[f"dense{i}-{after}"] = activation()
        inputs = width
    network = LipschitzNet(nn.Sequential(layers), nn.Linear(inputs, data.classes), data.shape, steps)
    return _initialised(network, initial)


def perceptron(data: DataInfo, widths: tuple[int, ...]) -> LipschitzNet:
    """Dense layers without biases, each followed by ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = math.prod(data.shape)
    for i, width in enumerate(widths, 1):
        layers[f"dense{i}"] = nn.Linear(inputs, width, bias=False)
        layers[f"dense{i}-relu"] = nn.ReLU()
        inputs = width
    head = nn.Linear(inputs, data.classes, bias=False)
    return _initialised(LipschitzNet(nn.Sequential(layers), head, data.shape, steps=5), nn.init.xavier_uniform_)


def _initialised(network: LipschitzNet, initial: Callable[[Tensor], Tensor]) -> LipschitzNet:
    """Weights filled, biases of 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            initial(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


TWO = {"convolutions": ((16, 4, 2), (32, 4, 2)), "dense": (100,)}
FOUR = {"convolutions": ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)), "dense": (512, 512)}
SIX = {
    "convolutions": ((32, 3, 1), (32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 3, 1), (64, 4, 2)),
    "dense": (512,),
}
EIGHT = {
    "convolutions": ((64, 3, 1), (64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2), (256, 3, 1), (256, 4, 2)),
    "dense": (),
}
"""What the paper calls 8C2F: its scripts name seven convolutions, and no dense layer but the last."""

GLORO = {
    "gloro-2c2f": partial(gloro, **TWO),
    "gloro-4c3f": partial(gloro, **FOUR),
    "gloro-6c2f": partial(gloro, **SIX),
    "gloro-relu-2c2f": partial(gloro, **TWO, activation=nn.ReLU, steps=10),
    "gloro-relu-4c3f": partial(gloro, **FOUR, activation=nn.ReLU, steps=10),
    "gloro-relu-6c2f": partial(gloro, **SIX, activation=nn.ReLU),
    "gloro-relu-6c2f-orthogonal": partial(gloro, **SIX, activation=nn.ReLU, initial=nn.init.orthogonal_),
    "gloro-relu-8c2f": partial(gloro, **EIGHT, activation=nn.ReLU),
    "gloro-relu-8c2f-1-step": partial(gloro, **EIGHT, activation=nn.ReLU, steps=1),
    "gloro-mlp-8x128": partial(perceptron, widths=(128,) * 8),
    "gloro-mlp-256-11x128": partial(perceptron, widths=(256, *(128,) * 11)),
    "gloro-mlp-512-256-6x128": partial(perceptron, widths=(512, 256, *(128,) * 6)),
}


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
    **{f"liresnet-12x512-{dense}-dense": Size(12, 512, chord=dense, bare_neck=True) for dense in (1, 2, 4)},
    **{f"liresnet-2023-{depth}x256": replace(SNAPSHOT, depth=depth) for depth in (6, 12)},
    **{
        f"liresnet-2023-{block}-{depth}x256": replace(SNAPSHOT, depth=depth, block=block)
        for block in ("plain", "residual")
        for depth in (6, 12)
    },
}
"""Depth x width; the names with 2023 have no Cholesky-orthogonal layers, the others eight but where they say."""


def plain(data: DataInfo, width: int, hidden: int) -> LInfDistNet:
    """Layers of one width, then the distance to a prototype of each class."""
    return LInfDistNet(_body(data, width, hidden), DistanceHead(width, data.classes), data.mean, fmean(data.std))


def plus(data: DataInfo, width: int, hidden: int, perceptron: int) -> LInfDistNet:
    """Layers of one width, then a perceptron with one hidden layer."""
    head = TanhHead(width, perceptron, data.classes)
    return LInfDistNet(_body(data, width, hidden), head, data.mean, fmean(data.std))


def sorting(data: DataInfo, width: int, hidden: int, keep: float, identity: float | None = None) -> LInfDistNet:
    """SortNet: as `plain`, with sorted neurons behind the first layer."""
    body = _body(data, width, hidden, keep, identity)
    return LInfDistNet(body, DistanceHead(width, data.classes, keep), data.mean, fmean(data.std))


def sorting_plus(data: DataInfo, width: int, hidden: int, keep: float, perceptron: int) -> LInfDistNet:
    """SortNet with a perceptron on top."""
    head = TanhHead(width, perceptron, data.classes, tempered=True)
    return LInfDistNet(_body(data, width, hidden, keep, None), head, data.mean, fmean(data.std))


def sorting_plus_2x(data: DataInfo, width: int, hidden: int, keep: float, perceptron: int) -> LInfDistNet:
    """`sorting_plus` on the four squares that lack 4 pixels of an image's side, and a perceptron on all four."""
    first = LInfDistConv2d(data.shape[0], width, data.shape[1] - 4, stride=4, identity=None)
    body = nn.Sequential(first, *(SortDistConv2d(width, width, keep) for _ in range(hidden - 1)))
    head = TanhHead(4 * width, perceptron, data.classes, tempered=True)
    return LInfDistNet(body, head, data.mean, fmean(data.std))


def convolutional(data: DataInfo, channels: int, width: int, perceptron: int) -> LInfDistNet:
    """Five 3x3 layers with padding, the third with stride 2, one dense layer, then a perceptron."""
    height, columns = ((size + 1) // 2 for size in data.shape[1:])
    body = nn.Sequential(
        LInfDistConv2d(data.shape[0], channels, 3, padding=1),
        LInfDistConv2d(channels, channels, 3, padding=1),
        LInfDistConv2d(channels, 2 * channels, 3, stride=2, padding=1),
        LInfDistConv2d(2 * channels, 2 * channels, 3, padding=1),
        LInfDistConv2d(2 * channels, 2 * channels, 3, padding=1),
        LInfDistLinear(2 * channels * height * columns, width),
    )
    return LInfDistNet(body, TanhHead(width, perceptron, data.classes), data.mean, fmean(data.std))


def _body(data: DataInfo, width: int, hidden: int, keep: float = 1.0, identity: float | None = 10.0) -> nn.Sequential:
    first = LInfDistLinear(math.prod(data.shape), width, identity)
    if keep < 1:
        return nn.Sequential(first, *(SortDistLinear(width, width, keep, identity) for _ in range(hidden - 1)))
    return nn.Sequential(first, *(LInfDistLinear(width, width, identity) for _ in range(hidden - 1)))


LINF = {
    **{
        f"linf-dist-{width}x{hidden}": partial(plain, width=width, hidden=hidden)
        for width, hidden in ((128, 2), (512, 2), (512, 3), (1024, 3), (2048, 3), (5120, 4), (5120, 5))
    },
    "linf-dist-plus-512x2": partial(plus, width=512, hidden=2, perceptron=128),
    "linf-dist-plus-5120x4": partial(plus, width=5120, hidden=4, perceptron=256),
    "linf-dist-plus-5120x4-512": partial(plus, width=5120, hidden=4, perceptron=512),
    "linf-dist-plus-5120x5": partial(plus, width=5120, hidden=5, perceptron=512),
    **{
        f"sortnet-{width}x{hidden}-{keep}": partial(
            sorting, width=width, hidden=hidden, keep=float(keep), identity=identity
        )
        for width, hidden, keep, identity in (
            (128, 2, "0.75", 10.0),
            (512, 2, "0.75", 10.0),
            (5120, 4, "0.70", 10.0),
            (5120, 4, "0.75", 10.0),
            (5120, 5, "0.75", None),
            (5120, 5, "0.85", None),
        )
    },
    **{
        f"sortnet-plus-5120x5-{keep}": partial(sorting_plus, width=5120, hidden=5, keep=float(keep), perceptron=512)
        for keep in ("0.70", "0.60")
    },
    "sortnet-plus-5120x5-2048-0.70": partial(sorting_plus, width=5120, hidden=5, keep=0.7, perceptron=2048),
    "sortnet-plus-2x-5120x5-0.70": partial(sorting_plus_2x, width=5120, hidden=5, keep=0.7, perceptron=512),
    "sortnet-plus-2x-5120x5-2048-0.70": partial(sorting_plus_2x, width=5120, hidden=5, keep=0.7, perceptron=2048),
    "linf-dist-conv": partial(convolutional, channels=96, width=1024, perceptron=512),
}

ARCHITECTURES = GLORO | {name: partial(liresnet, size=size) for name, size in SIZES.items()} | LINF
