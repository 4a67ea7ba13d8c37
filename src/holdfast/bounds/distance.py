"""Interval bounds through a layer of l-inf-distance neurons, exact for a box of inputs.

Zhang, Jiang, He & Wang, "Boosting the Certified Robustness of L-infinity Distance Nets", ICLR 2022,
https://arxiv.org/abs/2110.06850, certify with such bounds from the box of radius epsilon, clipped to images in [0, 1].
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..ops.distance import dist


def distance_bounds(
    lower: Float[Tensor, "batch inputs"], upper: Float[Tensor, "batch inputs"], w: Float[Tensor, "outputs inputs"]
) -> tuple[Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"]]:
    """The least and the largest |x - w|_inf over lower <= x <= upper.

    The largest is at an end: max(|lower - w|_inf, |upper - w|_inf). The least is how far w lies outside of the box,
    max_j max(lower - w, w - upper, 0): a one-sided distance, which is a distance once the box is moved far enough to
    one side of all weights. The move costs a few of the 53 bits of float64.
    """
    far = 2.0 ** torch.stack([lower, upper]).abs().amax().add(w.abs().amax()).log2().ceil().clamp(min=0).item()
    below, above, lowest, highest = dist(torch.cat([lower + far, upper - far, lower, upper]), w).chunk(4)
    return torch.maximum(below, above).sub(far).clamp(min=0), torch.maximum(lowest, highest)
