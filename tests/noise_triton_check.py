"""Run with TRITON_INTERPRET=1 on a CPU, or on a GPU without it: the Triton kernel against the definition's kernels."""

from fractions import Fraction

import numpy as np
import torch

from holdfast.smoothing.noise import LatticeGaussian, Seed, definition, triton_gpu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check(shape: tuple[int, int, int], sigma: float, seed: Seed, draw: int, dtype: torch.dtype, last: bool) -> None:
    """Raises AssertionError where one number differs."""
    d, rows = torch.Size(shape).numel(), 3
    k = np.random.default_rng(d).integers(0, 256, d).astype(np.int32)
    stream = LatticeGaussian().stream(torch.from_numpy(k.astype(np.float32) / np.float32(255)).view(shape), sigma, seed)
    stream.draw = draw  # pyright: ignore[reportAttributeAccessIssue]
    expected = torch.empty(rows, *shape, dtype=dtype)
    stream.fill(expected)
    channels = shape[0] if last else 1
    thresholds, first = definition.thresholds(Fraction(sigma) * 255)
    found = torch.empty(rows, d, dtype=dtype, device=DEVICE)
    triton_gpu.fill(found, channels, draw, seed, 255.0, triton_gpu.Row(k, thresholds, first, DEVICE))
    if last:
        expected = expected.permute(0, 2, 3, 1).contiguous()
    assert torch.equal(found.cpu(), expected.view(rows, d)), (shape, sigma, seed, draw, dtype, last)


if __name__ == "__main__":
    check((1, 28, 28), 0.25, Seed(0, 0), 0, torch.float32, False)
    check((3, 9, 7), 0.5, Seed(2**64 - 3, 2**32 - 1), 2**31 - 1, torch.float32, True)
    check((3, 20, 20), 1.0, Seed(2**63, 4711), 2**32 - 3, torch.bfloat16, True)
    check((2, 5, 3), 1.0, Seed(2**32, 1), 1, torch.float16, False)
    check((1, 4, 4), 0.001, Seed(5, 1), 1, torch.float64, False)
