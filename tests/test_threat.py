"""Threat models: lengths, projections and directions, checked against their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holdfast.core.threat import THREATS, Threat

ORDER = {"l1": 1.0, "l2": 2.0, "linf": math.inf}


@pytest.mark.parametrize("threat", [threat for _, threat in THREATS.items()], ids=str)
class TestThreat:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6), radius=st.floats(0, 5))
    def test_projection_is_the_nearest_point_of_the_ball(self, threat: Threat, seed: int, radius: float) -> None:
        shift = 3 * torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        limit = torch.full((4, 1, 1), radius, dtype=torch.float64)
        found = threat.project(shift, limit)
        assert (norm(threat, found) <= radius * (1 + 1e-12) + 1e-12).all()
        others = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
        others = others * (radius / norm(threat, others).clamp_min(1e-12)).clamp(max=1).view(-1, 1, 1)
        assert ((shift - found).flatten(1).norm(dim=1) <= (shift - others).flatten(1).norm(dim=1) + 1e-9).all()
        inside = norm(threat, shift) <= radius
        assert torch.equal(found[inside], shift[inside])

    def test_direction_has_norm_one_and_grows_fastest(self, threat: Threat) -> None:
        gradient = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        gradient[4] = 0
        found = threat.direction(gradient)
        assert torch.allclose(norm(threat, found[:4]), torch.ones(4, dtype=torch.float64))
        assert not found[4].any()
        dual = {"l1": math.inf, "l2": 2.0, "linf": 1.0}[threat.name]
        gain = (found * gradient).flatten(1).sum(1)
        assert torch.allclose(gain, torch.linalg.vector_norm(gradient.flatten(1), ord=dual, dim=1))

    def test_diameter_is_that_of_the_pixel_cube(self, threat: Threat) -> None:
        cube = torch.ones(1, 3, 2, 2, dtype=torch.float64)
        assert threat.diameter(12) == pytest.approx(float(norm(threat, cube)))
        assert torch.allclose(threat.length(cube).flatten(), norm(threat, cube))


def norm(threat: Threat, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), ord=ORDER[threat.name], dim=1)
