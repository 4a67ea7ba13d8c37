"""The noise of smoothed classifiers: Gaussian on a lattice, the same bits on every machine, or in float32 as before."""

from .definition import Seed, add, deduct
from .gaussian import Float32Gaussian, LatticeGaussian, Noise, Stream, feature_step

__all__ = ["Float32Gaussian", "LatticeGaussian", "Noise", "Seed", "Stream", "add", "deduct", "feature_step"]
