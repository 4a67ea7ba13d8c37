"""Weights that are functions of what is learnt, as `torch.nn.utils.parametrize` parametrizations.

Nothing is cached: a weight cannot be older than its parameters, and `remove_parametrizations` leaves a stock layer.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Conv2d | nn.Linear)


class ResidualWeight(nn.Module):
    """theta -> I + depth^(-1/2) gamma theta, with one learnt gamma for each output.

    Hu et al., NeurIPS 2023, https://arxiv.org/abs/2301.12549, section 4 (convolutions), and "A Recipe for Improved
    Certifiable Robustness", ICLR 2024, https://arxiv.org/abs/2310.02513, section 4.1 (dense layers).

    Args:
        width: inputs and outputs of the layer.
        depth: number of such layers in the network.
        spatial: dimensions of the kernel, 0 for a dense layer.
    """

    def __init__(self, width: int, depth: int, spatial: int = 0) -> None:
        super().__init__()
        self.scale = depth**-0.5
        self.gamma = nn.Parameter(torch.ones(width, 1, *[1] * spatial))

    def forward(self, theta: Tensor) -> Tensor:
        residual = self.scale * self.gamma * theta
        identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
        around = [side // 2 for side in reversed(theta.shape[2:]) for _ in range(2)]
        return residual + pad(identity.view(*theta.shape[:2], *[1] * (theta.dim() - 2)), around)


class CholeskyOrthogonal(nn.Module):
    """X -> L^(-1) X with L L^T = X X^T + delta I: rows that are orthogonal but for delta, norm a little under 1.

    Hu et al., ICLR 2024, https://arxiv.org/abs/2310.02513, section 4.1. In floating point the norm may exceed 1, so a
    certificate measures it; training takes it to be 1.

    Args:
        damping: delta, relative to the mean of the diagonal of X X^T.
    """

    def __init__(self, damping: float = 1e-3) -> None:
        super().__init__()
        self.damping = damping

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        device = rows.device.type if torch.amp.is_autocast_available(rows.device.type) else "cpu"
        with torch.autocast(device, enabled=False):  # there is no Cholesky factorisation in half precision
            gram = rows @ rows.mT
            delta = self.damping * gram.diagonal().mean().detach()
            lower = torch.linalg.cholesky(gram + delta * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
            return torch.linalg.solve_triangular(lower, rows, upper=False).view_as(weight)


class UnitRows(nn.Module):
    """W -> W with every row divided by its l2 norm; the last-layer normalisation of Singla, Singla & Feizi, ICLR 2022.

    Without a small constant in the denominator, which would make rows shorter than a bound believes.
    """

    def forward(self, weight: Tensor) -> Tensor:
        return weight / torch.linalg.vector_norm(weight, dim=1, keepdim=True)


def orthogonal(layer: Layer) -> Layer:
    """The layer with Cholesky-orthogonal rows; outputs must not exceed inputs times kernel size."""
    rows, columns = layer.weight.flatten(1).shape
    if rows > columns:
        raise ValueError(f"{rows} rows of length {columns} cannot be orthogonal; use at most {columns} outputs")
    nn.init.orthogonal_(layer.weight)
    parametrize.register_parametrization(layer, "weight", CholeskyOrthogonal())
    return layer


def orthogonal_residual(width: int, depth: int) -> nn.Linear:
    """A CHORD layer: dense, width -> width, with the orthogonalised weight I + depth^(-1/2) gamma theta."""
    layer = nn.Linear(width, width)
    nn.init.normal_(layer.weight, std=1 / width)
    nn.init.zeros_(layer.bias)
    parametrize.register_parametrization(layer, "weight", ResidualWeight(width, depth))
    parametrize.register_parametrization(layer, "weight", CholeskyOrthogonal())
    return layer


def unit_rows(inputs: int, outputs: int) -> nn.Linear:
    """A last layer with rows of length 1."""
    layer = nn.Linear(inputs, outputs)
    parametrize.register_parametrization(layer, "weight", UnitRows())
    return layer
