"""l2 Lipschitz networks: layers, and estimates of their norms for training; proofs are in `holdfast.bounds`."""

from ...bounds.norms import conv2d_norm, matrix_norm
from .compose import lipschitz_bound, materialise
from .layers import LinearResidualBlock, MinMax, Residual, Shift
from .network import LipschitzNet, lipschitz_net
from .reparametrized import orthogonal, orthogonal_residual, unit_rows

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
