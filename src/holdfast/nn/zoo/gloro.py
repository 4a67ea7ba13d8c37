"""The small networks of globally-robust training: convolutions and dense layers, each with an activation behind it.

Leino, Wang & Fredrikson, "Globally-Robust Neural Networks", ICML 2021, https://arxiv.org/abs/2102.08452, table 1: with
ReLU in the scripts of the paper (names with relu), with MinMax in their later library. The multilayer perceptrons of
Tobler et al., "Verified Certified Robustness", CAV 2025, https://arxiv.org/abs/2505.06958.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ...core.recipe import DataInfo
from ..lipschitz import LipschitzNet, MinMax
from ..lipschitz.compose import output_shape

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

ARCHITECTURES = {
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
