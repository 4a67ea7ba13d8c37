"""The recipes are those of the papers and of the released codes, number by number; and every one of them runs."""

from itertools import pairwise

import pytest
import torch
from recipe_steps import SHAPES, info
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.attacks import attack
from holdfast.certification.images import certify
from holdfast.core.recipe import DataInfo
from holdfast.core.registry import ARCHITECTURES, RECIPES
from holdfast.methods import splitz
from holdfast.methods.emma import Emma, Trades
from holdfast.methods.gloro import Gloro, bottom_logit
from holdfast.methods.smoothmix import SmoothMix
from holdfast.nn import zoo
from holdfast.nn.lipschitz import LinearResidualBlock, LipschitzNet, MinMax, lipschitz_net
from holdfast.nn.zoo.lipschitz import Size, gloro
from holdfast.nn.zoo.lipschitz import liresnet as make_liresnet
from holdfast.optim import DecayingAdam, LookaheadNAdam, WarmAdamW, warm_cosine
from holdfast.smoothing.copies import draw


def dense(*widths: int, bias: bool = True) -> int:
    """Parameters of a chain of dense layers."""
    return sum((a + bias) * b for a, b in pairwise(widths))


def conv(channels_in: int, channels: int, side: int, bias: bool = True) -> int:
    return channels * (channels_in * side**2 + bias)


def liresnet(stem: int, width: int, depth: int, neck: int, features: int, classes: int, chord: int = 0) -> int:
    """Blocks with a factor and a bias for each channel; dense residual layers likewise."""
    blocks = depth * (9 * width**2 + 2 * width)
    chords = chord * (features**2 + 2 * features)
    return stem + blocks + neck + chords + dense(features, classes)


@pytest.mark.parametrize(
    ("arch", "dataset", "parameters"),
    [
        ("gloro-relu-2c2f", "mnist", conv(1, 16, 4) + conv(16, 32, 4) + dense(32 * 49, 100, 10)),
        (
            "gloro-relu-4c3f",
            "mnist",
            conv(1, 32, 3) + conv(32, 32, 4) + conv(32, 64, 3) + conv(64, 64, 4) + dense(64 * 49, 512, 512, 10),
        ),
        (
            "gloro-relu-6c2f-orthogonal",
            "cifar10",
            conv(3, 32, 3)
            + conv(32, 32, 3)
            + conv(32, 32, 4)
            + conv(32, 64, 3)
            + conv(64, 64, 3)
            + conv(64, 64, 4)
            + dense(64 * 64, 512, 10),
        ),
        (
            "gloro-relu-8c2f",
            "tiny-imagenet",
            conv(3, 64, 3)
            + conv(64, 64, 3)
            + conv(64, 64, 4)
            + conv(64, 128, 3)
            + conv(128, 128, 4)
            + conv(128, 256, 3)
            + conv(256, 256, 4)
            + dense(256 * 64, 200),
        ),
        (
            "liresnet-12x512",
            "cifar10",
            liresnet(
                conv(3, 512, 5), 512, 12, conv(512, 512, 4, bias=False) + dense(512 * 16, 2048), 2048, 10, chord=8
            ),
        ),
        (
            "liresnet-12x588",
            "imagenet",
            liresnet(conv(3, 588, 14), 588, 12, conv(588, 588, 4, bias=False) + dense(588 * 16, 2048), 2048, 1000, 8),
        ),
        (
            "liresnet-2023-18x256",
            "cifar10",
            liresnet(conv(3, 256, 5), 256, 18, conv(256, 512, 4) + dense(512 * 16, 512), 512, 10),
        ),
        (
            "liresnet-2023-6x256",
            "cifar10",
            liresnet(conv(3, 256, 5), 256, 6, conv(256, 512, 4) + dense(512 * 16, 512), 512, 10),
        ),
        (
            "liresnet-12x512-2-dense",
            "cifar10",
            liresnet(
                conv(3, 512, 5), 512, 12, conv(512, 512, 4, bias=False) + dense(512 * 16, 2048), 2048, 10, chord=2
            ),
        ),
        (
            "liresnet-2023-18x256-stride4",
            "tiny-imagenet",
            liresnet(conv(3, 256, 7), 256, 18, conv(256, 512, 4) + dense(512 * 16, 512), 512, 200),
        ),
        (
            "liresnet-2023-18x588",
            "imagenet",
            liresnet(conv(3, 588, 14), 588, 18, conv(588, 1176, 4) + dense(1176 * 16, 2048), 2048, 1000),
        ),
        # 784-5120x4-10 and 3072-5120x5-10, as their logs count: biases of the last layer, and the learnt factor
        ("linf-dist-5120x4", "mnist", 82_708_491),
        ("linf-dist-5120x5", "cifar10", 120_637_451),
        (
            "linf-dist-conv",
            "cifar10",
            conv(3, 96, 3, bias=False)
            + conv(96, 96, 3, bias=False)
            + conv(96, 192, 3, bias=False)
            + 2 * conv(192, 192, 3, bias=False)
            + 49_152 * 1024
            + dense(1024, 512, 10),
        ),
        ("linf-dist-plus-5120x4-512", "fashion-mnist", 5120 * 784 + 3 * 5120**2 + dense(5120, 512, 10)),
    ],
)
def test_architectures_have_the_published_number_of_parameters_layer_by_layer(
    arch: str, dataset: str, parameters: int
) -> None:
    with torch.device("meta"):
        network = zoo.build(arch, info(dataset))
    found = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert sum(found.values()) == parameters, found


