"""The l-inf-distance operation against a float64 broadcast, every backend, values and gradients."""

import importlib.util
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from holdfast.ops import distance as module
from holdfast.ops.distance import dist

SHAPES = [(37, 50, 41), (1, 3, 10), (5, 784, 130), (3, 1100, 70), (66, 65, 64)]
"""(batch, inputs, outputs): no multiples of anything, one row, ten classes, inputs beyond one block, a tile."""
EXPONENTS = [2.0, 8.0, 32.0, 1000.0, math.inf]


def _example(batch: int, inputs: int, outputs: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + inputs + outputs)
    x = torch.randn(batch, inputs, generator=generator) * scale
    return x.requires_grad_(), (torch.randn(outputs, inputs, generator=generator) * scale).requires_grad_()


def _broadcast(x: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values and the gradients of a weighted sum, by autograd in float64 over the (batch, outputs, inputs) tensor."""
    x, w = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    distance = x[:, None] - w
    scale = distance.detach().abs().amax(-1)  # the norm is homogeneous: this changes only the range of the powers
    y = scale * torch.linalg.vector_norm(distance / scale[..., None], ord=p, dim=-1)
    y.backward(_weights(y))
    assert x.grad is not None
    assert w.grad is not None
    return y.detach(), x.grad, w.grad


def _weights(y: Tensor) -> Tensor:
    return torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("backend", ["eager", "numba"])
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_broadcast(
    shape: tuple[int, int, int], p: float, backend: module.Backend
) -> None:
    x, w = _example(*shape)
    y = dist(x, w, p, backend)
    y.backward(_weights(y))
    values, grad_x, grad_w = _broadcast(x, w, p)
    assert x.grad is not None
    assert w.grad is not None
    assert ((y - values) / values).abs().max() < 2e-6
    assert _relative(x.grad, grad_x) < 3e-7 * max(10, min(p, 1000))
    assert _relative(w.grad, grad_w) < 3e-7 * max(10, min(p, 1000))


@pytest.mark.parametrize("backend", ["eager", "numba"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("p", EXPONENTS)
def test_the_distance_scales_with_its_arguments(p: float, scale: float, backend: module.Backend) -> None:
    x, w = _example(9, 70, 11)
    small = dist(x, w, p, backend)
    large = dist(x * scale, w * scale, p, backend)
    assert torch.allclose(large, small * scale, rtol=3e-6)
    gradients = torch.autograd.grad(large.sum(), (x, w))
    for found, expected in zip(gradients, torch.autograd.grad(small.sum() * scale, (x, w)), strict=True):
        assert _relative(found, expected) < 3e-7 * max(10, min(p, 1000))


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_gradients_agree_with_finite_differences_at_p_8(backend: module.Backend) -> None:
    x, w = (value.detach().double().requires_grad_() for value in _example(3, 7, 5))
    assert torch.autograd.gradcheck(lambda a, b: dist(a, b, 8, backend), (x, w))


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_p_1000_is_near_the_maximum(backend: module.Backend) -> None:
    x, w = _example(20, 100, 30)
    high, largest = dist(x, w, 1000, backend), dist(x, w, math.inf, backend)
    assert (high >= largest * (1 - 1e-6)).all()
    assert (high <= largest * 100 ** (1 / 1000) * (1 + 1e-6)).all()


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_a_tie_sends_the_gradient_to_the_first_coordinate_alone(backend: module.Backend) -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]], requires_grad=True)
    w = torch.tensor([[0.5, -1.0, 1.0], [2.0, 2.0, 2.0]], requires_grad=True)
    dist(x, w, math.inf, backend).backward(torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
    assert x.grad is not None
    assert w.grad is not None
    assert x.grad.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert w.grad.tolist() == [[0, -1, 0], [0, 0, 0]]


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_at_p_inf_a_gradient_is_no_longer_than_what_came_in(backend: module.Backend) -> None:
    x, w = (torch.round(value.detach() * 2).requires_grad_() for value in _example(16, 40, 25))  # nearly all tied
    y = dist(x, w, math.inf, backend)
    grad = _weights(y)
    y.backward(grad)
    assert x.grad is not None
    assert (x.grad.abs().sum(1) <= grad.abs().sum(1) * (1 + 1e-6)).all()


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_a_row_with_nan_gives_nan(backend: module.Backend) -> None:
    x, w = (value.detach() for value in _example(4, 30, 3))
    x[2, 7] = math.nan
    assert dist(x, w, math.inf, backend).isnan().all(dim=1).tolist() == [False, False, True, False]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch 2.15's own check asks for it
@pytest.mark.parametrize("p", [8.0, math.inf])
def test_the_operation_satisfies_the_contract_of_torch_library(p: float) -> None:
    torch.library.opcheck(module._dist, (*_example(4, 6, 5), p, "auto"))


@pytest.mark.parametrize("p", [8.0, 3.5, math.inf])
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(p: float) -> None:
    x, w = torch.empty(0, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    y = dist(x, w, p)
    assert y.shape == (0, 3)
    y.sum().backward()
    assert w.grad is not None
    assert not w.grad.any()


@pytest.mark.parametrize(
    ("x", "w", "p", "message"),
    [
        (torch.ones(2, 3), torch.ones(4, 3), 0.5, "p >= 1, got 0.5"),
        (torch.ones(2, 3), torch.ones(4, 3), math.nan, "p >= 1, got nan"),
        (torch.ones(2, 3), torch.ones(4, 5), 8, r"got \(2, 3\) and \(4, 5\)"),
        (torch.ones(3), torch.ones(4, 3), 8, r"got \(3,\) and \(4, 3\)"),
        (torch.ones(2, 0), torch.ones(4, 0), 8, r"got \(2, 0\) and \(4, 0\)"),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(4, 3, dtype=torch.int64), 8, "floating-point"),
        (torch.ones(2, 3), torch.ones(4, 3).double(), 8, "float32 and torch.float64"),
    ],
)
def test_bad_input_is_named(x: Tensor, w: Tensor, p: float, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        dist(x, w, p)


def test_a_device_without_kernels_computes_slowly_and_says_so_once() -> None:
    module._warn_slow.cache_clear()
    x = torch.ones(2, 3, device="meta")
    with pytest.warns(UserWarning, match="no fast l-inf distance on meta"):
        assert module._kernels("auto", x, 8).__name__.endswith("eager")
    assert module._kernels("auto", x, 8).__name__.endswith("eager")  # a second warning would be an error


def test_exponents_without_products_take_the_reference_kernels() -> None:
    x, w = _example(3, 5, 4)
    assert torch.equal(dist(x, w, 2.5), dist(x, w, 2.5, "eager"))


NARROWER = """
import math, torch
from holdfast.ops.distance import _dist_backward, dist
from holdfast.ops.tiles import BYTES
for dtype in (torch.float32, torch.float64):
    x, w = (torch.randn(rows, 70, generator=torch.Generator().manual_seed(rows)).to(dtype) for rows in (9, 67))
    assert torch.equal(dist(x, w), dist(x, w, math.inf, "eager"))
    assert torch.allclose(dist(x, w, 8), dist(x, w, 8, "eager"), rtol=2e-6)
    y, grad = dist(x, w, 8), torch.ones(9, 67, dtype=dtype)
    for one, other in zip(*(_dist_backward(grad, x, w, y, 8.0, name) for name in ("numba", "eager")), strict=True):
        assert (one - other).abs().max() < 3e-6 * other.abs().max()
print(BYTES)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of the x86 family")
@pytest.mark.parametrize(("name", "features", "size"), [("haswell", "+avx,+avx2,+fma", 32), ("x86-64", "+sse2", 16)])
def test_processors_with_narrower_vectors_compute_the_same(name: str, features: str, size: int, tmp_path: Path) -> None:
    processor = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", NARROWER]
    found = subprocess.run(command, env=os.environ | processor, check=True, capture_output=True, text=True)
    assert int(found.stdout) == size


def test_the_largest_difference_has_the_bits_of_plain_arithmetic() -> None:
    """What the proofs rest on: the kernel subtracts by a fused product, which must round as a subtraction does."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        scale = 10.0 ** torch.randint(-6, 7, (40, 200), generator=generator)
        x = (torch.randn(40, 200, generator=generator) * scale).to(dtype)
        w = (torch.randn(90, 200, generator=generator) * 3).to(dtype)
        assert torch.equal(dist(x, w), (x[:, None] - w).abs().amax(-1))
        assert torch.equal(dist(x, w), torch.cat([dist(one, w) for one in x.split(7)]))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton comes with the CUDA build of torch")
def test_the_gpu_kernels_agree_with_the_reference_in_tritons_interpreter() -> None:
    script = Path(__file__).with_name("linf_triton_check.py")
    subprocess.run([sys.executable, str(script)], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True)
