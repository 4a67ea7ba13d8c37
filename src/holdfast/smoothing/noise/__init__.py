"""How noise is drawn. One file per way; the classes need no torch until they draw."""

from .base import Batch, Float32, Noise, NormalNoise, Stream, less, more
from .lattice import Lattice

NOISES: dict[str, type[Noise]] = {"lattice": Lattice, "float32": Float32}
"""By the name that the command line takes."""

__all__ = ["NOISES", "Batch", "Float32", "Lattice", "Noise", "NormalNoise", "Stream", "less", "more"]
