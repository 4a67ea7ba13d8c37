"""Convolutional networks: small ones for small grey images, residual ones, and denoisers to put before a classifier.

Residual networks, as in Cohen et al. (2019): ResNet-20 and -110 for 32x32 images, ResNet-50 for 224x224. He, Zhang, Ren
& Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
32x32, section 4.2: basic blocks, stage widths 16, 32, 64. The shortcut across a stage boundary is a strided 1x1
convolution with batch norm, which brings ResNet-110 to the 1.73 million parameters of the published classifiers.
224x224, table 1: bottleneck blocks. The stride is in their 3x3 convolution, as in the published classifiers.
"""

import dataclasses
from functools import partial

from torch import nn

from ...core.recipe import DataInfo
from ..denoised import DnCNN
from ..lipschitz.layers import ReLUBlock
from ..normalize import Normalize


def cnn(data: DataInfo) -> nn.Sequential:
    """Two 3x3 convolutions with strides and one hidden layer: fast on a laptop, for digits and mnist-5k."""
    channels, height, width = data.shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * -(-height // 4) * -(-width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, data.classes),
    )


def lenet(data: DataInfo) -> nn.Sequential:
    """The LeNet of Jeong et al. (2021) on MNIST: conv20-5x5, pool, conv50-5x5, pool, fc500, fc; no normalisation."""
    channels, height, width = data.shape
    if min(height, width) < 16:
        raise ValueError(f"lenet needs images of at least 16x16 pixels, got {height}x{width}; use the architecture cnn")
    side = [((size - 4) // 2 - 4) // 2 for size in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * side[0] * side[1], 500),
        nn.ReLU(),
        nn.Linear(500, data.classes),
    )


def front_lenet(data: DataInfo) -> nn.Sequential:
    """A convolution with four filters of 3x3 pixels and a ReLU, then `lenet` on their output. Ours, to be cut in two
    behind them: features that bear noise are filtered there before they are pooled."""
    channels, *size = data.shape
    rest = lenet(dataclasses.replace(data, shape=(4, *size)))
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), *rest)


def basic_block(channels_in: int, channels: int, stride: int) -> ReLUBlock:
    """Two 3x3 convolutions beside a shortcut."""
    branch = nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )
    return ReLUBlock(branch, _shortcut(channels_in, channels, stride))


def cifar_resnet(data: DataInfo, depth: int) -> nn.Sequential:
    """ResNet of depth 6 k + 2: three stages of k blocks, then the mean over pixels and a linear layer."""
    layers: list[nn.Module] = [
        Normalize(data.mean, data.std),
        nn.Conv2d(data.shape[0], 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
    ]
    channels_in = 16
    for channels in (16, 32, 64):
        for block in range((depth - 2) // 6):
            layers.append(basic_block(channels_in, channels, stride=2 if block == 0 and channels > 16 else 1))
            channels_in = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, data.classes)]
    return _initialised(layers)


def bottleneck(channels_in: int, channels: int, stride: int) -> ReLUBlock:
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; four times as many channels leave as are inside."""
    branch = nn.Sequential(
        nn.Conv2d(channels_in, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, 4 * channels, 1, bias=False),
        nn.BatchNorm2d(4 * channels),
    )
    return ReLUBlock(branch, _shortcut(channels_in, 4 * channels, stride))


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def resnet50(data: DataInfo) -> nn.Sequential:
    """3, 4, 6 and 3 bottleneck blocks; 25.6 million parameters for 1000 classes."""
    layers: list[nn.Module] = [
        Normalize(data.mean, data.std),
        nn.Conv2d(data.shape[0], 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    channels_in = 64
    for channels, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            layers.append(bottleneck(channels_in, channels, stride=2 if block == 0 and channels > 64 else 1))
            channels_in = 4 * channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels_in, data.classes)]
    return _initialised(layers)


def _initialised(layers: list[nn.Module]) -> nn.Sequential:
    model = nn.Sequential(*layers)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return model


def dncnn(data: DataInfo, width: int = 64, depth: int = 17) -> DnCNN:
    """17 layers of 64 channels, as published; fewer for a CPU are ours: dncnn-small has 6 of 24, for digits."""
    return DnCNN(data.shape[0], width, depth)


ARCHITECTURES = {
    "cnn": cnn,
    "lenet": lenet,
    "front-lenet": front_lenet,
    **{f"resnet{depth}": partial(cifar_resnet, depth=depth) for depth in (20, 110)},
    "resnet50": resnet50,
    "dncnn": dncnn,
    "dncnn-small": partial(dncnn, width=24, depth=6),
    "dncnn-12x48": partial(dncnn, width=48, depth=12),
}
