"""Ways in which a certificate of `margin` was made false, from end to end: a true radius, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import Certificate, Gaussian, LInfBox, Margin, Split, SplitClassifier, certify
from holdfast.attacks import inside
from holdfast.core.threat import THREATS
from holdfast.nn.lipschitz import LinearResidualBlock, LipschitzNet, MinMax, Residual
from holdfast.nn.normalize import Normalize
from holdfast.nn.stored import program_of
from holdfast.program import capture

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


class Elu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.elu(x - 0.5, 1.0, 1.0, -9.0)


class Times(nn.Module):
    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        for factor in self.factors:
            x = x * factor
        return x


class Cancelling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1e7) - 1e7


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
    "nan-elu": (lambda: behind(nn.ELU(math.nan)), "aten.elu.* inf or NaN"),
    "infinite-leaky-relu": (lambda: behind(nn.LeakyReLU(math.inf)), "aten.leaky_relu.* inf or NaN"),
    "elu-that-grows": (lambda: behind(Elu()), "aten.elu.*grows ever faster"),
    "overflow-in-float32": (lambda: behind(Times(1e30, 1e30, 1e-30, 1e-30)), "in float32 .* otherwise than in float64"),
    "underflow-in-float32": (lambda: behind(Times(1e-30, 1e-30, 1e30, 1e30)), "in float32 .* otherwise than"),
    "few-digits-in-float32": (lambda: behind(Cancelling()), "in float32 .* loses its digits"),
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


@pytest.mark.parametrize("certifier", [Margin(), Margin("linf"), LInfBox(8)], ids=["l2", "linf", "box"])
@pytest.mark.parametrize("of_program", [True, False])
def test_a_hook_for_all_modules_is_refused(of_program: bool, certifier: Margin | LInfBox) -> None:
    """It would multiply the margins of a program that runs, and not the constants that were proven of it."""
    model = made(lambda: behind(wide()))
    network = capture(model, SHAPE).module() if of_program else model
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: 10 * output)
    try:
        with pytest.raises(ValueError, match="a hook for all modules"):
            certify(network, images(), certifier)
    finally:
        handle.remove()
    assert certify(network, images(), certifier)[0].radius > 0


def test_another_forward_of_the_class_of_a_program_is_not_that_program() -> None:
    network = capture(made(lambda: behind(wide())), SHAPE).module()
    forward = type(network).forward
    assert program_of(network) is not None
    type(network).forward = lambda self, x: -forward(self, x)  # pyright: ignore
    assert program_of(network) is None
    with pytest.raises(ValueError, match="computes something else"):
        certify(network, images(), Margin())


class Watching(nn.Module):
    """It looks whether it is being captured; else it answers otherwise to dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = behind()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layer(x)
        if torch.compiler.is_compiling():
            return logits
        return torch.where(x.flatten(1).amax(1, keepdim=True) < 0.2, -logits, logits)


def test_a_network_that_is_something_else_while_it_is_captured_is_refused() -> None:
    with pytest.raises(ValueError, match="computes something else when it is called"):
        certify(made(Watching), images() / 10, Margin())


class OtherWhole(SplitClassifier):
    def forward(self, x: Tensor, part: Any = "whole") -> Tensor:
        found = super().forward(x, part)
        return -found if part == "whole" else found


@pytest.mark.parametrize("kind", [SplitClassifier, OtherWhole])
def test_a_classifier_in_two_halves_is_their_composition(kind: type[SplitClassifier]) -> None:
    model = made(lambda: kind(nn.Sequential(nn.Conv2d(1, 2, 2)), nn.Sequential(nn.Flatten(), nn.Linear(8, 2))))
    certifier = Split(Gaussian(0.05, n0=10, n=200), bisections=1)
    if kind is SplitClassifier:
        certified = [c.prediction for c in certify(model, images(2), certifier, seed=0)]
        assert certified == model(images(2)).argmax(1).tolist()
        return
    with pytest.raises(ValueError, match="as a whole computes something else"):
        certify(model, images(2), certifier, seed=0)


