"""l2 Lipschitz networks: layers, and estimates of their norms for training; proofs are in `holdfast.bounds`."""

from ...bounds.norms import conv2d_norm, matrix_norm
from .layers import LinearResidualBlock, MinMax, Residual, Shift, orthogonal, orthogonal_residual, unit_rows
from .network import LipschitzNet, lipschitz_bound, lipschitz_net, materialise

__all__ = [
    "LinearResidualBlock",
    "LipschitzNet",
    "MinMax",
    "Residual",
    "Shift",
    "conv2d_norm",
    "lipschitz_bound",
    "lipschitz_net",
    "materialise",
    "matrix_norm",
    "orthogonal",
    "orthogonal_residual",
    "unit_rows",
]
