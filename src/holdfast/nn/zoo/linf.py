"""Networks of l-inf-distance neurons, of the published sizes and of sizes for a CPU.

Zhang, Cai, Lu, He & Wang, ICML 2021, https://arxiv.org/abs/2102.05363, table 1 and their code: fully connected nets of
width 5120, nets with a perceptron on top ("plus"), and a convolutional net, whose accuracy they do not report.
"""

import math
from functools import partial
from statistics import fmean

from torch import nn

from ...core.recipe import DataInfo
from ..linf import DistanceHead, LInfDistConv2d, LInfDistLinear, LInfDistNet, TanhHead


def plain(data: DataInfo, width: int, hidden: int) -> LInfDistNet:
    """Layers of one width, then the distance to a prototype of each class."""
    return LInfDistNet(_body(data, width, hidden), DistanceHead(width, data.classes), data.mean, fmean(data.std))


def plus(data: DataInfo, width: int, hidden: int, perceptron: int) -> LInfDistNet:
    """Layers of one width, then a perceptron with one hidden layer."""
    head = TanhHead(width, perceptron, data.classes)
    return LInfDistNet(_body(data, width, hidden), head, data.mean, fmean(data.std))


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


def _body(data: DataInfo, width: int, hidden: int) -> nn.Sequential:
    inputs = [math.prod(data.shape)] + [width] * (hidden - 1)
    return nn.Sequential(*(LInfDistLinear(count, width) for count in inputs))


ARCHITECTURES = {
    **{
        f"linf-dist-{width}x{hidden}": partial(plain, width=width, hidden=hidden)
        for width, hidden in ((128, 2), (512, 2), (512, 3), (1024, 3), (2048, 3), (5120, 4), (5120, 5))
    },
    "linf-dist-plus-512x2": partial(plus, width=512, hidden=2, perceptron=128),
    "linf-dist-plus-5120x4": partial(plus, width=5120, hidden=4, perceptron=256),
    "linf-dist-plus-5120x4-512": partial(plus, width=5120, hidden=4, perceptron=512),
    "linf-dist-plus-5120x5": partial(plus, width=5120, hidden=5, perceptron=512),
    "linf-dist-conv": partial(convolutional, channels=96, width=1024, perceptron=512),
}
