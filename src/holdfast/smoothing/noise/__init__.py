"""How noise is drawn. One file per way; the classes need no torch until they draw."""

from .base import Float32, Noise, NormalNoise, Stream

__all__ = ["Float32", "Noise", "NormalNoise", "Stream"]