def test_resnet50_has_the_parameters_of_its_authors() -> None:
    with torch.device("meta"):
        network = zoo.build("resnet50", info("imagenet"))
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032


class TestLiResNet:
    """Against the code of 2023 and of 2024."""

    def test_the_blocks_of_2023_are_not_centered_and_those_of_2024_are(self) -> None:
        for arch, centered in (("liresnet-2023-18x256", False), ("liresnet-12x512", True)):
            with torch.device("meta"):
                network = zoo.build(arch, info("cifar10"))
            blocks = [part for part in network.modules() if isinstance(part, LinearResidualBlock)]
            assert {block.centered for block in blocks} == {centered}
        plain = LinearResidualBlock(4, 1, centered=False)
        x = torch.rand(3, 4, 5, 5)
        assert torch.equal(plain.train()(x), plain.eval()(x))
        assert not plain.mean.any()
        centered = LinearResidualBlock(4, 1)
        assert not torch.allclose(centered.train()(x), centered.eval()(x))

    def test_the_neck_of_2024_has_neither_bias_nor_activation_between_its_layers(self) -> None:
        with torch.device("meta"):
            network = lipschitz_net(zoo.build("liresnet-12x512", info("cifar10")))
        names = [name for name, _ in network.body.named_children()]
        assert names[names.index("neck") :][:4] == ["neck", "flatten", "dense", "dense-minmax"]
        assert network.body.get_submodule("neck").bias is None
        with torch.device("meta"):
            small = lipschitz_net(zoo.build("liresnet-small", info("cifar10")))
        assert "neck-minmax" in dict(small.body.named_children())

    def test_the_first_stem_for_tiny_imagenet_leaves_16_pixels(self) -> None:
        with torch.device("meta"):
            network = lipschitz_net(zoo.build("liresnet-2023-18x256-stride4", info("tiny-imagenet")))
            stem = network.body.get_submodule("stem")
            assert stem(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 16, 16)

    @pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
    def test_trades_of_2023_differs_from_the_loss_of_its_code_in_nothing_else(self, dataset: str) -> None:
        trades, other = (RECIPES[f"{loss}-2023-{dataset}"] for loss in ("trades", "margin"))
        assert trades.replace(method=other.method) == other
        assert [trades.method.training_epsilon(t) for t in (0, 0.1, 0.5, 1)] == pytest.approx(
            [other.method.training_epsilon(t) for t in (0, 0.1, 0.5, 1)], rel=1e-12
        )

    def test_trades_of_2023_is_that_of_gloro_with_the_divergence_weighed_by_1(self) -> None:
        torch.manual_seed(0)
        network = make_liresnet(info("digits"), Size(2, 8, features=16, chord=0, centered=False)).train()
        x, y, found = torch.rand(5, 1, 8, 8), torch.arange(5), []
        for method in (Trades(0.3, end=1.5), Gloro(0.3, overshoot=1.5, trades=(1.0, 1.0))):
            torch.manual_seed(1)
            network.train()
            found.append(method.loss(network, x, y, 1.0))
        assert torch.equal(*found)

    @pytest.mark.parametrize("block", ["plain", "residual"])
    def test_backbones_to_compare_with_are_estimated_and_proven(self, block: str) -> None:
        size = Size(2, 8, features=16, chord=0, block=block, centered=False)
        network = make_liresnet(DataInfo("x", (3, 16, 16), 5, (0.5,) * 3, (0.2,) * 3), size)
        blocks = [name for name, part in network.body.named_children() if isinstance(part, nn.Conv2d | nn.Module)]
        assert sum(name.startswith("block") and name.endswith("minmax") for name in blocks) == 2
        images, labels = torch.rand(6, 3, 16, 16), torch.arange(6) % 5
        Emma().loss(network, images, labels, 0.5).backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        network.eval()
        (found,) = certify(network, images[:1], Emma().certifier())
        assert found.radius >= 0

    def test_recipes(self) -> None:
        first, imagenet = RECIPES["emma-2023-cifar10"], RECIPES["emma-imagenet-1.0"]
        assert first.optimizer == WarmAdamW(lr=1e-3, weight_decay=1e-4, warm_up=20 / 800)
        assert imagenet.optimizer == WarmAdamW(lr=1e-3, weight_decay=0.0, warm_up=20 / 400)
        assert (imagenet.batch_size, imagenet.epochs, imagenet.sides) == (1024, 400, (256, 256))
        second = RECIPES["emma-imagenet"]
        assert isinstance(second.optimizer, LookaheadNAdam)
        assert second.optimizer.warm_up == 20 / 400
        assert (second.batch_size, second.sides, second.randaugment, second.clip) == (256, (224, 288), 1.0, 3.0)
        cifar = RECIPES["emma-cifar10"]
        assert (cifar.crop, cifar.flip, cifar.randaugment, cifar.epochs) == (4, True, 0.5, 800)
        assert RECIPES["emma-2023-imagenet"].arch == "liresnet-2023-12x588"

    def test_adamw_decays_and_warms_up(self) -> None:
        rates = [WarmAdamW(warm_up=0.1).rate(t) for t in (0, 0.05, 0.1, 0.55, 1)]
        assert rates == pytest.approx([0, 5e-4, 1e-3, 5e-4, 1e-8], rel=1e-4)
        assert warm_cosine(1.0, 0.1, 0.25) == 0.25
        optimizer = WarmAdamW(weight_decay=0.5).build(nn.Linear(2, 2))
        assert type(optimizer) is torch.optim.AdamW
        assert optimizer.defaults["weight_decay"] == 0.5

    def test_lookahead_ends_an_epoch_on_its_slow_weights(self) -> None:
        weight = nn.Parameter(torch.zeros(3))
        recipe = LookaheadNAdam(lr=0.1)
        optimizer = recipe.build(nn.ParameterList([weight]))
        seen = []
        for _ in range(4):
            optimizer.zero_grad()
            (weight - 1).square().sum().backward()
            optimizer.step()
            seen.append(weight.detach().clone())
        recipe.after_epoch(optimizer)
        assert torch.allclose(weight, (seen[0] + seen[-1]) / 2)
        assert torch.equal(weight, optimizer.state[weight]["slow"])


