"""For every operation with a rule, in its argument forms: no Jacobian exceeds the constant, no point leaves its box."""

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from holdfast.bounds import box, l2, linf
from holdfast.bounds.local import Region, local_bound
from holdfast.bounds.steps import Steps
from holdfast.ops.distance import dist, sort_dist
from holdfast.program import Program, capture

SHAPE = (4, 5, 5)

Make = Callable[[torch.Generator], Callable[[Tensor], Tensor]]


def weight(g: torch.Generator, *shape: int) -> Tensor:
    """Numbers that float32 holds as well."""
    return (torch.randn(shape, generator=g) * 0.6).double()


def of(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Make:
    """A function of an input and of weights of those shapes."""

    def make(g: torch.Generator) -> Callable[[Tensor], Tensor]:
        weights = [weight(g, *shape) for shape in shapes]
        return lambda x: function(x, *weights)

    return make


def _batch_norm(g: torch.Generator) -> Callable[[Tensor], Tensor]:
    mean, factor, bias, var = (weight(g, 4) for _ in range(4))
    return lambda x: F.batch_norm(x, mean, var.abs() + 0.1, factor, bias)


def _residual_conv(g: torch.Generator, stride: int = 1) -> Callable[[Tensor], Tensor]:
    one, other = weight(g, 4, 4, 3, 3), weight(g, 4, 4, 1, 1)
    if stride == 1:
        return lambda x: x - F.conv2d(x, one, None, 1, 2, 2)
    return lambda x: F.conv2d(x, one, None, stride, 1) + F.conv2d(x, other, None, stride)


OPERATIONS: dict[str, Make] = {
    "conv2d": of(lambda x, w, b: F.conv2d(x, w, b, 2, 1), (3, 4, 3, 3), (3,)),
    "conv2d-grouped": of(lambda x, w: F.conv2d(x, w, None, (1, 2), (0, 1), (2, 1), 2), (6, 2, 3, 2)),
    "conv2d-same": of(lambda x, w: F.conv2d(x, w, padding="same"), (3, 4, 3, 3)),
    "conv-transposed": of(lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1), (4, 3, 3, 3)),
    "conv-transposed-grouped": of(
        lambda x, w, b: F.conv_transpose2d(x, w, b, (1, 3), (1, 0), (0, 2), 2, (2, 1)), (4, 3, 2, 3), (6,)
    ),
    "circular": of(lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), "circular"), w), (3, 4, 3, 3)),
    "linear": of(lambda x, w, b: F.linear(x.flatten(1), w, b), (7, 100), (7,)),
    "linear-last-axis": of(lambda x, w: F.linear(x, w), (3, 5)),
    "addmm": of(lambda x, w, b: torch.addmm(b, x.flatten(1), w, beta=0.5, alpha=-2.0), (100, 6), (6,)),
    "mm": of(lambda x, w: torch.mm(x.flatten(1), w), (100, 6)),
    "matmul-right": of(lambda x, w: x @ w, (5, 3)),
    "matmul-left": of(lambda x, w: w @ x, (3, 5)),
    "batch-norm": _batch_norm,
    "normalized-conv": of(
        lambda x, w, s: F.conv2d((x - 0.5) / (s.abs() + 0.3), w, None, 1, 1) * 2, (3, 4, 3, 3), (4, 1, 1)
    ),
    "residual-convolution": _residual_conv,
    "two-strided-convolutions": lambda g: _residual_conv(g, 2),
    "twice": of(lambda x: x + x),
    "residual": of(lambda x, w: x + 0.5 * F.conv2d(x, w, None, 1, 1).relu(), (4, 4, 3, 3)),
    "difference": of(lambda x: torch.sub(x.abs(), x.tanh(), alpha=2.0)),
    "scaled": of(lambda x, c: 2 - (-x * c) / 0.7 + c, (4, 5, 5)),
    "max-pool": of(lambda x: F.max_pool2d(x, 3, 1, 1)),
    "max-pool-dilated": of(lambda x: F.max_pool2d(x, 2, 2, 0, 2)),
    "max-pool-ceil": of(lambda x: F.max_pool2d(x, (2, 3), (2, 1), ceil_mode=True)),
    "avg-pool": of(lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "avg-pool-overlapping": of(lambda x: F.avg_pool2d(x, (2, 3), 1)),
    "adaptive-avg-pool": of(lambda x: F.adaptive_avg_pool2d(x, (2, 3))),
    "adaptive-max-pool": of(lambda x: F.adaptive_max_pool2d(x, (5, 1))),
    "mean-and-sum": of(lambda x: x.mean((2, 3)) + x.sum(-1).sum(2, keepdim=False)),
    "maximum-over-pixels": of(lambda x: torch.cat([x.amax((2, 3)), x.min(2).values.flatten(1)], 1)),
    "relu": of(lambda x, w: F.conv2d(x, w).relu(), (4, 4, 1, 1)),
    "clipped-relu": of(lambda x, w: torch.minimum(F.conv2d(x, w).relu(), torch.tensor(0.3).double()), (4, 4, 1, 1)),
    "clamp": of(lambda x, w: F.conv2d(x, w).clamp(-0.2, 0.5), (4, 4, 3, 3)),
    "clamp-one-end": of(lambda x, w: F.conv2d(x, w).clamp(max=0.1).clamp_min(-0.3), (4, 4, 3, 3)),
    "hardtanh": of(lambda x: F.relu6(F.hardtanh(6 * x, -0.5, 5))),
    "leaky-relu": of(lambda x: F.leaky_relu(x - 0.5, -1.5)),
    "elu": of(lambda x: F.elu(x - 0.5, 1.7)),
    "tanh": of(lambda x: torch.tanh(3 * x - 1)),
    "sigmoid": of(lambda x: torch.sigmoid(8 * x - 4)),
    "gelu": of(lambda x: F.gelu(4 * x - 3)),
    "gelu-tanh": of(lambda x: F.gelu(4 * x - 3, approximate="tanh")),
    "silu": of(lambda x: F.silu(6 * x - 4)),
    "hardswish": of(lambda x: F.hardsigmoid(x) + F.hardswish(8 * x - 5)),
    "abs": of(lambda x: (x - 0.5).abs()),
    "maximum": of(lambda x, w: torch.maximum(x, F.conv2d(x, w)) + torch.min(x, x.flip(1)), (4, 4, 1, 1)),
    "choice": of(lambda x: torch.where(x.flip(2) <= x, x, x.flip(2))),
    "minmax": of(lambda x: _minmax(x, 1)),
    "minmax-columns": of(lambda x: _minmax(x[..., 1:], 3)),
    "cat": of(lambda x: torch.cat([x, 2 * x, x[:, :1]], 1)),
    "stack": of(lambda x: torch.stack([x, 2 * x, x.flip(2)], 2)),
    "slices": of(lambda x: x[:, ::2, 1:-1][:, :, :, 2]),
    "split": of(lambda x: x.split(3, 1)[1] - x.unbind(1)[0].unsqueeze(1)),
    "pad": of(lambda x: F.pad(F.pad(x, (1, 2), value=3.0), (0, 0, 1, 1), "reflect")),
    "permuted": of(lambda x: x.permute(0, 3, 1, 2).transpose(1, 2).flip(3).roll(1, 2).unsqueeze(1).squeeze(1)),
    "unfold": of(lambda x: F.unfold(x, 3, padding=1, stride=2)),
    "shuffled": of(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2)[..., :9, :9].reshape(-1, 1, 9, 9), 3)),
    "upsampled": of(lambda x: F.interpolate(x, scale_factor=2.0)),
    "linf-dist": of(lambda x, w: -dist(x.flatten(1), w) * 0.7 + 1, (6, 100)),
    "sort-dist": of(lambda x, w: -sort_dist(x.flatten(1), w, 0.6, 5) * 0.7 + 1, (6, 100)),
    "softmax": of(lambda x, w: F.softmax(F.linear(x.flatten(1), w), 1), (5, 100)),
    "log-softmax": of(lambda x, w: F.log_softmax(F.linear(x.flatten(1), w), 1), (5, 100)),
    "network": of(
        lambda x, a, b: F.linear((F.conv2d(x, a, None, 1, 1).relu() + x).flatten(1), b), (4, 4, 3, 3), (6, 100)
    ),
}


