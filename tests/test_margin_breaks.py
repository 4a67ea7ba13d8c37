"""Ways in which a certificate of `margin` was made false, from end to end: a true radius, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import Certificate, LInfBox, Margin, certify
from holdfast.attacks import inside
from holdfast.core.threat import THREATS
from holdfast.nn.lipschitz import LinearResidualBlock, LipschitzNet, MinMax, Residual
from holdfast.nn.normalize import Normalize

SHAPE = (1, 3, 3)


def images(count: int = 12) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def wide(factor: float = 3.0) -> nn.Linear:
    layer = nn.Linear(9, 9, bias=False)
    layer.weight.data = factor * torch.eye(9) + torch.randn(9, 9) / 10
    return layer


def behind(*layers: nn.Module) -> nn.Sequential:
    """Two classes, with some layers on nine features in front."""
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(9, 2))


def shared() -> nn.Module:
    layer, relu = wide(), nn.ReLU()
    return behind(layer, relu, layer, relu, layer)


def hooked() -> nn.Module:
    layer = wide()
    layer.register_forward_hook(lambda module, inputs, output: output.mul(7))
    return behind(layer)


def hooked_before() -> nn.Module:
    model = behind(wide())
    model.register_forward_pre_hook(lambda module, inputs: (7 * inputs[0],))
    return model


def own_forward() -> nn.Module:
    layer = wide()
    layer.forward = lambda x: 7 * F.linear(x, layer.weight)  # pyright: ignore
    return behind(layer)


class Temperature(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 20 * super().forward(input)


class OwnNet(LipschitzNet):
    """A constant of the class that it is made from holds for its `super()` only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(20 * x)


def lipschitz_net(kind: type[LipschitzNet] = LipschitzNet) -> LipschitzNet:
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), LinearResidualBlock(4, 1), MinMax(), nn.Flatten())
    return kind(body, nn.Linear(36, 2), SHAPE)


def hooked_net() -> nn.Module:
    model: Any = lipschitz_net()
    model.body[1].conv.register_forward_hook(lambda module, inputs, output: 9 * output)
    return model


class ThroughAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.mul(1)
        y.view(-1).mul_(100)
        y[:, 2:5].add_(x[:, :3])
        return y


class Counting(nn.Module):
    """It answers otherwise when it is called again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = behind(), 1

    def forward(self, x: Tensor) -> Tensor:
        self.calls *= 3
        return self.calls * self.layer(x)


def other_std(value: float) -> nn.Module:
    model = nn.Sequential(Normalize((0.5,), (0.5,)), behind(wide(), nn.ReLU()))
    model[0].std.fill_(value)  # pyright: ignore
    return model


def on_images() -> nn.Module:
    """A linear layer acts on the last axis of an image, not on its channels."""
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Flatten(), nn.Linear(9, 2))


TRUE: dict[str, Callable[[], nn.Module]] = {
    "shared-layer": shared,
    "hook": hooked,
    "pre-hook": hooked_before,
    "own-forward": own_forward,
    "overridden-forward": lambda: nn.Sequential(nn.Flatten(), Temperature(9, 2)),
    "subclass": lambda: lipschitz_net(OwnNet),
    "hook-in-a-block": hooked_net,
    "in-place-residual": lambda: behind(wide(1), Residual(nn.LeakyReLU(3, inplace=True))),
    "view": lambda: behind(ThroughAView()),
    "small-std": lambda: other_std(0.02),
    "negative-std": lambda: other_std(-0.02),
    "linear-on-images": on_images,
    "batch-norm": lambda: behind(wide(), nn.BatchNorm1d(9), nn.GELU()),
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "counts-its-calls": (Counting, "from call to call|when it is called again"),
    "nan-std": (lambda: other_std(float("nan")), "inf or NaN"),
    "batch-statistics": (lambda: behind(nn.BatchNorm1d(9, track_running_stats=False)), "running statistics"),
}


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def attacked(model: nn.Module, found: list[Certificate], factor: float, cube: bool = False) -> float:
    """The share of certified images whose class an attack changes within that multiple of their radius.

    cube: only to images in [0, 1], for certificates that are about those.
    """
    kept = [row for row, certificate in enumerate(found) if certificate.radius > 0]
    assert len(kept) >= len(found) // 2
    label = torch.tensor([found[row].prediction for row in kept])
    radii = torch.tensor([found[row].radius for row in kept], dtype=torch.float64) * factor
    x, network = images(len(found))[kept].double(), model.double()
    ends = (0.0, 1.0) if cube else (-math.inf, math.inf)
    adversaries = inside(lambda some: network(some.clamp(*ends)), x, label, THREATS[found[0].norm], radii)
    with torch.no_grad():
        return float((network(adversaries.clamp(*ends)).argmax(1) != label).double().mean())


@pytest.mark.parametrize("certifier", [Margin("l2"), Margin("linf"), LInfBox(8)], ids=["l2", "linf", "box"])
@pytest.mark.parametrize("name", TRUE)
def test_an_attack_on_the_network_itself_finds_nothing_inside_the_radius(
    name: str, certifier: Margin | LInfBox
) -> None:
    found = certify(made(TRUE[name]), images(), certifier)
    assert attacked(made(TRUE[name]), found, 1.0, cube=isinstance(certifier, LInfBox)) == 0


@pytest.mark.parametrize("name", ["shared-layer", "hook", "own-forward", "overridden-forward", "hook-in-a-block"])
def test_the_attack_would_find_the_radius_that_module_walking_claimed(name: str) -> None:
    """A multiple of the radius, as large as the factor that the walk over modules missed."""
    assert attacked(made(TRUE[name]), certify(made(TRUE[name]), images(), Margin("l2")), 7.0) > 0.3


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_fixed_function_of_one_image_is_refused(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        certify(made(make), images(), Margin())
