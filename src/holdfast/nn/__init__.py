"""Layers with a proof, networks made of them, and architectures by name."""
