"""SortNet's recipes and networks are those of its released code: commands, logs and models."""

import pytest
import torch
from torch import nn

from holdfast import certify
from holdfast.certifiers.margin import Margin
from holdfast.core.recipe import DataInfo
from holdfast.core.registry import ARCHITECTURES, RECIPES
from holdfast.methods.sortnet import SortAdam, SortNet
from holdfast.nn import zoo
from holdfast.nn.linf import DistanceHead, LInfDistConv2d, LInfDistNet, SortDistConv2d, TanhHead, estimate_means
from holdfast.nn.linf.layers import GROUP
from holdfast.nn.zoo.lipschitz import sorting_plus_2x
from holdfast.ops.distance import dist


def test_the_recipes_are_those_of_the_released_commands() -> None:
    wanted = {  # epsilon, radius of training, weight of cross-entropy at both ends, epochs, share kept, identity
        "sortnet-mnist-0.1": (0.1, 0.3, 0.1, 0.001, 1500, 0.7, True),
        "sortnet-mnist-0.3": (0.3, 0.45, 0.02, 0.0002, 1500, 0.75, True),
        "sortnet-cifar10-2": (2 / 255, 8 / 255, 1, 0.01, 3000, 0.75, False),
        "sortnet-cifar10-8": (8 / 255, 24 / 255, 0.2, 0.002, 3000, 0.85, False),
        "sortnet-plus-cifar10-2": (2 / 255, 2.2 / 255, 1, 0.01, 3000, 0.7, False),
        "sortnet-plus-cifar10-8": (8 / 255, 8.8 / 255, 1, 0.01, 3000, 0.6, False),
        "sortnet-plus-tiny-imagenet-1": (1 / 255, 1.1 / 255, 1, 0.01, 1000, 0.7, False),
        "sortnet-plus-2x-tiny-imagenet-1": (1 / 255, 1.1 / 255, 1, 0.01, 1000, 0.7, False),
        "sortnet-plus-imagenet64-1": (1 / 255, 1.1 / 255, 1, 0.01, 300, 0.7, False),
        "sortnet-plus-2x-imagenet64-1": (1 / 255, 1.1 / 255, 1, 0.01, 300, 0.7, False),
    }
    for name, (epsilon, trained, start, end, epochs, keep, identity) in wanted.items():
        recipe = RECIPES[name]
        method = recipe.method
        assert isinstance(method, SortNet)
        assert (method.epsilon, method.ce_start, method.ce_end, recipe.epochs) == (epsilon, start, end, epochs), name
        assert method.epsilon * method.overshoot == pytest.approx(trained), name
        imagenet = recipe.dataset == "imagenet@64"
        assert (recipe.optimizer, recipe.batch_size) == (SortAdam(0.01 if imagenet else 0.02), 512 << imagenet), name
        assert (recipe.border, recipe.flip) == ("edge", recipe.dataset != "mnist"), name
        made = ARCHITECTURES[recipe.arch].keywords  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
        assert (made["keep"], made.get("identity")) == (keep, 10.0 if identity else None), name
        assert (made["width"], made["hidden"], "plus" in name) == (
            5120,
            4 + ("mnist" not in name),
            "perceptron" in made,
        )


def test_phases_crops_and_ramps_are_those_of_the_released_commands() -> None:
    """Epochs with p = 8, at which p is infinite, and over which the radius grows; pixels of padding."""
    wanted = {
        "sortnet-mnist-0.1": (100, 1450, 0, 1),
        "sortnet-mnist-0.3": (100, 1450, 0, 1),
        "sortnet-cifar10-2": (200, 2950, 0, 3),
        "sortnet-cifar10-8": (200, 2950, 0, 3),
        "sortnet-plus-cifar10-2": (200, 2950, 500, 3),
        "sortnet-plus-cifar10-8": (200, 2950, 500, 3),
        "sortnet-plus-tiny-imagenet-1": (100, 980, 500, 5),
        "sortnet-plus-2x-tiny-imagenet-1": (100, 980, 500, 5),
        "sortnet-plus-imagenet64-1": (30, 290, 200, 4),
        "sortnet-plus-2x-imagenet64-1": (50, 290, 200, 4),
    }
    for name, (constant, infinite, ramp, crop) in wanted.items():
        recipe = RECIPES[name]
        schedule = recipe.method.schedule
        assert schedule.p_constant * recipe.epochs == pytest.approx(constant), name
        assert (1 - schedule.p_inf) * recipe.epochs == pytest.approx(infinite), name
        assert getattr(recipe.method, "ramp", 0) * recipe.epochs == pytest.approx(ramp), name
        assert recipe.crop == crop, name


