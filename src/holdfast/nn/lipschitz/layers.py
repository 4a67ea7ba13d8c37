"""Small layers that have bounds: MinMax, a shift, residual blocks, and the linear residual block.

MinMax: Anil, Lucas & Grosse, "Sorting Out Lipschitz Function Approximation", ICML 2019, https://arxiv.org/abs/1811.05381.
The block: Hu, Zou, Wang, Leino & Fredrikson, "Unlocking Deterministic Robustness Certification on ImageNet", NeurIPS
2023, https://arxiv.org/abs/2301.12549, section 4; with the centering of their 2024 code.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils import parametrize

from .reparametrized import ResidualWeight


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
        self.mean.lerp_(mean.detach(), self.momentum)
        return out + (-mean).to(out.dtype).view(-1, 1, 1)


def _sum(x: Tensor, like: Tensor) -> Tensor:
    """(channel,): over all else; not a mean, whose gradient would be written out for every pixel."""
    return x.sum((0, 2, 3), dtype=like.dtype)