def test_weights_hooks_and_code_that_change_between_calls_are_in_the_next_certificate() -> None:
    def doubled(model: nn.Module) -> nn.Module:
        model[1].weight.data.mul_(2)  # pyright: ignore
        return model

    def in_buffers(model: nn.Module) -> nn.Module:
        model[0].std.mul_(0.5)  # pyright: ignore
        return model

    def hooked(model: nn.Module) -> nn.Module:
        model[1].register_forward_hook(lambda module, inputs, output: 2 * output)  # pyright: ignore
        return model

    def own(model: nn.Module) -> nn.Module:
        layer: Any = model[1]  # pyright: ignore
        layer.forward = lambda x: 2 * F.linear(x.flatten(1), layer.weight)
        return model

    for change in (doubled, in_buffers, hooked, own):
        head = nn.Linear(9, 2, bias=False)
        model = nn.Sequential(Normalize((0.0,), (1.0,)), made(lambda head=head: head)).eval()
        model[1].register_forward_pre_hook(lambda module, inputs: inputs[0].flatten(1))
        before = certify(model, images(3), Margin())
        after = certify(change(model), images(3), Margin())
        for one, other in zip(before, after, strict=True):
            assert other.evidence["constant"] == pytest.approx(2 * one.evidence["constant"], rel=1e-6), change.__name__
            assert other.evidence["margin"] == pytest.approx(2 * one.evidence["margin"], rel=1e-5), change.__name__


class Faint(nn.Module):
    """Each number is multiplied by a factor of its own sign, so that nothing is fused, and is as before in the end."""

    def __init__(self, exponent: int, times: int) -> None:
        super().__init__()
        self.exponent, self.times = exponent, times

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 3, 3)
        for exponent in [-self.exponent] * self.times + [self.exponent] * self.times:
            x = x * (1.0 - 2 * (torch.arange(9, dtype=x.dtype).view(3, 3) % 2)) * 2.0**exponent
        return x.flatten(1)


def radii(model: nn.Module, certifier: Margin | LInfBox) -> list[float]:
    """Of float64 images; none where the model is refused."""
    try:
        return [found.radius for found in certify(model.double().eval(), images().double(), certifier)]
    except ValueError:
        return []


@pytest.mark.parametrize("certifier", [Margin("l2"), Margin("linf"), LInfBox(8)], ids=["l2", "linf", "box"])
@pytest.mark.parametrize(("exponent", "times"), [(400, 2), (355, 3), (530, 2)])
@pytest.mark.parametrize("fused", [True, False])
def test_numbers_that_vanish_in_float64_prove_nothing(
    exponent: int, times: int, fused: bool, certifier: Margin | LInfBox
) -> None:
    """In exact arithmetic nothing is changed; in float64 a number keeps few digits, or none."""
    torch.manual_seed(0)
    front, back = [wide(), nn.ReLU()], nn.Linear(9, 2)
    middle = Times(*[2.0**-exponent] * times, *[2.0**exponent] * times) if fused else Faint(exponent, times)
    assert any(radii(nn.Sequential(nn.Flatten(), *front, nn.ReLU(), back), certifier))
    assert not any(radii(nn.Sequential(nn.Flatten(), *front, middle, nn.ReLU(), back), certifier))


@pytest.mark.parametrize("certifier", [Margin("l2"), Margin("linf"), LInfBox(8)], ids=["l2", "linf", "box"])
@pytest.mark.parametrize("factor", [1e-100, 1e-200])
def test_faint_logits_have_no_larger_radii(factor: float, certifier: Margin | LInfBox) -> None:
    """The squares of such numbers vanish, and with them norms that are made of squares."""
    torch.manual_seed(0)
    front, back = [wide(), nn.ReLU()], nn.Linear(9, 2)
    expected = radii(nn.Sequential(nn.Flatten(), *front, back), certifier)
    back.weight.data, back.bias.data = back.weight.data.double() * factor, back.bias.data.double() * factor
    found = radii(nn.Sequential(nn.Flatten(), *front, back), certifier)
    assert any(expected)
    assert all(one <= other * (1 + 1e-6) for one, other in zip(found, expected, strict=bool(found)))
