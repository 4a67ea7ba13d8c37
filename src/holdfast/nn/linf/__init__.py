"""l-inf-distance nets: layers, heads, networks, and the schedule of their exponent."""

from ...ops.distance import dist
from .heads import DistanceHead, TanhHead
from .layers import LInfDistConv2d, LInfDistLinear, SortDistConv2d, SortDistLinear, estimate_means, set_exponent
from .network import LInfDistNet, linf_net
from .schedule import ExponentSchedule

__all__ = [
    "DistanceHead",
    "ExponentSchedule",
    "LInfDistConv2d",
    "LInfDistLinear",
    "LInfDistNet",
    "SortDistConv2d",
    "SortDistLinear",
    "TanhHead",
    "dist",
    "estimate_means",
    "linf_net",
    "set_exponent",
]
