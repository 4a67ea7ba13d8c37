"""Layers that run faster in a training compute what PyTorch's own do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.recipe import DataInfo
from holdfast.nn import zoo
from holdfast.ops import conv_cpu
from holdfast.training.network import quick

TYPES = [torch.float32, torch.bfloat16]


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Round numbers, among which ties and both zeros are many."""
    x = (2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).round()
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def by_image(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values, and a gradient in which no two numbers are alike."""
    x = x.clone().requires_grad_()
    y = layer(x)
    gradient = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y.detach(), torch.autograd.grad(y, x, gradient)[0]


def bits(x: Tensor) -> Tensor:
    return x.view({torch.float32: torch.int32, torch.bfloat16: torch.int16}[x.dtype])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    assert torch.get_num_threads() <= conv_cpu.THREADS


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(5, 3, 8, 6), (4, 1, 2, 2), (3, 20, 7, 9), (1, 33, 24, 24)])
def test_a_pool_and_its_gradient_are_the_bits_of_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pool, x = nn.MaxPool2d(2), images(*shape, dtype=dtype)
    y, gradient = by_image(lambda x: conv_cpu.max_pool(pool, x), x)
    expected, wanted = by_image(pool, x)
    assert torch.equal(bits(y), bits(expected))
    assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("odd", [float("nan"), float("-nan"), float("inf"), float("-inf"), -0.0, 1e-39])
def test_a_pool_finds_numbers_that_are_none_and_infinite_ones(odd: float, dtype: torch.dtype) -> None:
    pool = nn.MaxPool2d(2)
    for place in range(4):
        window = torch.tensor([-1.0, -0.0, 0.0, -2.0])
        window[place] = odd
        for value in (window, -window, torch.full((4,), -torch.inf).index_fill(0, torch.tensor(place), odd)):
            x = value.to(dtype).view(1, 1, 2, 2).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(conv_cpu.max_pool(pool, x), pool(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, ceil_mode=True)]
)
def test_another_pool_is_that_of_pytorch(pool: nn.MaxPool2d) -> None:
    x = images(2, 3, 7, 7)
    for got, expected in zip(by_image(lambda x: conv_cpu.max_pool(pool, x), x), by_image(pool, x), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("size", [(70, 1, 9, 11), (2, 1, 5, 3)])
def test_the_gradient_of_a_first_convolution_is_that_of_pytorch(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(1, 6, (5, 3)), images(*size)
    found, expected = by_image(lambda x: conv_cpu.conv2d(conv, x), x), by_image(conv, x)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)
    assert found[1].dtype == torch.float32


def test_under_autocast_the_gradient_by_the_image_is_nearer_and_that_by_the_weights_the_same() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(1, 20, 5), images(8, 1, 12, 12).requires_grad_()

    def gradients(call: Callable[[Tensor], Tensor], on: bool) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            loss = call(x).float().sin().sum()
        return torch.autograd.grad(loss, [x, *conv.parameters()])

    exact, theirs = gradients(conv, False), gradients(conv, True)
    own = gradients(lambda x: conv_cpu.conv2d(conv, x), True)
    assert [value.dtype for value in own] == [torch.float32] * 3
    for got, expected in zip(own[1:], theirs[1:], strict=True):
        assert torch.equal(got, expected)
    assert (own[0] - exact[0]).norm() < 0.9 * (theirs[0] - exact[0]).norm()


def test_a_lenet_in_training_runs_them() -> None:
    model = zoo.build("lenet", DataInfo("mnist", (1, 28, 28), 10, (0.1,), (0.3,)))
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x, made = images(2, 1, 28, 28).requires_grad_(), []
    with quick(model), torch.autocast("cpu", torch.bfloat16):
        for layer in model.children():
            x = layer(x)
            made.append(type(x.grad_fn).__name__)
    assert made[0] == "_ConvBackward"
    assert made.count("_MaxPoolBackward") == 2


@pytest.mark.parametrize("dtype", TYPES)
def test_a_network_in_training_has_the_values_and_gradients_of_a_plain_one(dtype: torch.dtype) -> None:
    """ReLU and pool in the other order, too; also with windows that overlap."""
    torch.manual_seed(0)
    pools = nn.MaxPool2d(2), nn.MaxPool2d(3, stride=1, padding=1)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), pools[0], nn.Conv2d(6, 4, 3), nn.ReLU(), pools[1])
    model.to(dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = images(16, 2, 14, 14, dtype=dtype).requires_grad_()
    next(model.parameters()).data.mul_(8).round_().div_(8)

    def found() -> list[Tensor]:
        out = model(x)
        return [out.detach(), *torch.autograd.grad(out.sin().sum(), [x, *model.parameters()])]

    expected, order = found(), list(model)
    with quick(model):
        assert model.state_dict().keys() == {"0.weight", "0.bias", "3.weight", "3.bias"}
        for got, want in zip(found(), expected, strict=True):
            assert torch.equal(got, want)
    assert list(model) == order
    assert not any("forward" in vars(layer) for layer in model)


def test_a_layer_that_is_watched_stays_as_it_is() -> None:
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    seen = []
    model[1].register_forward_hook(lambda layer, given, out: seen.append(given[0]))
    with quick(model):
        model(-torch.ones(1, 1, 2, 2))
        assert "forward" not in vars(model[1])
    assert bool((seen[0] == 0).all())


def test_a_relu_runs_on_what_the_pool_left_and_is_where_it_was_for_who_takes_it_alone() -> None:
    model, sizes = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), []
    x = -torch.ones(1, 1, 4, 4)
    with quick(model):
        model[0].register_forward_hook(lambda layer, given, out: sizes.append(given[0].numel()))
        model(x)
        assert torch.equal(model[:1](x), torch.zeros_like(x))
        assert torch.equal(model[0](x), torch.zeros_like(x))
    assert sizes == [4, 16, 16]
