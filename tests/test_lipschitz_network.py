"""Lipschitz networks: estimates for training, constants for certificates, architectures and recipes."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast import certify, data, load
from holdfast.bounds import l2
from holdfast.bounds.tightness import tightness
from holdfast.certifiers.margin import Margin
from holdfast.cli import main
from holdfast.core.recipe import DataInfo
from holdfast.core.registry import RECIPES
from holdfast.formats.opened import architecture
from holdfast.nn import zoo
from holdfast.nn.lipschitz import (
    LinearResidualBlock,
    LipschitzNet,
    MinMax,
    Residual,
    lipschitz_bound,
    materialise,
    orthogonal,
    unit_rows,
)
from holdfast.nn.lipschitz.network import PowerIteration
from holdfast.nn.stored import captured
from holdfast.program import capture
from holdfast.report.published import find, published
from holdfast.report.summary import summarise
from holdfast.runs.records import read_records
from holdfast.training.launch import Machine
from holdfast.training.loop import train

SHAPE = (2, 6, 6)


def network(steps: int = 300) -> LipschitzNet:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(2, 8, 4, 2, 1),
        MinMax(),
        LinearResidualBlock(8, 1),
        MinMax(),
        Residual(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())),
        nn.Flatten(),
        orthogonal(nn.Linear(72, 10)),
        MinMax(),
        nn.Linear(10, 6),
    )
    return LipschitzNet(body, unit_rows(6, 4), SHAPE, steps=steps)


def info(shape: tuple[int, int, int], classes: int) -> DataInfo:
    return DataInfo("images", shape, classes, (0.0,) * shape[0], (1.0,) * shape[0])


def test_the_converged_estimate_approaches_the_proven_bound_from_below() -> None:
    """The orthogonal layer is taken as 1, a little more than it is."""
    model = network().eval()
    estimate, bound = model.norm_estimate().item(), lipschitz_bound(model.body, SHAPE)
    orthogonal_norm = lipschitz_bound(model.body[6], (72,))
    assert estimate * orthogonal_norm <= bound * (1 + 1e-6)
    assert estimate * orthogonal_norm >= bound * 0.97
    assert network(steps=1).eval().norm_estimate().item() < 0.98 * bound


def test_the_gradient_of_a_norm_is_that_of_the_singular_value() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    power = PowerIteration((4,), 500).double()
    (ours,) = torch.autograd.grad(power(nn.functional.linear, weight), weight)
    (exact,) = torch.autograd.grad(torch.linalg.matrix_norm(weight, 2), weight)
    assert torch.allclose(ours, exact, atol=1e-9)


def test_power_iteration_goes_on_where_it_was_and_starts_anew_with_training_mode() -> None:
    torch.manual_seed(0)
    power, weight = PowerIteration((20,), 2).double(), torch.randn(20, 20, dtype=torch.float64)
    values = [power(nn.functional.linear, weight).item() for _ in range(30)]
    assert values == sorted(values)
    power.train()
    assert power(nn.functional.linear, weight).item() < values[-1]
    assert not power.state_dict()


def test_estimates_and_constants_agree_entry_by_entry() -> None:
    model = network().eval()
    estimates = model.difference_estimates().detach().double()
    constants = l2.difference_constants(capture(model, SHAPE))
    off = ~torch.eye(4, dtype=torch.bool)
    assert torch.equal(constants, constants.T)
    assert (constants[off] / estimates[off]).max() < 1.03, "the last layer and the head are proven as one matrix"


def test_no_pair_of_images_is_further_apart_than_the_constants() -> None:
    program = capture(network().eval(), SHAPE)
    model = program.module(torch.float64)
    torch.manual_seed(1)
    x = torch.rand(200, *SHAPE, dtype=torch.float64)
    y = x + torch.randn_like(x) * 10.0 ** -torch.arange(200).remainder(6).view(-1, 1, 1, 1)
    jump = (model(x) - model(y))[:, :, None] - (model(x) - model(y))[:, None]
    distance = torch.linalg.vector_norm((x - y).flatten(1), dim=1).view(-1, 1, 1)
    assert (jump.abs() <= l2.difference_constants(program) * distance + l2.difference_errors(program)).all()


def test_the_bound_of_the_whole_network_is_that_of_its_logits() -> None:
    model = network().eval()
    assert (
        lipschitz_bound(model, SHAPE) <= lipschitz_bound(model.body, SHAPE) * lipschitz_bound(model.head, (6,)) * 1.01
    )
    with pytest.raises(ValueError, match="its Lipschitz constant are for images"):
        lipschitz_bound(model, (2, 7, 7))


def test_the_lower_bound_from_pairs_stays_under_the_upper_and_comes_close() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), MinMax(), nn.Flatten(), nn.Linear(144, 10))
    model = LipschitzNet(body, unit_rows(10, 3), SHAPE).eval()
    found = tightness(captured(model, SHAPE), torch.rand(4, *SHAPE), steps=200)
    assert found.layers.keys() == {"0", "1"}
    assert 0.3 * found.upper <= found.lower <= found.upper
    linear = LipschitzNet(nn.Sequential(nn.Flatten(), nn.Linear(72, 8), MinMax()), unit_rows(8, 3), SHAPE).eval()
    exact = tightness(captured(linear, SHAPE), torch.rand(4, *SHAPE), steps=400)
    assert 0.99 * exact.upper <= exact.lower <= exact.upper
    assert 0.99 * exact.upper <= exact.power_iteration <= exact.upper


def test_a_factor_has_the_name_of_the_module_with_most_of_its_weights() -> None:
    """The normalisation in front of the first convolution is bounded together with it."""
    model = zoo.build("liresnet-2x32", DataInfo("cifar10", (3, 8, 8), 10, (0.5,) * 3, (0.2,) * 3)).eval()
    found = tightness(captured(model, (3, 8, 8)), torch.rand(2, 3, 8, 8), steps=1)
    assert [name for name in found.layers if "minmax" not in name][:2] == ["stem", "block1.conv"]


def test_certifying_explains_the_bound_for_the_report(tmp_path: Path) -> None:
    """The numbers of the report, by hand: the same margins over another constant."""
    runs = ["--runs", str(tmp_path)]
    main(["train", "gloro-digits-0.3", "--epochs", "3", "--accelerator", "cpu", *runs])
    (run,) = tmp_path.glob("gloro-*")
    main(["certify", str(run), "--device", "cpu", "--limit", "100"])
    (folder,) = run.glob("certify-*")
    explanation = json.loads((folder / "explanation.json").read_text())
    upper, claimed = explanation["upper"], explanation["upper"] / 2
    assert upper == pytest.approx(lipschitz_bound(architecture(run).body, (1, 8, 8)), rel=1e-12)  # pyright: ignore
    assert explanation["lower"] <= upper
    assert 0.97 * upper <= explanation["power_iteration"] <= upper
    (folder / "explanation.json").write_text(json.dumps(explanation | {"power_iteration": claimed}))
    bounds, claims = summarise([folder], radii=[0.1, 0.3]).tables[-2:]
    assert {"conv1", "conv2", "dense1"} <= {row[0] for row in bounds.rows}
    records = read_records(folder)
    for (_, proven, claim, _), at in zip(claims.rows, (0.1, 0.3), strict=True):
        assert float(proven) == sum(r.correct and r.certificate.radius >= at for r in records)
        assert float(claim) == sum(r.correct and r.certificate.radius * upper / claimed >= at for r in records)


def test_layers_without_an_estimate_are_refused() -> None:
    with pytest.raises(ValueError, match="no estimate of the norm of 0, a BatchNorm2d"):
        LipschitzNet(nn.Sequential(nn.BatchNorm2d(2), nn.Flatten()), unit_rows(72, 3), SHAPE)
    normalized = nn.LayerNorm(72, elementwise_affine=False)
    with pytest.raises(ValueError, match=r"no proof for aten\.layer_norm"):
        LipschitzNet(nn.Sequential(nn.Flatten(), normalized), unit_rows(72, 3), SHAPE)


def test_layers_without_weights_are_estimated_by_their_proven_constant() -> None:
    body = nn.Sequential(nn.AvgPool2d(2), nn.LeakyReLU(3.0), nn.GELU(), nn.Flatten())
    model = LipschitzNet(body, unit_rows(18, 3), SHAPE).eval()
    assert model.norm_estimate().item() == pytest.approx(0.5 * 3 * 1.128905, rel=1e-6)


@pytest.mark.parametrize(
    ("arch", "shape", "classes", "millions"),
    [
        ("gloro-2c2f", (1, 28, 28), 10, 0.17),
        ("gloro-4c3f", (1, 28, 28), 10, 1.97),
        ("gloro-6c2f", (3, 32, 32), 10, 2.25),
        ("gloro-mlp-8x128", (1, 28, 28), 10, 0.22),
        ("liresnet-small", (3, 32, 32), 10, 0.82),
        ("liresnet-12x512", (3, 32, 32), 10, 82.9),
        ("liresnet-12x512", (3, 64, 64), 200, 133.7),
        ("liresnet-12x588", (3, 224, 224), 1000, 98.1),
        ("liresnet-2023-12x512", (3, 32, 32), 10, 49.4),
        ("liresnet-2023-18x256", (3, 32, 32), 10, 16.9),
        ("liresnet-2023-8x588", (3, 224, 224), 1000, 52.1),
        ("liresnet-2023-18x588", (3, 224, 224), 1000, 108.0),
    ],
)
def test_architectures_have_the_published_sizes(
    arch: str, shape: tuple[int, int, int], classes: int, millions: float
) -> None:
    with torch.device("meta"):
        model = zoo.build(arch, info(shape, classes))
    found = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert found == pytest.approx(millions, abs=0.05 if millions > 10 else 0.005)


def test_published_rows_stand_beside_the_recipes_that_reproduce_them() -> None:
    """The settings by which a report matches a run are those of the published row."""
    for name, arch, percent in (
        ("gloro-mnist-0.3", "gloro-relu-2c2f", {0.3: 95.7}),
        ("gloro-mnist-1.58", "gloro-relu-4c3f", {1.58: 62.8}),
        ("emma-cifar10-small", "liresnet-small", {36 / 255: 51.0}),
        ("emma-cifar10", "liresnet-12x512", {36 / 255: 69.8}),
        ("emma-imagenet", "liresnet-12x588", {36 / 255: 38.3}),
    ):
        recipe = RECIPES[name]
        assert recipe.arch == arch
        rows = find(published(), type(recipe.method).__name__, recipe.dataset, arch, "l2")
        (radius,) = percent
        assert percent[radius] in [row.accuracy.get(radius) for row in rows], name


@pytest.mark.parametrize("name", ["gloro-digits-0.3", "emma-digits"])
def test_a_recipe_learns_to_be_certified(name: str, tmp_path: Path) -> None:
    recipe = replace(RECIPES[name], epochs=4)
    run = train(recipe, name, tmp_path, Machine(accelerator="cpu"))
    test = data.load("digits", "test")
    found = certify(load(run), test.pixels(slice(0, 200)), Margin())
    labels = test.labels[:200].tolist()
    robust = sum(c.prediction == label and c.radius > 0.1 for c, label in zip(found, labels, strict=True))
    assert robust > 80


def test_a_copy_in_training_mode_shares_nothing_with_the_original() -> None:
    model = network()
    copied = copy.deepcopy(model)
    materialise(model.eval())
    assert torch.equal(copied.eval()(torch.ones(1, *SHAPE)), model(torch.ones(1, *SHAPE)))
