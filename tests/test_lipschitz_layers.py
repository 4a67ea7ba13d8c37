"""Lipschitz layers and the bounds on chains of them, against dense Jacobians and random pairs."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.bounds import l2, norms
from holdfast.bounds.affine import IDENTITY, Bound, plus
from holdfast.bounds.steps import Steps
from holdfast.nn.lipschitz import (
    LinearResidualBlock,
    MinMax,
    Residual,
    Shift,
    lipschitz_bound,
    materialise,
    orthogonal,
    orthogonal_residual,
    unit_rows,
)
from holdfast.nn.lipschitz.layers import CholeskyOrthogonal
from holdfast.program import capture

IMAGE = (4, 6, 6)

LAYERS = {
    "convolution": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 6, 4, 2, 1),
    "grouped": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "circular": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "block": lambda: LinearResidualBlock(4, 3),
    "neck": lambda: orthogonal(nn.Conv2d(4, 8, 2, 2)),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 10)),
    "orthogonal": lambda: nn.Sequential(nn.Flatten(), orthogonal(nn.Linear(144, 10))),
    "chord": lambda: nn.Sequential(nn.Flatten(), orthogonal_residual(144, 2)),
    "unit rows": lambda: nn.Sequential(nn.Flatten(), unit_rows(144, 5)),
    "MinMax": MinMax,
    "shift": lambda: Shift(-0.5),
    "leaky": lambda: nn.LeakyReLU(-2.0),
    "average": lambda: nn.AvgPool2d(3, 2, 1),
    "maximum": lambda: nn.MaxPool2d(3, 2),
    "batch norm": lambda: nn.BatchNorm2d(4),
    "space to depth": lambda: nn.PixelUnshuffle(2),
    "residual": lambda: Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())),
    "chain": lambda: nn.Sequential(nn.Conv2d(4, 6, 3), MinMax(), nn.Conv2d(6, 2, 3), nn.Flatten(), nn.Linear(8, 3)),
}


def trained(name: str) -> nn.Module:
    """The layer after some steps that stretch its outputs, in eval mode, loaded from its state."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    optimizer = torch.optim.SGD(list(layer.parameters()) or [nn.Parameter(torch.zeros(1))], lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        out = layer(torch.randn(8, *IMAGE))
        if out.requires_grad:
            (out.square().mean() * -1).backward()
        optimizer.step()
    fresh = LAYERS[name]()
    fresh.load_state_dict(layer.state_dict())
    return fresh.double().eval()


def jacobian_norm(layer: nn.Module, at: Tensor) -> float:
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x[None])[0], at)
    return float(torch.linalg.matrix_norm(jacobian.reshape(-1, at.numel()), 2).detach())  # pyright: ignore


@pytest.mark.parametrize("name", LAYERS)
class TestEveryLayer:
    def test_no_jacobian_is_larger_than_the_bound(self, name: str) -> None:
        layer = trained(name)
        bound = lipschitz_bound(layer, IMAGE)
        largest = max(jacobian_norm(layer, torch.randn(IMAGE, dtype=torch.float64)) for _ in range(5))
        assert largest <= bound
        assert bound <= 4 * largest, "the bound says nothing"

    def test_outputs_are_no_further_apart_than_the_bound_allows(self, name: str) -> None:
        layer = trained(name)
        torch.manual_seed(1)
        x, y = torch.randn(2, 50, *IMAGE, dtype=torch.float64)
        with torch.no_grad():
            apart = torch.linalg.vector_norm((layer(x) - layer(y)).flatten(1), dim=1)
        before = torch.linalg.vector_norm((x - y).flatten(1), dim=1)
        assert (apart <= lipschitz_bound(layer, IMAGE) * before * (1 + 1e-12)).all()

    def test_float64_is_as_near_to_the_truth_as_the_bound_says(self, name: str) -> None:
        """float32 against float64, with the error bound scaled by the ratio of their precisions."""
        layer = trained(name)
        bound = l2.network_bound(Steps(capture(layer, IMAGE)))
        x = torch.randn(20, *IMAGE)
        with torch.no_grad():
            wrong = copy.deepcopy(materialise(layer)).float()
            exact = copy.deepcopy(wrong).double()
            off = torch.linalg.vector_norm((wrong(x) - exact(x.double())).flatten(1), dim=1)
        length = torch.linalg.vector_norm(x.flatten(1), dim=1)
        assert (off <= 2.0**29 * (bound.error * length + bound.error_offset) * 1.01).all()

    def test_sizes_of_outputs_stay_within_norm_and_offset(self, name: str) -> None:
        layer = trained(name)
        bound = l2.network_bound(Steps(capture(layer, IMAGE)))
        x = torch.cat([torch.zeros(1, *IMAGE), torch.randn(20, *IMAGE)]).double()
        with torch.no_grad():
            size = torch.linalg.vector_norm(layer(x).flatten(1), dim=1)
        assert (size <= bound.norm * torch.linalg.vector_norm(x.flatten(1), dim=1) + bound.offset + 1e-12).all()

    def test_a_plain_copy_computes_the_same_and_leaves_the_original(self, name: str) -> None:
        layer = trained(name)
        plain = materialise(layer)
        assert not any("parametrizations" in key for key in plain.state_dict())
        x = torch.randn(3, *IMAGE, dtype=torch.float64)
        with torch.no_grad():
            assert torch.equal(plain(x), layer(x))
        assert lipschitz_bound(plain, IMAGE) == lipschitz_bound(layer, IMAGE)


