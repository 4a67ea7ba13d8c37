"""How much of a proven Lipschitz constant is slack: layer by layer, against pairs of points, against power iteration.

The lower bound is the largest |f(x) - f(y)| / |x - y| that gradient ascent on pairs finds, as in the discussion of Hu
et al., NeurIPS 2023, https://arxiv.org/abs/2301.12549. Power iteration is what published certificates divide by.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .compose import layer_bounds, lipschitz_bound, materialise
from .network import LipschitzNet

CONVERGED = 500
"""Steps of power iteration after which the code of Hu et al. takes an estimate for the norm."""


@dataclass(frozen=True)
class Tightness:
    """Plain numbers for a report; `lower <= true constant of the body <= upper`."""

    layers: dict[str, float]
    """Proven constant of each layer, by name."""
    upper: float
    """Proven constant of the body."""
    lower: float
    """Largest ratio of distances that was found."""
    power_iteration: float
    """What power iteration says, with orthogonal layers taken to be 1 as in training. Not proven."""


def tightness(net: LipschitzNet, x: Float[Tensor, "batch channel height width"], steps: int = 200) -> Tightness:
    """Bounds of a network in eval mode, and what pairs near the images x say about them, in float64."""
    plain = materialise(net)
    upper = lipschitz_bound(plain.body, net.input_shape)
    lower = largest_ratio(plain.body, x.double(), steps)
    return Tightness(layer_bounds(plain.body, net.input_shape), upper, lower, converged_estimate(plain))


def largest_ratio(function: nn.Module, x: Float[Tensor, "batch ..."], steps: int) -> float:
    """The largest |f(x) - f(y)| / |x - y| after Adam on both points of every pair."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)
    with torch.inference_mode(False), torch.enable_grad():
        points = x.detach().clone().requires_grad_()
        others = (x.detach() + 0.1 * noise).requires_grad_()
        optimizer = torch.optim.Adam([points, others], lr=0.01)
        best = torch.zeros((), device=x.device)
        for _ in range(steps):
            ratios = _ratios(function, points, others)
            best = torch.maximum(best, ratios.detach().max())
            optimizer.zero_grad()
            (-ratios.log().sum()).backward()
            optimizer.step()
        return float(torch.maximum(best, _ratios(function, points, others).detach().max()))


def converged_estimate(plain: LipschitzNet) -> float:
    """The body's constant by power iteration from a random start."""
    with torch.inference_mode(False), torch.no_grad():
        for part in plain.power.values():
            part.vector.normal_(generator=torch.Generator(part.vector.device).manual_seed(0))  # pyright: ignore
            part.steps = CONVERGED  # pyright: ignore
        return float(plain.norm_estimate())


def _ratios(function: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    distances = [torch.linalg.vector_norm((a - b).flatten(1), dim=1) for a, b in ((function(x), function(y)), (x, y))]
    return distances[0] / distances[1]
