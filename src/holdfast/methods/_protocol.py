"""The protocol under which training methods for smoothed classifiers are compared: all of a recipe but the method.

Jeong et al., "SmoothMix", NeurIPS 2021, https://arxiv.org/abs/2111.09277, section 4, and their released code, which we
follow where it differs from the text, because the published numbers come from it:
- A loader batch of 256 images is cut into m parts, and each makes an optimiser step with m noisy copies of its images.
  The recipes say what a step sees: floor(256 / m) images. The code drops the remainder, of at most m - 1 images.
- The learning rate drops one epoch after the stated one, because the scheduler is called after the epoch.
"""

from ..core.recipe import Method, Recipe
from ..optim import SGD, WarmSGD


def digits(method: Method) -> Recipe:
    """Ours, not published: 1,437 images of 8x8 pixels, about a minute on one CPU core."""
    return Recipe(method, SGD(lr=0.05), dataset="digits", arch="cnn", epochs=60, batch_size=64)


def mnist(method: Method, copies: int = 1, epochs: int = 90) -> Recipe:
    """LeNet, rate 0.01, divided by 10 twice, batches of 256 // copies."""
    optimizer = SGD(lr=0.01, drops=late_drops(epochs))
    return Recipe(method, optimizer, dataset="mnist", arch="lenet", epochs=epochs, batch_size=256 // copies)


def short_mnist(method: Method, copies: int) -> Recipe:
    """Ours: the protocol of MNIST in a fifth of its epochs, one cycle of a rate chosen on held-out training images."""
    return mnist(method, copies, epochs=18).replace(optimizer=WarmSGD(lr=0.05))


def cifar10(method: Method, copies: int = 1) -> Recipe:
    """ResNet-110, rate 0.1, divided by 10 every 50 of 150 epochs, batches of 256 // copies."""
    return Recipe(
        method,
        SGD(lr=0.1, drops=late_drops(150)),
        dataset="cifar10",
        arch="resnet110",
        epochs=150,
        batch_size=256 // copies,
        crop=4,
        flip=True,
    )


def imagenet(method: Method, copies: int = 1) -> Recipe:
    """ResNet-50, rate 0.1, divided by 10 every 30 of 90 epochs, batches of 256 // copies; random resized crops."""
    return Recipe(
        method,
        SGD(lr=0.1, drops=late_drops(90)),
        dataset="imagenet",
        arch="resnet50",
        epochs=90,
        batch_size=256 // copies,
        area=(0.08, 1.0),
        flip=True,
    )


def late_drops(epochs: int) -> tuple[float, float]:
    """One epoch after a third and two thirds of training, as progress in [0, 1]."""
    return (epochs // 3 + 1) / epochs, (2 * epochs // 3 + 1) / epochs
