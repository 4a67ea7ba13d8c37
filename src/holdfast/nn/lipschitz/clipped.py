"""ReLU with an upper end that is learnt: between its ends it passes changes on, beyond them it swallows them.

Huang, Zhang, Shi, Kolter & Anandkumar, "Training Certifiably Robust Neural Networks with Efficient Local Lipschitz
Bounds", NeurIPS 2021, https://arxiv.org/abs/2111.01395, section 3.3: ReLU-theta.
"""

import torch
from torch import Tensor, nn


class ClippedReLU(nn.Module):
    """x clipped to [0, threshold], where the threshold is learnt and stays in [0, 1].

    What leaves it is in [0, 1] like the pixels of an image, so that training methods for noisy images serve features.

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
