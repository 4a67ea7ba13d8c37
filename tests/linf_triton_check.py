"""Run with TRITON_INTERPRET=1 on a CPU, or on a GPU without it: the Triton kernels against the reference kernels."""

import math

import torch

from holdfast.ops import eager, triton_gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(batch: int, inputs: int, outputs: int, p: float, scale: float) -> None:
    """Raises AssertionError where a value or a gradient of the two differs."""
    x = torch.randn(batch, inputs, device=DEVICE) * scale
    w = torch.randn(outputs, inputs, device=DEVICE) * scale
    grad = torch.randn(batch, outputs, device=DEVICE)
    y, expected = triton_gpu.forward(x, w, p), eager.forward(x.double(), w.double(), p)
    torch.testing.assert_close(y.double(), expected, rtol=3e-6, atol=0)
    if p == math.inf:
        assert torch.equal(triton_gpu.farthest(x, w, y), eager.farthest(x, w, y))
        return
    slopes = eager.backward(grad.double(), x.double(), w.double(), expected, p)
    for found, slope in zip(triton_gpu.backward(grad, x, w, y, p), slopes, strict=True):
        error = (found - slope).abs().max() / slope.abs().max()
        assert error < 3e-7 * max(10, p), (p, error)


if __name__ == "__main__":
    torch.manual_seed(0)
    for p in (1, 8, 48, 8.37, 1000, math.inf):
        check(37, 9, 41, p, 1.0)
        check(1, 3, 70, p, 1e3)
        check(5, 7, 10, p, 1e-3)
