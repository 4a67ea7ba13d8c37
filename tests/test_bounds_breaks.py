"""Ways in which a certificate was made false: each is in the captured graph, so that its bound is the true one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.bounds import box, l2, linf
from holdfast.bounds.steps import Steps
from holdfast.nn.lipschitz import LinearResidualBlock, LipschitzNet, MinMax, Residual
from holdfast.nn.normalize import Normalize
from holdfast.program import capture


def scaled(factor: float, size: int = 4) -> nn.Linear:
    layer = nn.Linear(size, size, bias=False)
    layer.weight.data = factor * torch.eye(size)
    return layer


def hooked() -> nn.Module:
    layer = scaled(3)
    layer.register_forward_hook(lambda module, inputs, output: output.mul(7))
    return nn.Sequential(layer)


def hooked_before() -> nn.Module:
    layer = scaled(3)
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 7,))
    return nn.Sequential(nn.Sequential(layer))


def own_forward() -> nn.Module:
    layer = scaled(3)
    layer.forward = lambda x: 7 * F.linear(x, layer.weight)  # pyright: ignore
    return nn.Sequential(layer)


class Temperature(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return 20 * super().forward(input)


class ThroughAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = scaled(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y.view(-1).mul_(1000)
        y[:, 1:3].add_(1)
        y[:, 0] *= 2
        return y


class Closure(nn.Module):
    """Its factor is no attribute."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.function = lambda x: x * factor

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


shared = scaled(10)

TRUE: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "one-layer-three-times": (lambda: nn.Sequential(shared, shared, shared), 1000.0),
    "one-weight-under-two-names": (lambda: _tied(), 100.0),
    "hook": (hooked, 21.0),
    "pre-hook": (hooked_before, 21.0),
    "own-forward": (own_forward, 21.0),
    "overridden-forward": (lambda: Temperature(scaled(3)), 60.0),
    "in-place-in-a-residual": (lambda: _residual(), 6.0),
    "in-place-through-a-view": (ThroughAView, 2000.0),
    "closure": (lambda: Closure(torch.tensor([1.0, -30.0, 2.0, 3.0])), 30.0),
    "batch-norm": (lambda: _batch_norm(), 50.0),
}


def _residual() -> nn.Module:
    return nn.Sequential(scaled(1), Residual(nn.LeakyReLU(3, inplace=True)))


def _tied() -> nn.Module:
    model = nn.Sequential(scaled(10), nn.ReLU(), scaled(1))
    model[2].weight = model[0].weight  # pyright: ignore
    return model


def _batch_norm() -> nn.Module:
    norm = nn.BatchNorm1d(4)
    norm.running_var = torch.full((4,), 1 / 2500 - norm.eps)
    return norm


@pytest.mark.parametrize("name", TRUE)
def test_the_bound_is_the_true_constant(name: str) -> None:
    make, true = TRUE[name]
    found = l2.lipschitz_bound(capture(make().eval(), (4,)))
    assert true * (1 - 1e-6) <= found
    if name != "in-place-through-a-view":  # a concatenation of parts of one value counts them one by one
        assert found <= true * (1 + 1e-5)


def test_the_residual_that_reads_what_its_body_changed_is_bounded_as_it_runs() -> None:
    """x + 3x where x < 0 changes x first: 3x + 3x."""
    program = capture(_residual().eval(), (4,))
    x = torch.full((1, 4), -1.0)
    assert torch.equal(program(x), torch.full((1, 4), -6.0))
    assert l2.lipschitz_bound(program) >= 6


def test_a_hook_for_all_modules_is_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: 10 * output)
    try:
        with pytest.raises(ValueError, match="a hook for all modules is registered"):
            capture(nn.Sequential(scaled(3)).eval(), (4,))
    finally:
        handle.remove()


@pytest.mark.parametrize("part", ["block.conv", "body", "head", ""])
def test_hooks_anywhere_in_a_lipschitz_network_count(part: str) -> None:
    def network() -> LipschitzNet:
        torch.manual_seed(0)
        body = nn.Sequential(LinearResidualBlock(2, 1), MinMax(), nn.Flatten())
        return LipschitzNet(body, nn.Linear(32, 3), (2, 4, 4)).eval()

    plain = l2.difference_constants(capture(network(), (2, 4, 4)))
    model = network()
    found: Any = model.body[0].conv if part == "block.conv" else model.get_submodule(part)  # pyright: ignore
    found.register_forward_hook(lambda module, inputs, output: 5 * output)
    assert l2.difference_constants(capture(model, (2, 4, 4)))[0, 1] == pytest.approx(float(5 * plain[0, 1]), rel=1e-6)


def test_a_linear_layer_on_images_acts_on_their_last_axis() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False)).eval()
    model[0].weight.data = torch.diag(torch.tensor([1.0, 2.0, 3.0, 9.0]))  # pyright: ignore
    steps = Steps(capture(model, (4, 4, 4)))
    assert l2.network_bound(steps).norm == pytest.approx(9, rel=1e-9)
    found = box.follow(steps, box.Box.of(torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4, 4)))
    assert torch.allclose(found.upper[0, 0, 0], torch.tensor([1.0, 2.0, 3.0, 9.0]).double())


def test_a_normalization_with_a_negative_std_has_its_true_constant_and_one_with_nan_none() -> None:
    model = nn.Sequential(Normalize((0.5,), (0.5,)), nn.Flatten(), nn.Linear(4, 2)).eval()
    plain = l2.difference_constants(capture(model, (1, 2, 2)))[0, 1]
    model[0].std.fill_(-0.02)  # pyright: ignore
    assert l2.difference_constants(capture(model, (1, 2, 2)))[0, 1] == pytest.approx(float(25 * plain), rel=1e-5)
    assert linf.difference_constants(capture(model, (1, 2, 2)))[0, 1] > 0
    model[0].std.fill_(torch.nan)  # pyright: ignore
    with pytest.raises(ValueError, match="inf or NaN"):
        l2.difference_constants(capture(model, (1, 2, 2)))
    lower, upper = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match="inf or NaN"):
        box.lower_margins(Steps(capture(model, (1, 2, 2))), lower, upper, torch.tensor([0]))


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.softmax(1)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.half() * 3).float()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.LayerNorm(4), "aten.layer_norm.default"),
        (Mixed(), r"aten.mul.Tensor .*test_bounds_breaks.py:\d+: return x \* x.softmax\(1\)"),
        (Half(), "float16"),
        (nn.Sequential(nn.GLU()), "aten.*(glu|sigmoid|mul)"),
    ],
)
def test_what_has_no_rule_is_refused_by_operation_and_line(model: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        l2.lipschitz_bound(capture(model.eval(), (4,)))


@pytest.mark.parametrize("classes", [4, 3])
@pytest.mark.parametrize("of", ["weight_norm", "spectral_norm", "orthogonal"])
def test_weights_that_torch_parametrizes_are_bounded_as_they_run(of: str, classes: int) -> None:
    torch.manual_seed(0)
    layer = getattr(nn.utils.parametrizations, of)(nn.Linear(4, classes)).eval()
    program, x, expected = capture(layer, (4,)), torch.rand(2, 4), layer.weight.detach()
    assert torch.allclose(program(x), layer(x), atol=1e-6)
    assert l2.lipschitz_bound(program) == pytest.approx(float(torch.linalg.matrix_norm(expected, 2)), rel=1e-5)
