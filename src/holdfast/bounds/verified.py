"""The largest spectral norm of some matrices, as an upper bound proven in floating point.

An eigenvalue solver only proposes a limit. It is accepted for a matrix F once the Cholesky factorisation of
limit * I - F F^H exists, which proves it up to a rounding error that is added (Rump, "Verification of Positive
Definiteness", BIT 2006, https://doi.org/10.1007/s10543-006-0056-1). The factorisation costs a fraction of an
eigenvalue solve, so it also decides which of the other matrices need one.
"""

import math
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor

UNIT = 2.0**-53
"""Unit roundoff of float64."""

ETA = 2.0**-400
"""Far above what underflow can take from a sum of products, 2^-1022 each, and far below all that counts: it is added to
errors, beside which it vanishes."""

DENSE = 128
"""Side up to which all eigenvalues of a matrix are computed to propose the largest."""


def largest_norm(blocks: Tensor, below: float = math.inf) -> float:
    """A proven upper bound on the spectral norms of blocks (block, out, in), double or complex double.

    The blocks must not be so small or so large that their squares leave the range of float64. Gives up with inf once
    the answer is known not to be under `below` by more than the rounding that is added to every answer.
    """
    blocks = (blocks if blocks.shape[1] <= blocks.shape[2] else blocks.mH).resolve_conj().contiguous()
    return norm_of_grams(blocks @ blocks.mH, blocks.shape[2], below=below)


def norm_of_grams(grams: Tensor, inner: int, error: float = 0.0, below: float = math.inf) -> float:
    """The same for blocks F of which the products F F^H are given: (block, out, out), Hermitian.

    Args:
        inner: products that each entry sums.
        error: how far, in norm, a matrix may be from what such sums give; those and the factorisation are added.
    """
    slack = step = _slack(grams.shape[1], inner)
    limit, give_up = 0.0, below / (1 + 2 * slack)
    for indices in _estimates(grams).argsort(descending=True).split(16):
        part = grams[indices]
        limit = limit or max(_proposal(part) * (1 + 2 * step), torch.finfo(torch.float64).tiny)
        while math.sqrt(limit) < give_up and len(part := part[~_proven_below(part, limit)]):
            step *= 2  # so that an eigenvalue solver that is wrong costs time, and not for ever
            limit = max(limit, _proposal(part)) * (1 + step)
        if math.sqrt(limit) >= give_up:
            return math.inf
    return up(math.sqrt(up(limit * (1 + slack) + error)))


def up(value: float) -> float:
    """The next larger float, which covers one rounding to nearest; 0 stays 0."""
    return math.nextafter(value, math.inf) if value else 0.0


def kept(size: Tensor) -> Tensor:
    """Sizes with what underflow can take from them; 0 stays 0."""
    return torch.where(size > 0, size + ETA, size)


def product(a: float, b: float) -> float:
    """a b for numbers that are not negative, rounded up, also where it vanishes."""
    return up(a * b) or (ETA if a and b else 0.0)


def _estimates(grams: Tensor) -> Tensor:
    """Power iteration on every matrix; decides only which ones the eigenvalue solver sees first."""
    vector = grams.new_ones(len(grams), grams.shape[1], 1)
    for _ in range(8 if len(grams) > 1 else 0):
        vector = grams @ (vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True).clamp_min(1e-300))
    return torch.linalg.vector_norm(vector, dim=(1, 2))


def _proposal(grams: Tensor) -> float:
    """The largest eigenvalue of all, as a solver finds it."""
    if grams.shape[1] > DENSE:
        start = np.ones(grams.shape[1])
        options: dict[str, Any] = {"which": "LA", "v0": start, "tol": 1e-12, "return_eigenvectors": False}
        try:
            with threadpool_limits(1, "blas"):  # for two threads and such short vectors it takes thirty times as long
                return float(max(eigsh(one, 1, **options)[0] for one in grams.cpu().numpy()))
        except ArpackError:
            pass
    return float(torch.linalg.eigvalsh(grams).max())


def _proven_below(grams: Tensor, limit: float) -> Tensor:
    """For which of them limit * I - F F^H has a Cholesky factorisation."""
    identity = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    return torch.linalg.cholesky_ex(limit * identity - grams).info == 0


def _slack(side: int, inner: int) -> float:
    """Relative rounding error of a squared norm in the worst case: Gram product and Cholesky factor, complex."""
    return 8 * UNIT * side * (inner + side + 2)