def _minmax(x: Tensor, dim: int) -> Tensor:
    first, second = x.chunk(2, dim)
    return torch.cat([torch.minimum(first, second), torch.where(second > first, second, first)], dim)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("precision", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@cache
def program(name: str) -> Program:
    return capture(Function(OPERATIONS[name](torch.Generator().manual_seed(3))).eval(), SHAPE)


def jacobian(found: Program, x: Tensor) -> Tensor:
    """(outputs, inputs) at one input: each row of a batch of copies gives the gradient of one output."""
    count = math.prod(found.output_shape)
    copies = x.expand(count, *SHAPE).clone().requires_grad_()
    (rows,) = torch.autograd.grad(found(copies).reshape(count, count).diagonal().sum(), copies)
    return rows.flatten(1)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=3, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), gamma=st.sampled_from([0.03, 0.4, 2.0]))
def test_no_jacobian_exceeds_the_constants_and_no_point_leaves_the_box_or_the_ball(
    name: str, seed: int, gamma: float
) -> None:
    found = program(name)
    steps, g = Steps(found), torch.Generator().manual_seed(seed)
    x = torch.rand(1, *SHAPE, generator=g, dtype=torch.float64)
    slopes = jacobian(found, x[0])
    assert float(torch.linalg.matrix_norm(slopes, 2)) <= l2.network_bound(steps).norm
    deviations = steps.follow(torch.ones(1, *SHAPE, dtype=torch.float64), linf.RULES).flatten()
    assert (slopes.abs().sum(1) <= deviations * (1 + 1e-12)).all()
    shift = torch.randn(60, *SHAPE, generator=g, dtype=torch.float64)
    for _ in range(3):  # towards where the value moves furthest
        shift = (gamma * shift / shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).requires_grad_()
        moved = (found(x + shift) - found(x)).flatten(1).norm(dim=1)
        (ascent,) = torch.autograd.grad(moved.sum(), shift)
        _inside_the_ball(found, local_bound(steps, x, gamma), x + shift.detach(), moved.detach(), gamma)
        shift = (shift + gamma * ascent / ascent.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)).detach()
    cube = box.follow(steps, box.Box.of(x - gamma / 10, x + gamma / 10))
    inside = found(x + (shift * 10).clamp(-gamma / 10, gamma / 10))
    assert ((cube.lower - cube.error <= inside) & (inside <= cube.upper + cube.error)).all()


