"""Networks of l-inf-distance neurons, of the published sizes and of sizes for a CPU.

Zhang, Cai, Lu, He & Wang, ICML 2021, https://arxiv.org/abs/2102.05363, table 1 and their code: fully connected nets of
width 5120, nets with a perceptron on top ("plus"), and a convolutional net, whose accuracy they do not report.

SortNet: Zhang, Jiang, He & Wang, NeurIPS 2022, https://arxiv.org/abs/2210.01787, and their code. The name ends with the
share of inputs that training keeps. The first layer is that of plain nets; the others sort, the last one too. What they
call 2x sees four parts of an image.
"""

import math
from functools import partial
from statistics import fmean

from torch import nn

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


ARCHITECTURES = {
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
