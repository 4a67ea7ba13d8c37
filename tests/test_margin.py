"""The margin certifier: ties, poison, rescaling, and attacks on what it certified."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from holdfast import certify
from holdfast.attacks import inside
from holdfast.certification.runtime import in_precision
from holdfast.certifiers.margin import Margin
from holdfast.core.certifier import Seed
from holdfast.core.threat import l2
from holdfast.nn.lipschitz import LinearResidualBlock, LipschitzNet, MinMax, Shift, materialise, orthogonal, unit_rows

SHAPE = (1, 6, 6)


class Linear(nn.Module):
    """Logits W x + b, whose distance to every boundary is known."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


class Fixed(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits, dtype=torch.float64))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.get_buffer("logits").to(x.dtype) + 0 * x.flatten(1)[:, :1]


def images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> LipschitzNet:
    torch.manual_seed(seed)
    body = nn.Sequential(
        Shift(-0.5),
        nn.Conv2d(1, 8, 3, padding=1),
        MinMax(),
        LinearResidualBlock(8, 1),
        MinMax(),
        nn.Flatten(),
        orthogonal(nn.Linear(288, 12)),
        MinMax(),
    )
    return LipschitzNet(body, unit_rows(12, 3), SHAPE).eval()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_radius_of_a_linear_classifier_is_its_distance(norm: Literal["l2", "linf"]) -> None:
    torch.manual_seed(0)
    model = Linear(torch.randn(4, 36), torch.randn(4))
    dual = {"l2": 2, "linf": 1}[norm]
    logits = model.double()(images(20).double()).detach()
    for row, certificate in enumerate(certify(model.float(), images(20), Margin(threat=norm))):
        top = int(logits[row].argmax())
        rivals = [i for i in range(4) if i != top]
        weight = model.weight.detach().double()
        distance = min(
            float((logits[row, top] - logits[row, i]) / torch.linalg.vector_norm(weight[top] - weight[i], ord=dual))
            for i in rivals
        )
        assert certificate.prediction == top
        assert certificate.norm == norm
        assert certificate.confidence == 1.0
        assert distance * (1 - 1e-9) <= certificate.radius <= distance


def test_the_radius_follows_from_the_evidence() -> None:
    for certificate in certify(network(), images(10), Margin()):
        found = certificate.evidence
        assert certificate.radius <= (found["margin"] - found["error"]) / found["constant"]
        assert certificate.radius == pytest.approx((found["margin"] - found["error"]) / found["constant"], rel=1e-12)


@pytest.mark.parametrize(
    "logits",
    [
        (0.0, 0.0),
        (1.0, 1.0, 0.0),
        (0.0, 1.0, 1.0),
    ],
)
def test_ties_are_never_certified(logits: tuple[float, ...]) -> None:
    (certificate,) = certify(Fixed(*logits), images(1), Margin())
    assert certificate.prediction is None
    assert certificate.radius == 0


@pytest.mark.parametrize("logits", [(math.nan, 0.0), (0.0, math.nan, 1.0), (math.inf, 0.0), (0.0, -math.inf)])
def test_logits_that_are_never_finite_are_refused(logits: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="inf or NaN"):
        certify(Fixed(*logits), images(1), Margin())


def test_constants_beyond_float64_are_refused_in_words() -> None:
    weight = torch.zeros(2, 36, dtype=torch.float64)
    weight[0, :3] = 1e308
    with pytest.raises(ValueError, match="nothing is proven"):
        certify(Linear(weight, torch.zeros(2, dtype=torch.float64)), images(1).double(), Margin())


def test_a_constant_classifier_reaches_across_the_pixel_cube_and_no_further() -> None:
    model = Linear(torch.zeros(2, 36), torch.tensor([0.0, 1.0]))
    (certificate,) = certify(model, images(1), Margin())
    assert certificate.prediction == 1
    assert certificate.radius == 6


def test_weights_that_are_not_a_number_prove_nothing() -> None:
    model = Linear(torch.full((2, 36), math.nan), torch.zeros(2))
    with pytest.raises(ValueError, match="inf or NaN"):
        certify(model, images(2), Margin())


class Stated(Linear):
    """It states constants and errors of 0."""

    norm = "l2"

    def difference_constants(self) -> Tensor:
        return torch.zeros(2, 2, dtype=torch.float64)

    difference_errors = difference_constants


def test_constants_that_a_network_states_are_not_believed() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 36), torch.randn(2)
    stated, plain = (certify(kind(weight, bias), images(4), Margin()) for kind in (Stated, Linear))
    assert [c.radius for c in stated] == [c.radius for c in plain]


def test_a_poisoned_vector_of_power_iteration_changes_no_certificate() -> None:
    model = network()
    before = certify(model, images(5), Margin())
    for part in model.power.values():
        part.vector.zero_()  # pyright: ignore
    assert certify(model, images(5), Margin()) == before
    assert not any("vector" in key for key in model.state_dict())


