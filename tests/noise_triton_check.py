"""Run with TRITON_INTERPRET=1 on a CPU, or on a GPU without it: the Triton kernel against the definition's kernels."""

import torch

from holdfast.core.certifier import Seed
from holdfast.smoothing.noise.numba_cpu import LatticeStream

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(shape: tuple[int, int, int], sigma: float, seed: Seed, draw: int, dtype: torch.dtype, last: bool) -> None:
    """Raises AssertionError where one number differs."""
    x = (torch.arange(torch.Size(shape).numel()) * 37 % 256).view(shape) / 255
    streams = [LatticeStream(x, sigma, 255.0, seed) for _ in range(2)]
    out = [torch.empty(3, *shape, dtype=dtype, device=device) for device in ("cpu", DEVICE)]
    for stream in streams:
        stream.draw = draw
    streams[0].fill(out[0])
    channels = shape[0] if last else 1
    streams[1].draw_on_gpu(out[1].view(3, -1), channels)
    expected = out[0].permute(0, 2, 3, 1) if last else out[0]
    assert torch.equal(out[1].cpu().view(3, -1), expected.flatten(1)), (shape, sigma, seed, draw, dtype, last)


if __name__ == "__main__":
    check((1, 28, 28), 0.25, Seed(0, 0), 0, torch.float32, False)
    check((3, 9, 7), 0.5, Seed(2**64 - 3, 2**32 - 1), 2**31 - 1, torch.float32, True)
    check((3, 20, 20), 1.0, Seed(2**63, 4711), 2**32 - 3, torch.bfloat16, True)
    check((2, 5, 3), 1.0, Seed(2**32, 1), 1, torch.float16, False)
    check((1, 4, 4), 0.004, Seed(5, 1), 1, torch.float64, False)
