"""The l-inf-distance operation, its kernels, its layers, and interval bounds."""

from .attack import attacks, pgd
from .distance import dist
from .heads import DistanceHead, TanhHead
from .layers import LInfDistConv2d, LInfDistLinear, estimate_means, set_exponent
from .network import LInfDistNet, linf_net
from .schedule import ExponentSchedule

__all__ = [
    "DistanceHead",
    "ExponentSchedule",
    "LInfDistConv2d",
    "LInfDistLinear",
    "LInfDistNet",
    "TanhHead",
    "attacks",
    "dist",
    "estimate_means",
    "linf_net",
    "pgd",
    "set_exponent",
]
