"""How far a network can move in a small ball: against searches, the dense Jacobian and singular values."""

import itertools
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from holdfast.bounds import convolution, local
from holdfast.bounds.box import Box
from holdfast.bounds.convolution import Affine, estimated_norm, proven_norm
from holdfast.bounds.local import Region, slopes
from holdfast.bounds.steps import Ends
from holdfast.nn.lipschitz import MinMax, Residual, lipschitz_bound, materialise
from holdfast.nn.lipschitz.layers import ClippedReLU
from holdfast.nn.lipschitz.local import affine_of, local_constants
from holdfast.nn.normalize import Normalize
from holdfast.program import capture

SHAPE = (2, 6, 6)


def normalised() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.running_mean = torch.randn(4)
    norm.running_var = 0.2 + torch.rand(4)
    norm.weight.data.uniform_(-2, 2)
    return nn.Sequential(
        Normalize((0.4, 0.5), (0.2, 0.3)), nn.Conv2d(2, 4, 3, 2, 1), norm, ClippedReLU(0.7), nn.AvgPool2d(2, 1)
    )


LEFTS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(2, 5, 3), ClippedReLU(0.3)),
    "normalised": normalised,
    "two-layers": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2, dilation=2), nn.ReLU()
    ),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 9), ClippedReLU(0.5), nn.Linear(9, 4), nn.Identity()),
    "residual": lambda: nn.Sequential(
        ClippedReLU(0.8), Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())), nn.Conv2d(2, 3, 1)
    ),
    "overlapping-pool": lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(3, 1, 1)),
    "without-box": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), MinMax(), nn.Conv2d(4, 4, 1, groups=2), ClippedReLU(0.5)),
}


def left(name: str) -> nn.Module:
    torch.manual_seed(0)
    return materialise(LEFTS[name]().eval())


def local_bound(module: nn.Module, x: Tensor, gamma: float) -> Region:
    """Of the module's program."""
    return local.local_bound(capture(module.eval(), tuple(x.shape[1:])), x, gamma)


def images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def furthest(module: nn.Module, x: Tensor, gamma: float) -> Tensor:
    """The largest |f(x') - f(x)| that random search and gradient ascent find within gamma, (batch,)."""
    found = x.new_zeros(len(x))
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        shift = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        for _ in range(15):
            length = shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            shift = (gamma * shift / length).requires_grad_()
            moved = (module(x + shift) - module(x)).flatten(1).norm(dim=1)
            found = torch.maximum(found, moved.detach())
            (gradient,) = torch.autograd.grad(moved.sum(), shift)
            size = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            shift = (shift + gamma * gradient / size).detach()
    return found


@pytest.mark.parametrize("name", LEFTS)
class TestEveryLeftHalf:
    def test_no_search_moves_further_than_the_bound(self, name: str) -> None:
        for gamma in (0.02, 0.3, 2.0):
            region = local_bound(left(name), images(4), gamma)
            found = furthest(left(name), images(4), gamma)
            assert (found <= region.reach).all()
            assert (found <= region.constant * gamma).all()
            assert (found > 0.2 * region.reach).any(), "the search finds nothing, so it would not find a mistake"

    def test_values_lie_in_the_box(self, name: str) -> None:
        module, x, gamma = left(name), images(3), 0.5
        region = local_bound(module, x, gamma)
        for seed in range(20):
            shift = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
            moved = module(x + gamma * shift / shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).view_as(region.value)
            assert ((region.box.lower <= moved) & (moved <= region.box.upper)).all()

    def test_in_a_tiny_ball_it_is_the_norm_of_the_jacobian(self, name: str) -> None:
        module, (x,) = left(name), images(1)
        jacobian = torch.autograd.functional.jacobian(lambda image: module(image[None]).flatten(), x)
        exact = float(torch.linalg.matrix_norm(jacobian.flatten(1), 2))  # pyright: ignore
        bound = float(local_bound(module, x[None], 1e-9).constant)
        assert bound >= exact * (1 - 1e-6)
        if name in ("convolution", "normalised") and not any(
            isinstance(part, nn.AvgPool2d) for part in module.children()
        ):
            assert bound <= 1.01 * exact

    def test_it_is_no_larger_than_the_bound_that_holds_everywhere_and_grows_with_gamma(self, name: str) -> None:
        module, x = left(name), images(3)
        regions = [local_bound(module, x, gamma) for gamma in (0.1, 0.2, 0.5, 1.0, 4.0)]
        everywhere = lipschitz_bound(module, SHAPE)
        assert all((region.constant <= 1.01 * everywhere).all() for region in regions)
        for one, other in itertools.pairwise(regions):
            assert (one.reach <= other.reach * 1.01).all()

    def test_a_nan_in_a_weight_bounds_nothing(self, name: str) -> None:
        module = left(name)
        next(iter(module.state_dict().values())).view(-1)[0] = torch.nan
        with suppress(ValueError):  # which is as good
            assert (local_bound(module, images(2), 0.1).reach == torch.inf).all()

    def test_what_training_estimates_comes_near_to_what_is_proven(self, name: str) -> None:
        x = images(3)
        proven = local_bound(left(name), x, 0.2).constant
        found = local_constants(left(name), x, 0.2, lambda *masked: estimated_norm(*masked, steps=200))
        if name == "residual":  # x + g(x) of live layers is no single convolution
            assert (found > 0.9 * proven).all()
        else:
            assert (found <= proven * (1 + 1e-9)).all()
            assert (found > 0.97 * proven).all()