def test_new_weights_of_an_eval_model_are_the_ones_that_are_certified() -> None:
    model, other = network(0), network(1)
    certify(model, images(5), Margin())
    model.load_state_dict(other.state_dict())
    assert certify(model, images(5), Margin()) == certify(other, images(5), Margin())
    with torch.no_grad():
        model.body[1].weight.mul_(4)  # pyright: ignore
    stretched = certify(model, images(5), Margin())
    assert stretched[0].evidence["constant"] > 3 * certify(other, images(5), Margin())[0].evidence["constant"]
    assert stretched[0].evidence["program"] != certify(other, images(5), Margin())[0].evidence["program"]


@pytest.mark.parametrize("exponent", [-60, -100, 60])
def test_layers_scaled_up_and_down_keep_the_certificates(exponent: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()]
    model = LipschitzNet(nn.Sequential(*layers), nn.Linear(8, 3), SHAPE).eval()
    before = certify(model, images(20), Margin())
    with torch.no_grad():
        model.body[1].weight.mul_(2.0**exponent)  # pyright: ignore
        model.body[1].bias.mul_(2.0**exponent)  # pyright: ignore
        model.body[3].weight.mul_(2.0**-exponent)  # pyright: ignore
    after = certify(model, images(20), Margin())
    assert [c.prediction for c in before] == [c.prediction for c in after]
    assert [c.radius for c in before] == pytest.approx([c.radius for c in after], rel=1e-6)


def test_certificates_are_computed_in_float64_from_the_plain_weights() -> None:
    model, x = network(), images(20)
    exact, rough = materialise(model)(x.double()), model(x).detach().double()
    for row, certificate in enumerate(certify(model, x, Margin())):
        pair = [certificate.prediction, certificate.evidence["rival"]]
        assert certificate.evidence["margin"] == pytest.approx(
            float(exact[row, pair[0]] - exact[row, pair[1]]), abs=1e-14
        )
    assert (exact - rough).abs().max() > 1e-9


def test_a_hook_is_part_of_what_is_proven() -> None:
    plain, model = network(), network()
    model.body[1].register_forward_hook(lambda module, inputs, output: output.mul(4))
    without, found = (certify(one, images(5), Margin()) for one in (plain, model))
    for one, other in zip(without, found, strict=True):
        if one.evidence["rival"] == other.evidence["rival"]:
            assert other.evidence["constant"] == pytest.approx(one.evidence["constant"] * 4.0, rel=1e-6)
        assert one.evidence["program"] != other.evidence["program"]


def test_gradient_ascent_inside_the_radius_changes_no_prediction_and_outside_it_does() -> None:
    model, x = network(), images(60)
    found = certify(model, x, Margin())
    kept = [row for row, certificate in enumerate(found) if certificate.prediction is not None]
    radii = torch.tensor([found[row].radius for row in kept], dtype=torch.float64)
    predictions = torch.tensor([found[row].prediction for row in kept])
    assert len(kept) > 50
    plain, images64 = materialise(model), x[kept].double()
    attacked = inside(plain, images64, predictions, l2, radii)
    distances = torch.linalg.vector_norm((attacked - images64).flatten(1), dim=1)
    assert (distances <= radii).all()
    assert (distances >= 0.99 * radii).all(), "the attack uses the whole ball"
    assert torch.equal(plain(attacked).argmax(1), predictions)
    beyond = inside(plain, images64, predictions, l2, 6 * radii)
    assert (plain(beyond).argmax(1) != predictions).float().mean() > 0.3


def test_an_operation_without_a_bound_is_refused_by_name_and_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(36), nn.Linear(36, 2)).eval()
    with pytest.raises(ValueError, match=r"no proof for aten.layer_norm.default in 1"):
        certify(model, images(1), Margin())


def test_float64_is_certified_as_float32_is_and_fewer_bits_are_refused() -> None:
    plain, double = (certify(one, images(3), Margin()) for one in (network(), in_precision(network(), "64-true")))
    assert [c.radius for c in plain] == pytest.approx([c.radius for c in double], rel=1e-6)
    with pytest.raises(ValueError, match="computes in bfloat16"):
        certify(in_precision(network(), "bf16-true"), images(1), Margin())


def test_images_of_another_size_and_training_mode_are_refused() -> None:
    with pytest.raises(ValueError, match=r"are for images \(1, 6, 6\), got \(1, 6, 7\)"):
        certify(network(), torch.rand(1, 1, 6, 7), Margin())
    with pytest.raises(ValueError, match="training mode"):
        certify(network().train(), images(1), Margin())
    with pytest.raises(ValueError, match="training mode"):
        list(Margin().certify_batch(network().train(), images(1), [Seed(0, 0)], 1))


class Normalized(nn.Module):
    """`norm` is its layer, as in many networks."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), nn.Linear(9, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x).flatten(1))


def test_a_layer_that_is_called_norm_names_no_norm() -> None:
    torch.manual_seed(0)
    (found,) = certify(Normalized().eval(), torch.rand(1, 1, 3, 3), Margin())
    assert found.norm == "l2"
    assert found.radius > 0
