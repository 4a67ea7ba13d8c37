"""An architecture: one hidden layer."""

import math

from torch import nn

from holdfast import DataInfo


def shallow(data: DataInfo) -> nn.Module:
    """64 units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(data.shape), 64), nn.ReLU(), nn.Linear(64, data.classes))
