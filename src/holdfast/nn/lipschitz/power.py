"""Power iteration: a cheap, differentiable estimate of a norm, for training only.

Golub & van Loan, "Matrix Computations", section 8.2; in Lipschitz training since Tsuzuku, Sato & Sugiyama, NeurIPS
2018, https://arxiv.org/abs/1802.04034. It approaches the norm from below, so it never reaches a certificate.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class PowerIteration(nn.Module):
    """Keeps the vector that a linear layer stretched most, from one step of training to the next.

    The vector is not saved. It starts at random whenever training mode is switched on, which the training loop does at
    the start of every epoch: a run that was stopped continues like one that was not.

    Args:
        shape: of one example that enters the layer.
        steps: multiplications by A^T A in each call.
    """

    vector: Tensor

    def __init__(self, shape: tuple[int, ...], steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("vector", torch.randn(1, *shape), persistent=False)

    def train(self, mode: bool = True) -> "PowerIteration":
        if mode:
            self.vector.normal_()
        return super().train(mode)

    def forward(self, linear: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> Tensor:
        """Scalar estimate of the norm of x -> linear(x, weight), with the gradient of the norm to the weight."""
        fixed, x = weight.detach(), self.vector
        with torch.autocast(weight.device.type, enabled=False):  # a norm in bfloat16 would be off by half a percent
            for _ in range(self.steps):
                with torch.enable_grad():
                    x = x.detach().requires_grad_()
                    y = linear(x, fixed)
                    (x,) = torch.autograd.grad(y, x, y.detach())
                x = normalize(x.flatten(), dim=0).view_as(self.vector)
            self.vector.copy_(x)
            return torch.linalg.vector_norm(linear(x, weight))
