"""Every training method keeps the same promises. To add a method, add its file and one line to CASES."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import ForEvery
from torch import Tensor, nn

from holdfast import data, discovery
from holdfast.core.certifier import Certifier
from holdfast.core.config import Config
from holdfast.core.recipe import Method, Recipe
from holdfast.core.registry import ARCHITECTURES, KINDS, RECIPES
from holdfast.methods.cat_rs import CATRS
from holdfast.methods.consistency import Consistency
from holdfast.methods.emma import AnnealedEmma, Emma, Trades
from holdfast.methods.gaussian import GaussianNoise
from holdfast.methods.gloro import Gloro
from holdfast.methods.linf_dist import LInfDist
from holdfast.methods.linf_plus import LInfPlus
from holdfast.methods.macer import MACER
from holdfast.methods.smoothadv import SmoothAdv, SmoothAdvConsistency
from holdfast.methods.smoothmix import SmoothMix
from holdfast.methods.sortnet import SortNet, SortNetPlus
from holdfast.methods.splitz import Splitz
from holdfast.methods.stability import Stability
from holdfast.methods.standard import Standard
from holdfast.nn.linf import DistanceHead, ExponentSchedule, LInfDistLinear, LInfDistNet, TanhHead
from holdfast.nn.lipschitz import LipschitzNet, MinMax, orthogonal, unit_rows
from holdfast.nn.lipschitz.layers import ClippedReLU
from holdfast.nn.split import SplitClassifier
from holdfast.training import loop as training
from holdfast.training.launch import Machine
from holdfast.training.loop import train

QUIET = 1e-9
"""A sigma at which noise does not show."""
BRIEF = ExponentSchedule(p_constant=0.85, p_inf=0.1)
"""Few exponents, for each is compiled."""


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def distances(head: DistanceHead | TanhHead) -> LInfDistNet:
    return LInfDistNet(nn.Sequential(LInfDistLinear(16, 12)), head, mean=(0.4,), std=1.0).double()


def lipschitz_net() -> nn.Module:
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), MinMax(), orthogonal(nn.Linear(8, 6)), MinMax())
    return LipschitzNet(body, unit_rows(6, 2), (1, 4, 4)).double()


def in_halves() -> nn.Module:
    left = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), ClippedReLU())
    return SplitClassifier(left, nn.Sequential(nn.Flatten(), nn.Linear(64, 2))).double()


@dataclass(frozen=True)
class Case:
    """What the promises are checked with."""

    plain: Method
    """A setting in which the loss is cross-entropy."""
    usual: Method
    """A setting with every term switched on."""
    network: Callable[[], nn.Module] = perceptron
    """A network for images of 1x4x4 pixels and two classes."""


CASES = {
    "Standard": Case(Standard(), Standard()),
    "GaussianNoise": Case(GaussianNoise(QUIET), GaussianNoise(0.1, copies=2)),
    "Stability": Case(Stability(QUIET, weight=0), Stability(0.1)),
    "SmoothAdv": Case(SmoothAdv(QUIET, epsilon=0), SmoothAdv(0.1, 2, epsilon=0.3, steps=2)),
    "SmoothAdvConsistency": Case(
        SmoothAdvConsistency(SmoothAdv(QUIET, epsilon=0), weight=0, entropy=0),
        SmoothAdvConsistency(SmoothAdv(0.1, 2, epsilon=0.3, steps=2)),
    ),
    "MACER": Case(MACER(QUIET, copies=2, weight=0), MACER(0.1, copies=4, weight=1, beta=1)),
    "Consistency": Case(Consistency(QUIET, weight=0, entropy=0), Consistency(0.1)),
    "SmoothMix": Case(SmoothMix(QUIET, copies=2, eta=0), SmoothMix(0.1, 2, steps=2, step_size=0.1, one_step=True)),
    "Gloro": Case(Gloro(0.1, trades=(0, 0)), Gloro(0.1), lipschitz_net),
    "Emma": Case(Emma(0.1, start=0, end=0), Emma(0.1), lipschitz_net),
    "Trades": Case(Trades(0.1, start=0, end=0, weight=0), Trades(0.1), lipschitz_net),
    "AnnealedEmma": Case(
        AnnealedEmma(Emma(0.1, start=0, end=0), temperature=1, offset=0, focus=0),
        AnnealedEmma(Emma(0.1), offset=0.5),
        lipschitz_net,
    ),
    "Splitz": Case(
        Splitz(GaussianNoise(QUIET), weight=1), Splitz(SmoothMix(0.1, 2, steps=2, step_size=0.1), ball=0.2), in_halves
    ),
    "CATRS": Case(CATRS(QUIET, copies=1, weight=0), CATRS(0.1, copies=2, epsilon=0.3, steps=2)),
    "LInfDist": Case(
        LInfDist(hinge=0, ce_start=1, ce_end=1), LInfDist(0.1, schedule=BRIEF), lambda: distances(DistanceHead(12, 2))
    ),
    "SortNet": Case(
        SortNet(hinge=0, ce_start=1, ce_end=1),
        SortNet(0.1, schedule=BRIEF),
        lambda: distances(DistanceHead(12, 2, keep=0.8)),
    ),
    "SortNetPlus": Case(
        SortNetPlus(hinge=0, ce_start=1, ce_end=1),
        SortNetPlus(0.1, clipped=False, schedule=BRIEF),
        lambda: distances(TanhHead(12, 8, 2)),
    ),
    "LInfPlus": Case(LInfPlus(kappa=0), LInfPlus(0.1, schedule=BRIEF), lambda: distances(TanhHead(12, 8, 2))),
}
"""By the class of the method."""

MODULES = discovery._modules("holdfast.methods")


def toy(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Images that are bright on the left or on the right, in the precision of the network."""
    y = torch.arange(32) % 2
    x = 0.2 + 0.2 * torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    x[y == 0, :, :, :2] += 0.5
    x[y == 1, :, :, 2:] += 0.5
    return x.to(next(network.parameters()).dtype), y


