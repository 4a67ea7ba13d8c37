"""Threat models: lengths, projections and directions, checked against their definitions."""

import math
from typing import ClassVar

import pytest
import torch
from cases import ForEvery
from torch import Tensor

from holdfast.core.threat import THREATS, Threat, l1, l2, linf


class TestThreat(ForEvery):
    table: ClassVar = {
        name: threat for name, threat in THREATS.items() if type(threat).__module__.startswith("holdfast.")
    }
    argument = "threat"

    @pytest.mark.parametrize("radius", [0.0, 1e-9, 0.1, 0.7, 1.0, 2.5, 4.0, 10.0, 1000.0])
    @pytest.mark.parametrize("seed", range(0, 10, 2))
    def test_projection_is_the_nearest_point_of_the_ball(self, threat: Threat, seed: int, radius: float) -> None:
        shift = 3 * noise(seed, 4, 2, 3)
        limit = torch.full((4, 1, 1), radius, dtype=torch.float64)
        found = threat.project(shift, limit)
        assert (length(threat, found) <= radius * (1 + 1e-12) + 1e-12).all()
        others = noise(seed + 1, 4, 2, 3)
        others = others * (radius / length(threat, others).clamp_min(1e-12)).clamp(max=1).view(-1, 1, 1)
        assert ((shift - found).flatten(1).norm(dim=1) <= (shift - others).flatten(1).norm(dim=1) + 1e-9).all()
        inside = length(threat, shift) <= radius
        assert torch.equal(found[inside], shift[inside])

    def test_direction_has_norm_one_and_grows_fastest(self, threat: Threat) -> None:
        gradient = noise(0, 5, 3, 4)
        gradient[4] = 0
        found = threat.direction(gradient)
        assert torch.allclose(length(threat, found[:4]), torch.ones(4, dtype=torch.float64))
        assert not found[4].any()
        gain = (found * gradient).flatten(1).sum(1)
        for seed in range(1, 50):
            other = noise(seed, 5, 3, 4)
            steepest = threat.direction(other)  # corners of the ball, where another direction could gain most
            for unit in (other / threat.length(other), steepest):
                assert ((unit * gradient).flatten(1).sum(1) <= gain + 1e-12).all()

    def test_length_is_a_norm(self, threat: Threat) -> None:
        one, other = noise(1, 20, 3, 4), noise(2, 20, 3, 4)
        assert torch.allclose(threat.length(-2.5 * one), 2.5 * threat.length(one))
        assert (threat.length(one + other) <= threat.length(one) + threat.length(other) + 1e-12).all()
        assert threat.length(one).shape == (20, 1, 1)

    def test_diameter_is_that_of_the_pixel_cube(self, threat: Threat) -> None:
        cube = torch.ones(1, 3, 2, 2, dtype=torch.float64)
        assert threat.diameter(12) == pytest.approx(float(length(threat, cube)))
        apart = torch.rand(50, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert (length(threat, apart.round() - apart) <= threat.diameter(12)).all()


@pytest.mark.parametrize(("threat", "order", "dual"), [(l1, 1.0, math.inf), (l2, 2.0, 2.0), (linf, math.inf, 1.0)])
def test_the_norms_are_those_that_their_names_say(threat: Threat, order: float, dual: float) -> None:
    x = noise(0, 5, 3, 4)
    assert torch.allclose(length(threat, x), torch.linalg.vector_norm(x.flatten(1), ord=order, dim=1))
    gain = (threat.direction(x) * x).flatten(1).sum(1)
    assert torch.allclose(gain, torch.linalg.vector_norm(x.flatten(1), ord=dual, dim=1))


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def length(threat: Threat, x: Tensor) -> Tensor:
    return threat.length(x).flatten()