def test_minmax_is_a_permutation_bit_for_bit() -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 8, 5, 5) * 10.0 ** torch.randint(-30, 30, (100, 8, 5, 5))
    y = MinMax().eval()(x)
    first, second = y.chunk(2, 1)
    assert (first >= second).all()
    assert torch.equal(x.flatten(1).sort().values, y.flatten(1).sort().values)
    with pytest.raises(ValueError, match="pairs of channels, got 3"):
        MinMax()(torch.randn(1, 3))


def test_minmax_in_training_mode_is_the_same_but_for_rounding_and_so_is_its_gradient() -> None:
    images, outputs, gradients = torch.randn(5, 8, 5, dtype=torch.float64), [], []
    for mode in (True, False):
        x = images.clone().requires_grad_()
        y = MinMax().train(mode)(x)
        (y * torch.arange(8).view(1, 8, 1)).sum().backward()
        outputs.append(y)
        gradients.append(x.grad)
    assert torch.allclose(*outputs, rtol=0, atol=1e-15)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", ["orthogonal", "chord", "neck", "MinMax", "space to depth"])
def test_layers_of_norm_1_do_not_raise_the_variance_of_a_batch(name: str) -> None:
    layer = trained(name)
    x = torch.randn(500, *IMAGE, dtype=torch.float64)
    with torch.no_grad():
        before, after = (t.flatten(1).var(0).sum() for t in (x, layer(x)))
    assert after <= before * (1 + 1e-9)


def test_a_block_is_one_convolution_and_a_shift() -> None:
    torch.manual_seed(0)
    block = LinearResidualBlock(4, 3)
    x = torch.randn(8, *IMAGE)
    kernel = torch.zeros(4, 4, 3, 3)
    kernel[range(4), range(4), 1, 1] = 1
    branch = nn.functional.conv2d(x, block.conv.weight - kernel, padding=1)
    mean = branch.mean((0, 2, 3), keepdim=True)
    assert torch.allclose(block(x), x + branch - mean + block.bias.view(-1, 1, 1), atol=1e-6)
    assert torch.allclose(block.mean, 0.1 * mean.flatten(), atol=1e-7)
    block.eval()
    expected = x + branch + (block.bias - block.mean).view(-1, 1, 1)
    assert torch.allclose(block(x), expected, atol=1e-6)


def test_the_residual_branch_starts_small_and_scales_with_depth() -> None:
    torch.manual_seed(0)
    norms = [float((LinearResidualBlock(16, depth).conv.weight.detach()).abs().sum()) - 16 for depth in (1, 4)]
    assert norms[0] / norms[1] == pytest.approx(2, rel=0.1)


def test_cholesky_rows_are_orthogonal_but_for_the_damping() -> None:
    torch.manual_seed(0)
    layer = orthogonal_residual(12, 2).double()
    with torch.no_grad():
        layer.parametrizations["weight"].original.normal_()  # pyright: ignore
        values = torch.linalg.svdvals(layer.weight)
    assert values.max() < 1
    learnt = layer.parametrizations["weight"]  # pyright: ignore
    rows = learnt[0](learnt.original).detach()  # pyright: ignore
    singular = torch.linalg.svdvals(rows)
    delta = 1e-3 * singular.square().mean()
    assert torch.allclose(values.sort().values, (singular / (singular.square() + delta).sqrt()).sort().values)


