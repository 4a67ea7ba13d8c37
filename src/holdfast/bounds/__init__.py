"""Proven bounds: operator norms, rounding, and what a ball of images can do."""
