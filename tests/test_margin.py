"""The margin certifier: ties, poison, rescaling, and attacks on what it certified."""

import math

import pytest
import torch
from torch import Tensor, nn

from holdfast import certify
from holdfast.attacks.pgd import inside
from holdfast.certification.precision import in_precision
from holdfast.certifiers.margin import Margin
from holdfast.core.certifier import Seed
from holdfast.core.threat import l2
from holdfast.nn.lipschitz import LinearResidualBlock, LipschitzNet, MinMax, Shift, materialise, orthogonal, unit_rows

SHAPE = (1, 6, 6)


class Linear(nn.Module):
    """Logits W x + b, whose distance to every boundary is known, with exact constants."""

    def __init__(self, weight: Tensor, bias: Tensor, norm: str = "l2") -> None:
        super().__init__()
        self.norm = norm
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def difference_constants(self) -> Tensor:
        dual = {"l2": 2, "linf": 1, "l1": math.inf}[self.norm]
        differences = self.weight.detach().double()[:, None] - self.weight.detach().double()[None]
        return torch.linalg.vector_norm(differences, ord=dual, dim=2) * (1 + 1e-12)

    def difference_errors(self) -> Tensor:
        """Of dot products at their worst, for images of numbers up to 2, at two images."""
        logits = 2 * self.weight.detach().double().abs().sum(1) + self.bias.detach().double().abs()
        return 2 * 48 * 2**-53 * (logits[:, None] + logits)


class Fixed(nn.Module):
    """The same logits for every image; constants 1."""

    norm = "l2"

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits, dtype=torch.float64))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.get_buffer("logits").to(x.dtype).expand(len(x), -1)

    def difference_constants(self) -> Tensor:
        return 1 - torch.eye(len(self.get_buffer("logits")), dtype=torch.float64)

    def difference_errors(self) -> Tensor:
        """Nothing is computed."""
        return torch.zeros_like(self.difference_constants())


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


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_the_radius_of_a_linear_classifier_is_its_distance(norm: str) -> None:
    torch.manual_seed(0)
    model = Linear(torch.randn(4, 36), torch.randn(4), norm)
    dual = {"l2": 2, "linf": 1, "l1": math.inf}[norm]
    logits = model.double()(images(20).double()).detach()
    for row, certificate in enumerate(certify(model.float(), images(20), Margin())):
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
        (math.nan, 0.0),
        (0.0, math.nan, 1.0),
        (math.inf, 0.0),
        (0.0, -math.inf),
    ],
)
def test_ties_and_infinite_logits_are_never_certified(logits: tuple[float, ...]) -> None:
    (certificate,) = certify(Fixed(*logits), images(1), Margin())
    assert certificate.prediction is None
    assert certificate.radius == 0


def test_a_constant_classifier_reaches_across_the_pixel_cube_and_no_further() -> None:
    model = Linear(torch.zeros(2, 36), torch.tensor([0.0, 1.0]))
    (certificate,) = certify(model, images(1), Margin())
    assert certificate.prediction == 1
    assert certificate.radius == 6


@pytest.mark.parametrize("name", ["difference_constants", "difference_errors"])
def test_constants_and_errors_that_are_not_a_number_are_refused(name: str) -> None:
    model = Fixed(0.0, 1.0)
    setattr(model, name, lambda: torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match=rf"{name}\(\) must return numbers >= 0"):
        certify(model, images(2), Margin())


def test_a_misspelt_bound_on_the_rounding_error_is_not_taken_for_zero() -> None:
    class Misspelt(Fixed):
        difference_errors = None  # pyright: ignore[reportAssignmentType]
        diference_errors = Fixed.difference_errors

    with pytest.raises(ValueError, match="difference_errors"):
        certify(Misspelt(0.0, 1.0), images(1), Margin())


class Rounded(Fixed):
    """It states a rounding error of 1/4."""

    def difference_errors(self) -> Tensor:
        return torch.full((2, 2), 0.25)


def test_stated_rounding_errors_are_subtracted() -> None:
    (certificate,) = certify(Rounded(0.0, 1.0), images(1), Margin())
    assert 0.75 * (1 - 1e-12) <= certificate.radius <= 0.75


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


def test_a_model_with_hooks_is_refused() -> None:
    model = network()
    model.body[0].register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match="forward hooks"):
        certify(model, images(1), Margin())


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


@pytest.mark.parametrize(
    "wrap", [lambda m: in_precision(m, "64-true"), lambda m: nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()]
)
def test_a_classifier_without_proven_constants_is_refused(wrap) -> None:
    with pytest.raises(ValueError, match="margin needs a classifier with proven constants"):
        certify(wrap(network()), images(1), Margin())


def test_images_of_another_size_and_training_mode_are_refused() -> None:
    with pytest.raises(ValueError, match=r"are for images \(1, 6, 6\), got \(1, 6, 7\)"):
        certify(network(), torch.rand(1, 1, 6, 7), Margin())
    with pytest.raises(ValueError, match="training mode"):
        certify(network().train(), images(1), Margin())
    with pytest.raises(ValueError, match="training mode"):
        list(Margin().certify_batch(network().train(), images(1), [Seed(0, 0)], 1))
