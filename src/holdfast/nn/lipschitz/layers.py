"""Layers that have bounds, and weights that are functions of what is learnt.

MinMax: Anil, Lucas & Grosse, "Sorting Out Lipschitz Function Approximation", ICML 2019, https://arxiv.org/abs/1811.05381.
The block: Hu, Zou, Wang, Leino & Fredrikson, "Unlocking Deterministic Robustness Certification on ImageNet", NeurIPS
2023, https://arxiv.org/abs/2301.12549, section 4; with the centering of their 2024 code.

Such weights are `torch.nn.utils.parametrize` parametrizations. Nothing is cached: a weight cannot be older than its
parameters, and `remove_parametrizations` leaves a stock layer.
"""

from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu
from torch.nn.utils import parametrize

from ..processes import over_processes

Layer = TypeVar("Layer", bound=nn.Conv2d | nn.Linear)


class MinMax(nn.Module):
    """Sorts channel i with channel i + half, for the channels (dimension 1) of x: exactly norm-preserving.

    In eval mode one comparison decides both outputs, so that they are a permutation of the inputs bit for bit. In
    training mode the outputs carry a rounding error, which makes a step of a LiResNet on a CPU much faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise ValueError(f"MinMax sorts pairs of channels, got {x.shape[1]} channels")
        first, second = x.chunk(2, dim=1)
        if self.training:
            gain = relu(second - first)
            return torch.cat([first + gain, second - gain], dim=1)
        ordered = first > second
        return torch.cat([torch.where(ordered, first, second), torch.where(ordered, second, first)], dim=1)


class Shift(nn.Module):
    """x + by: moves [0, 1] to where a network learns well, without changing the unit of a radius."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by

    def extra_repr(self) -> str:
        return f"{self.by}"


class Residual(nn.Module):
    """x + body(x). Where the body is linear, one `LinearResidualBlock` has the smaller constant."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ReLUBlock(nn.Module):
    """relu(branch(x) + shortcut(x)): the block of ResNets (He et al., CVPR 2016, fig. 2)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.activation = branch, shortcut, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.branch(x) + self.shortcut(x))


class ClippedReLU(nn.Module):
    """x clipped to [0, threshold], where the threshold is learnt and stays in [0, 1].

    Huang, Zhang, Shi, Kolter & Anandkumar, "Training Certifiably Robust Neural Networks with Efficient Local Lipschitz
    Bounds", NeurIPS 2021, https://arxiv.org/abs/2111.01395, section 3.3: ReLU-theta. Between its ends it passes changes
    on, beyond them it swallows them. What leaves it is in [0, 1] like the pixels of an image, so that training methods
    for noisy images serve features.

    Args:
        threshold: at the start.
        learnt: whether it changes in training.

    Raises:
        ValueError: the threshold is not in (0, 1].
    """

    def __init__(self, threshold: float = 1.0, learnt: bool = True) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f"expected a threshold in (0, 1], got {threshold}")
        self.raw = nn.Parameter(torch.tensor(float(threshold)), requires_grad=learnt)

    @property
    def threshold(self) -> Tensor:
        """Scalar."""
        return self.raw.clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(x.relu(), self.threshold)


class LinearResidualBlock(nn.Module):
    """x + W * x + b, a single convolution with the kernel I + W, so that its constant is |I + W| and not 1 + |W|.

    W = depth^(-1/2) gamma theta, with one learnt factor gamma for each output channel. The mean of W * x over a batch
    is subtracted (in eval mode a running mean), unless it is told not to be: a shift, which changes no constant.

    Args:
        width: channels.
        depth: number of such blocks in the network.
        momentum: of the running mean.
        centered: subtract the mean, as the authors' code of 2024 does and that of 2023 does not.
    """

    mean: Tensor

    def __init__(self, width: int, depth: int, momentum: float = 0.1, centered: bool = True) -> None:
        super().__init__()
        self.momentum, self.centered = momentum, centered
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=1 / (9 * width))
        nn.init.zeros_(self.bias)
        parametrize.register_parametrization(self.conv, "weight", ResidualWeight(width, depth, spatial=2))
        self.register_buffer("mean", torch.zeros(width))

    @property
    def bias(self) -> Tensor:
        """(channel,): b."""
        assert self.conv.bias is not None
        return self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        if not (self.training and self.centered):
            return out - self.mean.view(-1, 1, 1)
        mean = (_sum(out, self.mean) - _sum(x, self.mean)) / (x.numel() / x.shape[1]) - self.bias
        mean = over_processes(mean)
        self.mean.lerp_(mean.detach(), self.momentum)
        return out + (-mean).to(out.dtype).view(-1, 1, 1)


def _sum(x: Tensor, like: Tensor) -> Tensor:
    """(channel,): over all else; not a mean, whose gradient would be written out for every pixel."""
    return x.sum((0, 2, 3), dtype=like.dtype)


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
        # there is no Cholesky factorisation in half precision; without autocast, an export need not be cut around it
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
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