class TestGloRo:
    """Against the scripts of the paper."""

    def small(self) -> tuple[LipschitzNet, Tensor, Tensor]:
        torch.manual_seed(0)
        network = gloro(info("digits"), ((4, 4, 2),), (8,), activation=nn.ReLU)
        return network, torch.rand(5, 1, 8, 8), torch.arange(5)

    def test_trades_takes_the_cross_entropy_from_the_plain_to_the_robust_classifier(self) -> None:
        network, x, y = self.small()
        method = Gloro(0.3, trades=(1.5, 1.5), divergence="ce")
        network.train()
        torch.manual_seed(1)
        network.train()
        found = method.loss(network, x, y, 1.0)
        torch.manual_seed(1)
        network.train()
        logits = network(x)
        bottom = bottom_logit(logits, network.difference_estimates(), 0.45)
        target = torch.cat([logits.softmax(1), torch.zeros(5, 1)], 1)
        robust = cross_entropy(torch.cat([logits, bottom[:, None]], 1), target)
        assert torch.allclose(found, cross_entropy(logits, y) + 1.5 * robust, rtol=1e-5)

    def test_the_warm_up_is_plain_cross_entropy_and_what_grows_begins_after_it(self) -> None:
        network, x, y = self.small()
        method = Gloro(0.3, start=0.01, trades=(0.0, 2.0), warm_up=0.2)
        assert torch.equal(method.loss(network, x, y, 0.19), cross_entropy(network(x), y))
        late = Gloro(0.3, start=0.01, trades=(0.0, 2.0))
        for t in (0.2, 0.6, 1.0):
            found = []
            for one, when in ((method, t), (late, (t - 0.2) / 0.8)):
                torch.manual_seed(2)
                network.train()
                found.append(one.loss(network, x, y, when))
            assert torch.allclose(*found)

    def test_recipes(self) -> None:
        for name in ("gloro-mnist-0.3", "gloro-mnist-1.58", "gloro-cifar10-36", "gloro-tiny-imagenet-36"):
            with torch.device("meta"):
                network = lipschitz_net(zoo.build(RECIPES[name].arch, info(RECIPES[name].dataset)))
            kinds = {type(part) for part in network.body.modules()}
            assert nn.ReLU in kinds
            assert MinMax not in kinds
            steps = {part.steps for part in network.power.children()}
            assert steps == {10 if "mnist" in name else 5}
        assert RECIPES["gloro-trades-mnist-0.3"].method.divergence == "ce"
        cifar = RECIPES["gloro-cifar10-36"]
        assert isinstance(cifar.optimizer, DecayingAdam)
        assert cifar.epochs * cifar.method.warm_up == 20
        assert cifar.epochs * cifar.optimizer.hold == 420
        weight = dict(zoo.build(cifar.arch, info("cifar10")).named_parameters())["body.conv1.weight"].flatten(1)
        assert torch.allclose(weight.T @ weight, torch.eye(27), atol=1e-5)

    def test_the_rate_of_adam_holds_for_the_share_asked_for(self) -> None:
        rates = [DecayingAdam(1e-3, 1e-5, hold=0.6).rate(t) for t in (0.3, 0.6, 0.8, 1.0)]
        assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])