@pytest.mark.parametrize(
    ("recipe", "shape", "classes", "parameters"),
    [
        ("sortnet-mnist-0.3", (1, 28, 28), 10, 82_708_491),
        ("sortnet-cifar10-8", (3, 32, 32), 10, 120_637_451),
        ("sortnet-plus-cifar10-2", (3, 32, 32), 10, 123_213_323),
        ("sortnet-plus-tiny-imagenet-1", (3, 64, 64), 200, 170_496_713),
        ("sortnet-plus-2x-tiny-imagenet-1", (3, 64, 64), 200, 170_742_473),
        ("sortnet-plus-imagenet64-1", (3, 64, 64), 1000, 180_308_969),
        ("sortnet-plus-2x-imagenet64-1", (3, 64, 64), 1000, 204_147_689),
    ],
)
def test_networks_have_as_many_parameters_as_the_released_logs_say(
    recipe: str, shape: tuple[int, int, int], classes: int, parameters: int
) -> None:
    """`number of params` in log.txt of each; the temperature is one of them."""
    data = DataInfo("any", shape, classes, (0.5,) * shape[0], (0.25,) * shape[0])
    with torch.device("meta"):
        network = zoo.build(RECIPES[recipe].arch, data)
    assert sum(weight.numel() for weight in network.parameters()) == parameters


@pytest.mark.parametrize("plus", [False, True])
def test_the_temperature_moves_at_the_whole_rate_and_decays_to_0(plus: bool) -> None:
    """As in their code, where it is a parameter of its own in AdamW; without a gradient only its decay is seen."""
    head = TanhHead(6, 5, 3, tempered=True) if plus else DistanceHead(6, 3, keep=0.75)
    optimizer = SortAdam(lr=0.1, weight_decay=0.5).build(LInfDistNet(nn.Sequential(), head, (0.0,), 1.0))
    assert head.temperature().item() == 1
    head.temperature().backward()
    optimizer.step()
    assert head.temperature().item() == pytest.approx(0.95 - 0.1)


def test_four_parts_of_an_image_go_through_the_same_neurons() -> None:
    """And what is proven of them holds: the net that they call 2x, of a small width."""
    torch.manual_seed(0)
    data = DataInfo("any", (2, 8, 8), 3, (0.5, 0.5), (0.25, 0.25))
    network = sorting_plus_2x(data, 16, 3, 0.7, 5)
    estimate_means(network, [torch.rand(20, 2, 8, 8)])
    x, (first, second, _) = torch.rand(6, 2, 8, 8), network.body
    assert isinstance(first, LInfDistConv2d)
    assert isinstance(second, SortDistConv2d)
    features = first((x - network.mean) / network.std)
    assert features.shape == (6, 16, 2, 2)
    corner = ((x - network.mean) / network.std)[:, :, 4:, :4].flatten(1)
    expected = dist(corner, first.neurons.weight) - first.neurons.mean
    assert torch.allclose(features[:, :, 1, 0], expected, atol=1e-5)
    found = second(features)
    one = second.neurons(features[:, :, 0, 1])
    assert torch.allclose(found[:, :, 0, 1], one, atol=1e-5)
    y = network(x).argmax(1)
    proven = network.lower_margins(x - 0.01, x + 0.01, y)
    for _ in range(20):
        logits = network(x + 0.01 * torch.randn(x.shape).sign())
        assert (logits.gather(1, y[:, None]) - logits >= proven - 1e-5).all()
    assert certify(network, x[:1], Margin())[0].radius >= 0


def test_positions_of_an_image_share_the_part_of_its_channels() -> None:
    torch.manual_seed(0)
    layer = SortDistConv2d(40, 30, keep=0.5).train()
    y = layer(torch.rand(1, 40, 1, 1).expand(2 * GROUP, 40, 2, 2)).view(2, GROUP, 30, 4)
    assert (y == y[:, :1, :, :1]).all()
    assert not (y[0, 0] == y[1, 0]).all()
