"""The norm of diag(slope) W diag(mask), another operator for every image: proven for certificates, estimated to train.

The Gram matrix of a masked convolution is assembled window by window. Power iteration only proposes a limit; a
Cholesky factorisation of limit * I - G proves it up to a rounding error that is added (Rump, "Verification of Positive
Definiteness", BIT 2006, https://doi.org/10.1007/s10543-006-0056-1), as in `holdfast.bounds.verified`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .convolution import Affine, Images, Pair
from .norms import conv2d_norm, remembered
from .verified import ETA, UNIT, up

LARGEST_SIDE = 4096
"""Inputs up to which a Gram matrix is assembled; beyond them the masks are not used: the norm of W is as valid."""

STEPS = 40
"""Of the power iteration that proposes a limit; only the time depends on it."""

PRECISION = 4e-3
"""By how much the square of a proven norm may be too large, as a share: more costs factorisations."""


def proven_norm(affine: Affine, slope: Images, mask: Images) -> Tensor:
    """An upper bound on the norm for every example, (batch,), float64; inf where a number is not finite.

    Args:
        affine: in float64.
        slope: (batch, *output), from 0 to 1.
        mask: (batch, *input), 0 or 1.
    """
    if mask[0].numel() > LARGEST_SIDE:
        kernel, size = affine.kernel, (mask.shape[-2], mask.shape[-1])
        norm = remembered(_kernel_norm, kernel.weight, size, kernel.stride, kernel.padding, kernel.dilation)
        return norm * slope.flatten(1).amax(1)
    estimates = estimated_norm(affine, slope, mask, STEPS)
    bounds = [_proven(affine, *one) for one in zip(slope, mask, estimates.tolist(), strict=True)]
    return torch.tensor(bounds, dtype=slope.dtype, device=slope.device)


def estimated_norm(affine: Affine, slope: Images, mask: Images, steps: int) -> Tensor:
    """Power iteration for every example, (batch,): approaches the norm from below; differentiable in W and slope."""
    kernel = affine.kernel
    with torch.no_grad():
        x = mask * torch.randn(mask.shape[1:], generator=_fixed(), dtype=mask.dtype).to(mask.device)
        for _ in range(steps):
            x = mask * kernel.transposed(slope.square() * kernel.linear(x), mask.shape)
            x = x / x.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
    return (slope * kernel.linear(x)).flatten(1).norm(dim=1)


def _kernel_norm(weight: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> float:
    return conv2d_norm(weight, size, stride, padding, "zeros", 1, dilation)


def _proven(affine: Affine, slope: Tensor, mask: Tensor, estimate: float) -> float:
    """For one example."""
    gram, terms = _gram(affine, slope, mask)
    if not (math.isfinite(estimate) and torch.isfinite(gram).all()):
        return math.inf
    if not len(gram):
        return 0.0
    slack = 8 * UNIT * len(gram) * (terms + len(gram) + 8)
    limit = _limit(gram, max(estimate**2, torch.finfo(gram.dtype).tiny))
    return up(math.sqrt(limit * (1 + slack)) * (1 + 8 * UNIT)) + ETA


def _limit(gram: Tensor, least: float) -> float:
    """A number above the largest eigenvalue, by a Cholesky factorisation, and within PRECISION of the smallest such."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)

    def proven(limit: float) -> bool:
        return int(torch.linalg.cholesky_ex(limit * identity - gram).info) == 0

    step = PRECISION
    while not proven(limit := least * (1 + step)):
        least, step = limit, 2 * step
    while limit > least * (1 + PRECISION):
        middle = (least + limit) / 2
        least, limit = (least, middle) if proven(middle) else (middle, limit)
    return limit


def _gram(affine: Affine, slope: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """W^T diag(slope)^2 W between the inputs that move and are felt, and how many products make an entry."""
    kernel = affine.kernel
    inputs = mask.numel()
    places = torch.arange(1, inputs + 1, dtype=mask.dtype, device=mask.device).view(1, *mask.shape)
    window = F.unfold(places, kernel.weight.shape[2:], kernel.dilation, kernel.padding, kernel.stride)[0].T.long()
    rows = slope.flatten(1).T[:, :, None] * kernel.weight.flatten(1)
    blocks = rows.mT @ rows
    where = window[:, :, None] * (inputs + 1) + window[:, None]
    gram = blocks.new_zeros((inputs + 1) ** 2).index_add_(0, where.flatten(), blocks.flatten())
    gram = gram.view(inputs + 1, inputs + 1)[1:, 1:]
    kept = (mask.flatten() > 0) & ~(gram.diagonal() == 0)
    return gram[kept][:, kept], rows.shape[1] * min(len(window), kernel.terms)


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)