def dense(affine: Affine, slope: Tensor, mask: Tensor) -> Tensor:
    """diag(slope) W diag(mask) as a matrix."""
    columns = torch.eye(mask.numel(), dtype=mask.dtype).view(-1, *mask.shape)
    return (slope * affine.kernel.linear(columns * mask)).flatten(1).T


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(2, 3, 3, padding=2, dilation=2)])
def test_the_proven_norm_of_a_masked_convolution_is_just_above_the_singular_value(layer: nn.Module) -> None:
    torch.manual_seed(0)
    layer.reset_parameters()  # pyright: ignore
    affine = affine_of(layer.double())
    assert affine
    generator = torch.Generator().manual_seed(3)
    mask = (torch.rand(5, *SHAPE, generator=generator) > 0.4).double()
    slope = torch.rand(affine.kernel.linear(mask).shape, generator=generator, dtype=torch.float64)
    slope = slope * (slope > 0.3)
    exact = torch.stack([torch.linalg.matrix_norm(dense(affine, s, m), 2) for s, m in zip(slope, mask, strict=True)])
    proven = proven_norm(affine, slope, mask)
    assert (proven >= exact).all()
    assert (proven <= 1.005 * exact).all()
    assert (estimated_norm(affine, slope, mask, steps=2) < exact).all(), "power iteration comes from below"
    assert (estimated_norm(affine, slope, mask, steps=500) > 0.999 * exact).all()


def test_for_large_images_the_norm_without_masks_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = left("convolution"), images(2)
    local = local_bound(module, x, 0.1).constant
    monkeypatch.setattr(convolution, "LARGEST_SIDE", 1)
    everywhere = local_bound(module, x, 0.1).constant
    assert (local < 0.99 * everywhere).all()
    assert everywhere.tolist() == pytest.approx([lipschitz_bound(module, SHAPE)] * 2, rel=1e-9)


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_a_slope_is_the_smallest_that_holds_for_one_unit(threshold: float) -> None:
    """By enumeration of z and of all z' in its box."""
    activation = ClippedReLU(threshold).double()
    ends = Ends(torch.zeros((), dtype=torch.float64), torch.tensor(threshold, dtype=torch.float64))
    value = torch.linspace(-1.5, 2, 71, dtype=torch.float64)
    for up, down in ((0.3, 0.3), (1.0, 0.1), (0.2, 2.0)):
        slope = slopes(value, Box(value - down, value + up, torch.zeros_like(value)), ends)
        moved = value[:, None] + torch.linspace(-down, up, 2001, dtype=torch.float64)
        change = (activation(moved) - activation(value)[:, None]).abs() / (moved - value[:, None]).abs()
        true = change.nan_to_num().amax(1).detach()
        assert (slope >= true - 1e-9).all()
        outside = (value < 0) | (value > threshold)
        assert (slope - true)[outside].abs().max() < 0.01


def test_units_that_stay_at_their_ends_move_nothing() -> None:
    conv = nn.Conv2d(1, 2, 1).double()
    conv.weight.data, conv.bias.data = torch.ones(2, 1, 1, 1).double(), torch.tensor([-9.0, 9.0]).double()  # pyright: ignore
    region = local_bound(nn.Sequential(conv, ClippedReLU()).double(), torch.rand(1, 1, 3, 3).double(), 1.0)
    assert region.reach.item() == pytest.approx(0, abs=1e-9)


def test_the_box_bounds_the_reach_of_a_large_ball() -> None:
    """However far an image moves, features of [0, 0.3] cannot move beyond their corner."""
    region = local_bound(left("convolution"), images(1), 1000.0)
    assert region.reach.item() <= 0.3 * region.value[0].numel() ** 0.5
    assert isinstance(region, Region)


def test_what_has_no_estimate_is_refused_by_name_and_a_radius_is_positive() -> None:
    with pytest.raises(ValueError, match="no estimate for 1, a Tanh"):
        local_constants(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Tanh()).double(), images(1), 0.1, proven_norm)
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="gamma must be positive"):
            local_bound(left("convolution"), images(1), gamma)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_a_threshold_is_in_the_unit_interval(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold in \(0, 1\]"):
        ClippedReLU(threshold)
