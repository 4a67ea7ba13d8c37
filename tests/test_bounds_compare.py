"""Nothing proven on the graph is looser than what walks over modules prove, for random weights."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.bounds import box, l2, linf
from holdfast.bounds.local import local_bound
from holdfast.bounds.steps import Steps
from holdfast.core.recipe import DataInfo
from holdfast.nn.linf import DistanceHead, LInfDistConv2d, LInfDistLinear, LInfDistNet, TanhHead
from holdfast.nn.lipschitz import lipschitz_bound, materialise
from holdfast.nn.lipschitz.local import local_bound as local_bound_of_modules
from holdfast.nn.split import SplitClassifier
from holdfast.nn.zoo import build
from holdfast.nn.zoo.resnet import basic_block
from holdfast.program import capture
from holdfast.program.cut import cut

MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))
CIFAR = DataInfo("cifar10", (3, 32, 32), 10, (0.49, 0.48, 0.45), (0.2, 0.2, 0.2))
OFF = ~torch.eye(10, dtype=torch.bool)


def built(arch: str, data: DataInfo) -> nn.Module:
    torch.manual_seed(0)
    return build(arch, data).eval()


def images(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("arch", "data"),
    [
        ("gloro-2c2f", MNIST),
        ("gloro-mlp-8x128", MNIST),
        pytest.param("liresnet-2x32", CIFAR, marks=pytest.mark.slow),
        pytest.param("liresnet-small", CIFAR, marks=pytest.mark.slow),
    ],
)
def test_l2_constants_and_errors_are_no_larger(arch: str, data: DataInfo) -> None:
    plain = materialise(built(arch, data))
    program = capture(built(arch, data), data.shape)
    constants = l2.difference_constants(program)
    assert (constants[OFF] <= plain.difference_constants()[OFF] * (1 + 1e-9)).all()  # pyright: ignore
    errors = l2.difference_errors(program)
    assert (errors[OFF] <= 1.5 * plain.difference_errors()[OFF]).all()  # pyright: ignore


@pytest.mark.parametrize(("arch", "data"), [("cnn@conv2", MNIST), ("lenet@conv1", MNIST)])
def test_local_bounds_of_left_halves_are_no_larger(arch: str, data: DataInfo) -> None:
    model = built(arch, data)
    assert isinstance(model, SplitClassifier)
    left, x = materialise(model.left), images(2, data.shape)
    steps = Steps(capture(model.left, data.shape))
    assert l2.network_bound(steps).norm <= lipschitz_bound(left, data.shape) * (1 + 1e-9)
    for gamma in (0.1, 1.0):
        old, new = local_bound_of_modules(left, x, gamma), local_bound(steps, x, gamma)
        assert (new.reach <= old.reach * (1 + 1e-9)).all()
        assert (new.constant <= old.constant * (1 + 1e-9)).all()


def test_a_cut_behind_the_first_block_of_a_residual_network_has_local_and_global_bounds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), basic_block(4, 4, 1),
                          basic_block(4, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))  # fmt: skip
    program = capture(model.eval(), (1, 8, 8))
    left, right = cut(program, "3")
    steps, x = Steps(left), images(2, (1, 8, 8))
    region = local_bound(steps, x, 0.05)
    everywhere = l2.network_bound(steps).norm
    assert (region.constant < 0.9 * everywhere).all(), "units that stay dead make it smaller"
    assert right.classes == 3


LINF: dict[str, Callable[[], LInfDistNet]] = {
    "distances": lambda: built("linf-dist-128x2", MNIST),  # pyright: ignore
    "perceptron": lambda: LInfDistNet(
        nn.Sequential(LInfDistLinear(784, 32), LInfDistLinear(32, 24)), TanhHead(24, 16, 10), (0.1307,), 0.3081
    ),
    "convolutions": lambda: LInfDistNet(
        nn.Sequential(LInfDistConv2d(1, 3, 5, 4, 2), LInfDistLinear(147, 24)), DistanceHead(24, 10), (0.1307,), 0.3081
    ),
}


def linf_network(name: str) -> LInfDistNet:
    torch.manual_seed(0)
    return LINF[name]().eval()


@pytest.mark.parametrize("name", LINF)
def test_linf_constants_boxes_and_errors_are_no_looser(name: str) -> None:
    plain = materialise(linf_network(name))
    program = capture(linf_network(name), MNIST.shape)
    assert (linf.difference_constants(program)[OFF] <= plain.difference_constants()[OFF] * (1 + 1e-9)).all()
    errors = linf.difference_errors(program)
    assert (errors <= 2 * plain.difference_errors() + 1e-12).all()
    x = images(5, MNIST.shape)
    label = plain(x).argmax(1)
    for epsilon in (0.01, 0.1):
        lower, upper = (x - epsilon).clamp(0, 1), (x + epsilon).clamp(0, 1)
        new = box.lower_margins(Steps(program), lower, upper, label)
        old = plain.lower_margins(lower, upper, label) - plain.difference_errors()[label]
        assert (new >= (old - 1e-9 * old.abs() - 1e-10).scatter(1, label[:, None], -math.inf)).all()
