"""The l-inf-distance operation, its kernels, its layers, and interval bounds."""
