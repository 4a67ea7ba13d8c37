"""Nothing proven on the graph is looser than what walks over modules proved, for random weights."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.bounds import box, l2, linf
from holdfast.bounds.convolution import PRECISION
from holdfast.bounds.local import local_bound
from holdfast.bounds.steps import Steps
from holdfast.core.recipe import DataInfo
from holdfast.nn.linf import DistanceHead, LInfDistConv2d, LInfDistLinear, LInfDistNet, TanhHead
from holdfast.nn.lipschitz import lipschitz_bound, materialise
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
    ("arch", "data", "constant"),
    [
        ("gloro-relu-2c2f", MNIST, 3.86914210),
        ("gloro-mlp-8x128", MNIST, 353.286797),
        ("lenet", MNIST, 2.97093207),
        pytest.param("liresnet-2x32", CIFAR, 3.82942083, marks=pytest.mark.slow),
        pytest.param("liresnet-small", CIFAR, 3.92188144, marks=pytest.mark.slow),
    ],
)
def test_l2_constants_are_those_that_a_walk_over_layers_proved(arch: str, data: DataInfo, constant: float) -> None:
    """Their digits are of version 1 of the proofs, which went layer by layer."""
    assert lipschitz_bound(built(arch, data), data.shape) == pytest.approx(constant, rel=3e-6)


@pytest.mark.parametrize(
    ("arch", "reaches"), [("lenet@conv1", (0.0909697409, 0.933039234)), ("cnn@conv2", (0.0446550849, 0.574441465))]
)
def test_local_bounds_of_left_halves_are_those_that_a_walk_over_layers_proved(
    arch: str, reaches: tuple[float, float]
) -> None:
    model = built(arch, MNIST)
    assert isinstance(model, SplitClassifier)
    steps = Steps(capture(model.left, MNIST.shape))
    for gamma, reach in zip((0.1, 1.0), reaches, strict=True):
        found = local_bound(steps, images(2, MNIST.shape), gamma).reach
        assert float(found.max()) == pytest.approx(reach, rel=2 * PRECISION)


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
