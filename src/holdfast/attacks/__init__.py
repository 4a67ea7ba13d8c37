"""Attacks: projected gradients in any threat model, on a classifier or on its smoothed version."""
