"""Small convolutional networks for small grey images."""

from torch import nn

from ...core.recipe import DataInfo


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


ARCHITECTURES = {"cnn": cnn, "lenet": lenet}