def measured(method: Method, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    torch.manual_seed(5)
    network.train()  # power iteration begins anew
    method.before_step(network, 1.0)
    return method.loss(network, x, y, 1.0)


def test_every_method_has_a_case() -> None:
    """Of a denoiser: test_denoised.py."""
    methods = {name: kind for name, kind in KINDS.items() if issubclass(kind, Method) and "methods" in kind.__module__}
    assert {name for name, kind in methods.items() if kind.classifies} == CASES.keys()


class TestMethod(ForEvery):
    table = CASES

    def test_a_plain_setting_is_cross_entropy(self, case: Case) -> None:
        torch.manual_seed(0)
        network = case.network()
        x, y = toy(network)
        expected = F.cross_entropy(network(x), y).item()
        assert measured(case.plain, network, x, y).item() == pytest.approx(expected, rel=1e-5)

    def test_training_lowers_the_loss(self, case: Case) -> None:
        torch.manual_seed(0)
        network = case.network()
        x, y = toy(network)
        before = measured(case.usual, network, x, y).item()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        for step in range(25):
            case.usual.before_step(network, step / 25)
            loss = case.usual.loss(network, x, y, step / 25)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert measured(case.usual, network, x, y).item() < 0.7 * before

    def test_the_same_seed_gives_the_same_gradient(self, case: Case) -> None:
        torch.manual_seed(0)
        network = case.network()
        x, y = toy(network)
        runs = [torch.autograd.grad(measured(case.usual, network, x, y), list(network.parameters())) for _ in "ab"]
        assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))

    def test_the_loss_leaves_network_and_images_as_they_were(self, case: Case) -> None:
        torch.manual_seed(0)
        network = case.network().train()
        x, y = toy(network)
        images, weights = x.clone(), [weight.clone() for weight in network.parameters()]
        measured(case.usual, network, x, y)
        assert torch.equal(x, images)
        assert all(module.training for module in network.modules())
        assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
        assert all(torch.equal(one, other) for one, other in zip(weights, network.parameters(), strict=True))

    def test_it_says_how_to_certify_and_survives_json(self, case: Case) -> None:
        assert isinstance(case.usual.certifier(), Certifier)
        assert Method.from_dict(case.usual.to_dict()) == case.usual


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[1])
class TestFile:
    def test_its_header_shows_commands_that_exist(self, module) -> None:
        commands = re.findall(r"holdfast train (\S+)", module.__doc__)
        assert commands
        assert set(commands) <= RECIPES.keys()

    def test_its_recipes_can_be_built(self, module) -> None:
        assert module.RECIPES
        for name, recipe in module.RECIPES.items():
            assert Recipe.from_dict(recipe.to_dict()) == recipe, name
            assert recipe.arch.partition("@")[0] in ARCHITECTURES, name
            plain = recipe.dataset.partition("@")[0]
            assert plain in data.names() or plain.startswith(("hub:", "folder:")), name


def test_no_two_recipes_share_a_name() -> None:
    assert sum(len(module.RECIPES) for module in MODULES) == len(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_options_of_a_recipe_have_different_names(name: str) -> None:
    """On the command line they stand side by side, without the name of the part that they belong to."""
    names = Counter(["runs", *(field.name for field in fields(Machine)), *_options(RECIPES[name])])
    assert names.most_common(1)[0][1] == 1, names.most_common(3)


def _options(spec: Config) -> list[str]:
    values = [(field.name, getattr(spec, field.name)) for field in fields(spec)]
    inner = [option for _, value in values if isinstance(value, Config) for option in _options(value)]
    return inner + [name for name, value in values if not isinstance(value, Config)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if "digits" in name])
def test_a_stopped_training_resumes_to_the_same_weights(name: str, tmp_path: Path, monkeypatch) -> None:
    recipe, machine = RECIPES[name].replace(epochs=2), Machine(accelerator="cpu")
    whole = train(recipe, "whole", tmp_path, machine)
    save, stop = training._save, KeyboardInterrupt()

    def save_and_stop(*args) -> None:
        save(*args)
        raise stop

    monkeypatch.setattr(training, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, "stopped", tmp_path, machine)
    monkeypatch.setattr(training, "_save", save)
    resumed = train(recipe, "stopped", tmp_path, machine)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
