"""Networks from images to images, to be put before a classifier."""

from ...core.recipe import DataInfo
from ..denoised import DnCNN


def dncnn(data: DataInfo) -> DnCNN:
    """17 layers of 64 channels, as published."""
    return DnCNN(data.shape[0])


def small_dncnn(data: DataInfo) -> DnCNN:
    """6 layers of 24 channels, for images of digits on a CPU; ours."""
    return DnCNN(data.shape[0], width=24, depth=6)


ARCHITECTURES = {"dncnn": dncnn, "dncnn-small": small_dncnn}
