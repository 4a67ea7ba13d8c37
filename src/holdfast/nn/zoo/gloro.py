"""The small networks of globally-robust training: convolutions and dense layers with MinMax.

Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021, https://arxiv.org/abs/2102.08452, table 1; the
multilayer perceptrons of Tobler et al., "Verified Certified Robustness", CAV 2025, https://arxiv.org/abs/2505.06958.
"""

import math
from collections import OrderedDict
from functools import partial

from torch import nn

from ...core.recipe import DataInfo
from ..lipschitz import LipschitzNet, MinMax
from ..lipschitz.proofs import output_shape

Convolution = tuple[int, int, int]
"""Channels, kernel side, stride."""


def gloro(data: DataInfo, convolutions: tuple[Convolution, ...], dense: tuple[int, ...]) -> LipschitzNet:
    """Convolutions that keep size / stride, then dense layers, each followed by MinMax; a linear head."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = data.shape[0]
    for i, (width, side, stride) in enumerate(convolutions, 1):
        layers[f"conv{i}"] = nn.Conv2d(channels, width, side, stride, padding=(side - stride + 1) // 2)
        layers[f"conv{i}-minmax"] = MinMax()
        channels = width
    inputs = math.prod(output_shape(nn.Sequential(layers), data.shape))
    layers["flatten"] = nn.Flatten()
    for i, width in enumerate(dense, 1):
        layers[f"dense{i}"] = nn.Linear(inputs, width)
        layers[f"dense{i}-minmax"] = MinMax()
        inputs = width
    return _initialised(LipschitzNet(nn.Sequential(layers), nn.Linear(inputs, data.classes), data.shape, steps=5))


def perceptron(data: DataInfo, widths: tuple[int, ...]) -> LipschitzNet:
    """Dense layers without biases, each followed by ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = math.prod(data.shape)
    for i, width in enumerate(widths, 1):
        layers[f"dense{i}"] = nn.Linear(inputs, width, bias=False)
        layers[f"dense{i}-relu"] = nn.ReLU()
        inputs = width
    head = nn.Linear(inputs, data.classes, bias=False)
    return _initialised(LipschitzNet(nn.Sequential(layers), head, data.shape, steps=5))


def _initialised(network: LipschitzNet) -> LipschitzNet:
    """Glorot's uniform weights, no biases."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


ARCHITECTURES = {
    "gloro-2c2f": partial(gloro, convolutions=((16, 4, 2), (32, 4, 2)), dense=(100,)),
    "gloro-4c3f": partial(gloro, convolutions=((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)), dense=(512, 512)),
    "gloro-6c2f": partial(
        gloro,
        convolutions=((32, 3, 1), (32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 3, 1), (64, 4, 2)),
        dense=(512,),
    ),
    "gloro-mlp-8x128": partial(perceptron, widths=(128,) * 8),
    "gloro-mlp-256-11x128": partial(perceptron, widths=(256, *(128,) * 11)),
    "gloro-mlp-512-256-6x128": partial(perceptron, widths=(512, 256, *(128,) * 6)),
}
