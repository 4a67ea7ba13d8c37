"""The largest spectral norm of some matrices, as an upper bound proven in floating point.

An eigenvalue solver only proposes a limit. It is accepted for a matrix F once the Cholesky factorisation of
limit * I - F F^H exists, which proves it up to a rounding error that is added (Rump, "Verification of Positive
Definiteness", BIT 2006, https://doi.org/10.1007/s10543-006-0056-1). The factorisation costs a fraction of an
eigenvalue solve, so it also decides which of the other matrices need one.
"""

import math

import torch
from torch import Tensor

UNIT = 2.0**-53
"""Unit roundoff of float64."""


def largest_norm(blocks: Tensor, below: float = math.inf) -> float:
    """A proven upper bound on the spectral norms of blocks (block, out, in), double or complex double.

    The blocks must not be so small or so large that their squares leave the range of float64. Gives up with inf once
    the answer is known not to be under `below`.
    """
    blocks = (blocks if blocks.shape[1] <= blocks.shape[2] else blocks.mH).resolve_conj().contiguous()
    slack = _slack(*blocks.shape[1:])
    limit = torch.finfo(torch.float64).tiny
    precise = blocks[_norm_estimates(blocks).topk(1 + len(blocks) // 50).indices]
    step = slack
    while len(blocks):
        step *= 2  # so that an eigenvalue solver that is wrong costs time, and not for ever
        limit = max(limit, float(torch.linalg.eigvalsh(precise @ precise.mH).max())) * (1 + step)
        if math.sqrt(limit) >= below:
            return math.inf
        precise = blocks = blocks[~_proven_below(blocks, limit)]
    return up(math.sqrt(limit * (1 + slack)))


def up(value: float) -> float:
    """The next larger float, which covers one rounding to nearest; 0 stays 0."""
    return math.nextafter(value, math.inf) if value else 0.0


def _norm_estimates(blocks: Tensor) -> Tensor:
    """Power iteration on every block; decides only which ones the eigenvalue solver sees first."""
    vector = blocks.new_ones(len(blocks), blocks.shape[1], 1)
    for _ in range(10 if len(blocks) > 1 else 0):
        vector = vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True).clamp_min(1e-300)
        vector = blocks @ (vector.mH @ blocks).mH
    return torch.linalg.vector_norm(vector, dim=(1, 2))


def _proven_below(blocks: Tensor, limit: float) -> Tensor:
    """Which blocks F have a Cholesky factorisation of limit * I - F F^H."""
    identity = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    parts = blocks.split(16)
    return torch.cat([torch.linalg.cholesky_ex(limit * identity - part @ part.mH).info == 0 for part in parts])


def _slack(side: int, inner: int) -> float:
    """Relative rounding error of a squared norm in the worst case: Gram product and Cholesky factor, complex."""
    return 8 * UNIT * side * (inner + side + 2)