def _inside_the_ball(found: Program, region: Region, points: Tensor, moved: Tensor, gamma: float) -> None:
    values = found(points)
    assert (moved <= region.reach).all()
    assert (moved <= region.constant * gamma).all()
    assert ((region.box.lower <= values) & (values <= region.box.upper)).all()


EXACT = {
    "conv2d", "conv2d-grouped", "conv2d-same", "conv-transposed", "linear", "linear-last-axis", "addmm", "mm",
    "batch-norm", "matmul-right", "matmul-left", "normalized-conv", "residual-convolution",
    "two-strided-convolutions", "twice", "slices", "permuted", "avg-pool", "minmax", "minmax-columns",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXACT))
def test_the_constant_of_one_operator_is_its_norm(name: str) -> None:
    found = program(name)
    exact = float(torch.linalg.matrix_norm(jacobian(found, torch.rand(SHAPE, dtype=torch.float64)), 2))
    assert exact <= l2.lipschitz_bound(found) <= 1.01 * exact


@pytest.mark.parametrize("name", OPERATIONS)
def test_float64_stays_within_the_rounding_error_of_exact_arithmetic(name: str) -> None:
    """Against another order of the batch and the sums: a computed value has two results, both near the true one."""
    found = program(name)
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    bound, steps = l2.network_bound(Steps(found)), Steps(found)
    region = box.follow(steps, box.Box.of(x, x))
    rough = found.module(torch.float32)(x.float()).double()
    scale = 2.0**29  # of the unit roundoffs
    away = (rough - found(x)).abs()
    assert (away <= (region.error + (region.upper - region.lower)) * scale).all()
    length = x.flatten(1).norm(dim=1)
    assert (away.reshape(3, -1).norm(dim=1) <= (bound.error * length + bound.error_offset) * scale).all()


def test_the_slopes_of_activations_are_just_above_the_truth() -> None:
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64, requires_grad=True)
    for function in (F.silu, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.hardswish, torch.sigmoid, torch.tanh):
        (slope,) = torch.autograd.grad(function(x).sum(), x)
        true = float(slope.abs().max())
        proven = l2.lipschitz_bound(capture(Function(function).eval(), (3,)))
        assert true * (1 - 1e-12) <= proven <= 1.0001 * true


def test_the_rounding_error_of_a_sum_covers_its_worst_case() -> None:
    model = Function(lambda x: x @ torch.ones(1000, 1, dtype=torch.float64))
    x = torch.full((1, 1000), 0.1, dtype=torch.float64)
    found = box.follow(Steps(capture(model.eval(), (1000,))), box.Box.of(x, x))
    exact = math.fsum(x.flatten().tolist())
    assert abs(float(model(x)) - exact) <= float(found.error)
    assert float(found.lower) <= exact <= float(found.upper)
    assert float(found.error) < 1e-9
