"""The l-inf-distance operation, its kernels, its layers, and interval bounds."""

from .distance import dist

__all__ = ["dist"]
