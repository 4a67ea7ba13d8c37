"""l-inf-distance nets: layers, heads, networks, and the schedule of their exponent."""

from ...ops.distance import dist
from .layers import (
    ExponentSchedule,
    LInfDistConv2d,
    LInfDistLinear,
    SortDistConv2d,
    SortDistLinear,
    estimate_means,
    set_exponent,
)
from .network import DistanceHead, LInfDistNet, TanhHead, linf_net

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