def test_more_orthogonal_rows_than_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="use at most 4 outputs"):
        orthogonal(nn.Linear(4, 5))


def test_constants_multiply_and_add_rounding_up() -> None:
    third = Bound.of_layer(1 / 3)
    assert third.after(third).norm > 1 / 9
    assert plus(IDENTITY, Bound(0.1)).norm >= 1.1
    chain = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(3)]).eval()
    for layer, weight in zip(chain, (0.1, 0.2, 0.3), strict=True):
        nn.init.constant_(layer.weight, weight)  # pyright: ignore
    assert 0.1 * 0.2 * 0.3 <= lipschitz_bound(chain, (1,)) <= 0.006 * (1 + 1e-6)


def test_rescaled_layers_keep_the_bound_of_the_chain() -> None:
    chain = trained("chain")
    before = lipschitz_bound(chain, IMAGE)
    with torch.no_grad():
        chain[0].weight.mul_(2.0**-60)  # pyright: ignore
        chain[2].weight.mul_(2.0**60)  # pyright: ignore
    assert lipschitz_bound(chain, IMAGE) == before


class Fivefold(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 5 * x


class Changed(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return 5 * super().forward(input)


def test_code_of_ones_own_is_bounded_as_it_runs() -> None:
    assert lipschitz_bound(nn.Sequential(Fivefold(), Fivefold()).eval(), (3,)) == pytest.approx(25, rel=1e-9)
    assert lipschitz_bound(Changed().eval(), (3,)) == pytest.approx(5, rel=1e-9)
    hooked = nn.Sequential(nn.Flatten(), Fivefold()).eval()
    hooked[1].register_forward_hook(lambda module, inputs, output: output.mul(2))
    assert lipschitz_bound(hooked, (3,)) == pytest.approx(10, rel=1e-9)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Sequential(nn.LayerNorm(144))),
            r"no proof for aten.layer_norm.default in 1\.0",
        ),
        (Residual(nn.GroupNorm(1, 4)), "no proof for aten.*group_norm.* in body"),
        (nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), "avg_pool2d.* in 0.*count_include_pad=False"),
        (nn.BatchNorm2d(4, track_running_stats=False), "running statistics"),
    ],
)
def test_what_has_no_proof_is_refused_by_name(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lipschitz_bound(module.eval(), IMAGE)


def test_training_mode_and_overflow_are_refused_by_name() -> None:
    chain = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    for refused in (lambda: lipschitz_bound(chain, IMAGE), lambda: materialise(chain)):
        with pytest.raises(ValueError, match="training mode"):
            refused()
    nn.init.constant_(chain.eval()[0].weight, math.inf)  # pyright: ignore
    with pytest.raises(ValueError, match="a weight is inf or NaN"):
        lipschitz_bound(chain, IMAGE)


def test_a_bound_belongs_to_the_weights_as_they_are_now() -> None:
    layer = nn.Linear(3, 3).eval()
    before = lipschitz_bound(layer, (3,))
    with torch.no_grad():
        layer.weight.mul_(2)
    assert lipschitz_bound(layer, (3,)) == 2 * before


def test_a_norm_that_took_long_is_kept_on_disk_for_the_same_numbers_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(norms, "LONG", -1.0)
    calls: list[Tensor] = []

    def counted(weight: Tensor) -> float:
        calls.append(weight)
        return norms.matrix_norm(weight)

    def asked(weight: Tensor) -> float:
        monkeypatch.setattr(norms, "_KNOWN", {})  # as another process would
        return norms.remembered(counted, weight)

    weight = torch.eye(3) + torch.arange(9.0).view(3, 3)
    assert asked(weight) == asked(weight.clone()) == norms.matrix_norm(weight)
    assert len(calls) == 1
    assert asked(weight + 1e-6) != norms.matrix_norm(weight)
    assert len(calls) == 2
    for count, damage in enumerate(("", "{}", '{"norm": "-inf"}', '{"norm": 1}', "[]"), 3):
        for path in (tmp_path / "holdfast" / "norms").iterdir():
            path.write_text(damage)
        assert asked(weight) == norms.matrix_norm(weight)
        assert len(calls) == count
    monkeypatch.setattr(norms, "_code", lambda: "another version")
    asked(weight)
    assert len(calls) == 8


def test_orthogonal_weights_are_the_same_bits_inside_of_autocast() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = CholeskyOrthogonal()(weight)
    assert torch.equal(inside, CholeskyOrthogonal()(weight))
