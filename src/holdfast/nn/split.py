"""A classifier in two halves: noise is added to the features between them, and the radius is measured before them.

Zhong & Tandon, "SPLITZ: Certifiable Robustness via Split Lipschitz Randomized Smoothing", IEEE TIFS 20, 2025,
https://arxiv.org/abs/2407.02811, section 3. Where a network of ours can be cut has a name: `lenet@conv1` is `lenet` cut
behind its first convolution, whose ReLUs up to there are clipped.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..core.registry import unknown
from .lipschitz.compose import materialise

Part = Literal["whole", "left", "right"]


class SplitClassifier(nn.Module):
    """right(left(x)): images in [0, 1] -> features -> logits.

    Everything that happens to an image before the noise belongs to the left half: also the normalisation.

    Args:
        left: a chain of layers with a proven bound; an empty `nn.Sequential` leaves plain smoothing.
        right: any network.
    """

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    @classmethod
    def cut(cls, model: nn.Module, at: int | str) -> "SplitClassifier":
        """A chain of layers, cut in two; the layers are shared, not copied.

        Args:
            model: an `nn.Sequential`.
            at: how many of its layers come first, or the name of the last of them.

        Raises:
            ValueError: the model is no chain, or has no such cut.
        """
        if not isinstance(model, nn.Sequential):
            raise ValueError(
                f"only an nn.Sequential can be cut, got a {type(model).__name__}; give its halves to SplitClassifier"
            )
        names = [name for name, _ in model.named_children()]
        if isinstance(at, str):
            if at not in names:
                raise unknown("layer to cut behind", at, names)
            at = names.index(at) + 1
        if not 0 <= at < len(names):
            raise ValueError(f"cannot cut a chain of {len(names)} layers at {at}: expected 0 to {len(names) - 1}")
        layers = list(model.children())
        return cls(nn.Sequential(*layers[:at]), nn.Sequential(*layers[at:]))

    def forward(self, x: Tensor, part: Part = "whole") -> Tensor:
        """The logits of images; or the features of images (left), or the logits of features (right)."""
        if part == "right":
            return self.right(x)
        features = self.left(x)
        return features if part == "left" else self.right(features)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """What the noise is added to, as it is certified: computed in float64, then rounded to the precision of x."""
        return materialise(self.left)(x.to(torch.float64, copy=True)).to(x.dtype)
