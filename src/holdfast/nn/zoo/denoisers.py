"""Networks from images to images, to be put before a classifier."""

from ...core.recipe import DataInfo
from ..denoised import DnCNN


def dncnn(data: DataInfo) -> DnCNN:
    """17 layers of 64 channels, as published."""
    return DnCNN(data.shape[0])


def small_dncnn(data: DataInfo) -> DnCNN:
    """7 layers of 32 channels, for images of digits on a CPU; ours."""
    return DnCNN(data.shape[0], width=32, depth=7)


ARCHITECTURES = {"dncnn": dncnn, "dncnn-small": small_dncnn}