class TestSmoothMix:
    """The restriction that the paper compares with."""

    def test_the_adversary_stays_within_maxnorm_and_steps_go_on_from_the_first(self) -> None:
        torch.manual_seed(0)
        network = zoo.build("cnn", info("digits")).eval()
        x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
        noise = draw(x, 0.25, 2)
        free, bound = (
            SmoothMix(0.25, 2, steps=6, step_size=0.5),
            SmoothMix(0.25, 2, steps=6, step_size=0.5, maxnorm=0.7),
        )
        distances = [
            (method._ends(network, x, y, noise, 1.0)[1] - x).flatten(1).norm(dim=1) for method in (free, bound)
        ]
        assert distances[0].min() > 0.7
        assert distances[1].max() <= 0.7 * (1 + 1e-5)
        by_hand = attack(network, x, y, noise, 6, 0.5, 0.7)
        assert torch.allclose(bound._ends(network, x, y, noise, 1.0)[1], by_hand, atol=1e-5)
        far = SmoothMix(0.25, 2, steps=6, step_size=0.5, maxnorm=100.0)
        assert torch.allclose(
            far._ends(network, x, y, noise, 1.0)[1], free._ends(network, x, y, noise, 1.0)[1], atol=1e-5
        )

    def test_recipes(self) -> None:
        assert {f"smoothmix{one}-imagenet-{sigma}" for one in ("", "-onestep") for sigma in ("0.50", "1.00")} <= set(
            RECIPES
        )
        assert RECIPES["smoothmix-imagenet-0.50"].batch_size == 128


def test_the_images_of_the_papers_are_cut_out_as_they_say() -> None:
    for name in ("gaussian-imagenet-0.50", "smoothadv-imagenet-0.50", "consistency-imagenet-1.00"):
        recipe = RECIPES[name]
        assert (recipe.dataset, recipe.area, recipe.flip, recipe.crop) == ("imagenet", (0.08, 1.0), True, 0)
    assert {RECIPES[name].border for name in ("linf-dist-mnist-0.3", "linf-dist-cifar10-8")} == {"edge"}
    assert {RECIPES[name].border for name in ("linf-dist-2021-cifar10-8", "emma-cifar10")} == {"zero"}
    tiny = RECIPES["linf-plus-tiny-imagenet-1"]
    assert (tiny.dataset, tiny.sides, tiny.epochs, tiny.optimizer.lr) == ("tiny-imagenet@56/64", (64, 64), 500, 0.04)
    assert tiny.method.epsilon * tiny.method.overshoot == pytest.approx(0.005)


def test_splitz_ends_at_the_published_weight_and_other_cuts_are_said_to_be_ours() -> None:
    for sigma in ("0.25", "0.50", "1.00"):
        assert RECIPES[f"splitz-mnist-{sigma}"].method.weight == 0.7
        assert RECIPES[f"splitz-mnist-{sigma}"].arch == "lenet@conv1"
        assert RECIPES[f"splitz-pool1-mnist-{sigma}"].arch == "lenet@pool1"
        assert RECIPES[f"splitz-front-mnist-{sigma}"].arch == "front-lenet@front"
        assert RECIPES[f"splitz-smoothmix-mnist-{sigma}"].method.weight == 0.7
        assert RECIPES[f"splitz-front-smoothmix-mnist-{sigma}"].method.weight == 0.3
    for name in ("splitz-pool1", "splitz-front"):
        assert f"`{name}-...`" in (splitz.__doc__ or "").partition("Ours")[2]


def test_every_recipe_names_an_architecture_and_a_data_set_that_are_known() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.arch.partition("@")[0] in ARCHITECTURES, name
        assert recipe.dataset in SHAPES, name
