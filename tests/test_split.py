"""SPLITZ: the soundness checklist, point by point, and what can be wrong with what a user asks for."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from test_local_bound import furthest
from torch import Tensor, nn

from holdfast import SmoothedClassifier, SplitClassifier, certify
from holdfast.bounds import local
from holdfast.bounds.local import local_bound
from holdfast.bounds.steps import Steps
from holdfast.certification.smoothed import ABSTAIN
from holdfast.certifiers.adaptive import Adaptive
from holdfast.certifiers.at_radius import AtRadius
from holdfast.certifiers.betting import Betting
from holdfast.certifiers.gaussian import Gaussian
from holdfast.certifiers.margin import Margin
from holdfast.certifiers.split import Halves, Split
from holdfast.core.certificate import Record
from holdfast.core.recipe import DataInfo
from holdfast.methods.gaussian import GaussianNoise
from holdfast.methods.splitz import Splitz
from holdfast.nn import zoo
from holdfast.nn.lipschitz import Residual
from holdfast.nn.lipschitz.layers import ClippedReLU
from holdfast.nn.lipschitz.local import local_constants
from holdfast.nn.normalize import Normalize
from holdfast.nn.split import Part
from holdfast.program import capture
from holdfast.report.curve import Curve
from holdfast.report.tables import halves
from holdfast.smoothing.evidence import FixedVotes, SamplingEvidence

SHAPE = (2, 6, 6)


def images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def confident(features: int) -> nn.Module:
    """A right half that is rather sure of one of two classes."""
    torch.manual_seed(4)
    head = nn.Linear(features, 2)
    head.bias.data = torch.tensor([1.0, -1.0])
    return nn.Sequential(nn.Flatten(), head)


def in_two(*layers: nn.Module, features: int, seed: int = 0) -> SplitClassifier:
    torch.manual_seed(seed)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return SplitClassifier(nn.Sequential(*layers), confident(features)).double().eval()


def clipped() -> SplitClassifier:
    return in_two(nn.Conv2d(2, 3, 3), ClippedReLU(0.4), features=48)


INNER = Gaussian(sigma=0.5, n=2000, alpha=0.01)


class TestSoundness:
    """The points of the checklist, in its order."""

    @pytest.mark.parametrize("form", ["reach", "ratio"])
    def test_1_no_search_in_the_certified_ball_moves_the_features_by_their_radius_and_beyond_it_one_does(
        self, form
    ) -> None:
        model, x = clipped(), images(4)
        for image, certificate in zip(x, certify(model, x, Split(INNER, form), seed=0), strict=True):
            assert certificate.radius > 0
            inside, beyond = (furthest(model.left, image[None], scale * certificate.radius).item() for scale in (1, 2))
            assert inside < certificate.evidence["feature_radius"] < beyond

    @pytest.mark.parametrize("form", ["reach", "ratio"])
    def test_1_the_bound_that_is_told_is_that_of_the_radius_itself(self, form) -> None:
        model, x = clipped(), images(3)
        split, halves = Split(INNER, form), Halves.of(model, x)
        by_constant = 0.3 / halves.everywhere.norm
        for image in x:
            gamma, bound = split._radius(halves, image, 0.3)
            assert gamma > 1.01 * by_constant
            assert split._bound(halves, image, gamma) == bound < 0.3

    @pytest.mark.parametrize(
        ("layer", "constant"),
        [
            (Normalize((0.3, 0.5), (0.25, 0.5)), 4.0),
            (nn.AvgPool2d(2), 0.5),
            (nn.MaxPool2d(3, 1), 3.0),
            (Residual(nn.Identity()), 2.0),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_2_everything_before_the_noise_counts(self, layer: nn.Module, constant: float) -> None:
        """The largest radius is the feature radius over the constant of the layer, known by hand."""
        features = layer(torch.zeros(1, *SHAPE)).numel()
        for certificate in certify(in_two(layer, features=features), images(2), Split(INNER), seed=0):
            expected = certificate.evidence["feature_radius"] / constant
            assert certificate.radius == pytest.approx(expected, rel=1e-4)
            assert certificate.radius < expected

    def test_2_batch_norm_counts_with_its_running_statistics(self) -> None:
        layer = nn.BatchNorm2d(2, eps=0.0)
        layer.running_var, layer.weight.data = torch.tensor([0.04, 1.0]), torch.tensor([1.0, 3.0])
        (certificate,) = certify(in_two(layer, features=72), images(1), Split(INNER), seed=0)
        assert certificate.radius == pytest.approx(certificate.evidence["feature_radius"] / 5, rel=1e-4)
        model = in_two(layer, features=72).train()
        with pytest.raises(ValueError, match="training mode"):
            certify(model, images(1), Split(INNER), seed=0)

    def test_3_norms_are_upper_bounds_not_what_power_iteration_finds(self) -> None:
        """Two singular values that nearly agree: power iteration stops between them."""
        conv = nn.Conv2d(2, 2, 1, bias=False)
        model = in_two(conv, features=72)
        conv.weight.data = torch.diag(torch.tensor([1.0, 1.0 + 2**-7])).view(2, 2, 1, 1).double()
        (certificate,) = certify(model, images(1), Split(INNER), seed=0)
        assert certificate.radius < certificate.evidence["feature_radius"] / (1 + 2**-7)

    def test_4_what_is_not_a_number_never_counts_as_no_perturbation(self) -> None:
        model = clipped()
        model.left[0].bias.data[0] = torch.nan  # pyright: ignore
        with pytest.raises(ValueError, match="a weight is inf or NaN, so that nothing is proven"):
            certify(model, images(2), Split(INNER), seed=0)
        model = clipped()
        model.right[1].bias.data[0] = torch.nan  # pyright: ignore
        found = certify(model, images(2), Split(INNER), seed=0)
        assert all(c.prediction is None and c.radius == 0 for c in found)
        assert all(json.dumps(dict(c.evidence), allow_nan=False) for c in found)

    def test_5_the_noise_is_on_the_features_and_the_radius_in_pixels(self) -> None:
        """The inner certificate is that of the right half alone, with the features in place of images."""
        model, x = in_two(nn.AvgPool2d(2), features=18), images(2)
        plain = certify(model.right, model.features(x), INNER, seed=0)
        for whole, part in zip(certify(model, x, Split(INNER), seed=0), plain, strict=True):
            assert whole.evidence["inner"]["votes"] == part.evidence["votes"]
            assert whole.evidence["feature_radius"] == part.radius
            assert whole.radius > 1.9 * part.radius

    def test_6_the_radius_is_the_lower_end_of_the_bisection(self) -> None:
        model, x = clipped(), images(3)
        left = Steps(capture(model.left, SHAPE))
        found = [certify(model, x, Split(INNER, bisections=steps), seed=0) for steps in (0, 3, 12)]
        for image, coarse, finer, finest in zip(x, *found, strict=True):
            assert coarse.radius <= finer.radius <= finest.radius
            beyond = local_bound(left, image[None], 1.01 * finest.radius)
            assert beyond.reach.item() > 0.999 * finest.evidence["feature_radius"]

    def test_7_the_reach_proves_at_least_what_the_ratio_does(self) -> None:
        model, x = clipped(), images(5)
        reach, ratio = (certify(model, x, Split(INNER, form), seed=0) for form in ("reach", "ratio"))
        assert all(a.radius >= b.radius * (1 - 1e-3) for a, b in zip(reach, ratio, strict=True))
        assert all(b.radius >= b.evidence["feature_radius"] / b.evidence["global_constant"] * 0.999 for b in ratio)

    @pytest.mark.parametrize("scale", [0.25, 3.0])
    def test_8_an_orthogonal_left_half_is_plain_smoothing_with_the_noise_divided(self, scale: float) -> None:
        rotation = torch.linalg.qr(torch.randn(72, 72, dtype=torch.float64))[0]
        turn = nn.Linear(72, 72, bias=False).double()
        turn.weight.data = scale * rotation
        back = nn.Linear(72, 72, bias=False).double()
        back.weight.data = rotation.T / scale
        right = confident(72).double()
        model = SplitClassifier(nn.Sequential(nn.Flatten(), turn), nn.Sequential(back, right)).eval()
        split = certify(model, images(2), Split(Gaussian(sigma=0.5, n=2000)), seed=0)
        for certificate in split:
            sigma = 0.5 / scale
            votes = FixedVotes.from_dict(certificate.evidence["inner"])
            expected = sigma * norm.ppf(votes.p_lower)
            assert certificate.radius == pytest.approx(expected, rel=1e-9)
            assert certificate.radius <= expected


def test_an_empty_left_half_is_plain_smoothing() -> None:
    right = confident(72).double().eval()
    split = certify(SplitClassifier(nn.Sequential(), right).eval(), images(3), Split(INNER), seed=0)
    for one, other in zip(split, certify(right, images(3), INNER, seed=0), strict=True):
        assert one.prediction == other.prediction
        assert one.evidence["inner"]["votes"] == other.evidence["votes"]
        assert one.radius == pytest.approx(other.radius, rel=1e-9)
        assert one.radius <= other.radius


@pytest.mark.parametrize(
    "inner",
    [
        INNER,
        Gaussian(sigma=0.5, n=1000, two_class=True),
        Adaptive(sigma=0.5, n_max=2000),
        AtRadius(sigma=0.5, r=(0.1, 0.5), n_max=2000),
        Betting(sigma=0.5, n_max=2000),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_every_sampling_certifier_serves_the_right_half(inner) -> None:
    (certificate,) = certify(clipped(), images(1), Split(inner), seed=0)
    assert certificate.radius > 0
    assert certificate.confidence == 1 - inner.alpha
    evidence = certificate.evidence
    assert {"inner", "feature_radius", "gamma", "local_bound", "form"} <= evidence.keys()
    assert SamplingEvidence.from_dict(evidence["inner"]).claim().radius == evidence["feature_radius"]


class Counting(nn.Module):
    """Counts the images that go through it."""

    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.rows += len(x)
        return x


def test_the_left_half_runs_as_often_for_many_samples_as_for_few() -> None:
    rows = []
    for n in (100, 2000):
        Counting.rows = 0
        certify(in_two(Counting(), features=72), images(3), Split(Gaussian(sigma=0.5, n=n), bisections=0), seed=0)
        rows.append(Counting.rows)
    assert rows[0] == rows[1]


def balanced(x: Tensor) -> SplitClassifier:
    """Its two classes are as good as equal at the mean of these images."""
    model = clipped()
    head = model.right[1]  # pyright: ignore
    head.bias.data = -head(model.left(x).flatten(1)).mean(0).detach() + head.bias.detach()
    return model


def attacked(model: SplitClassifier, x: Tensor, predictions: Tensor, radii: Tensor, sigma: float) -> Tensor:
    """Images in [0, 1] within the radii, by gradient descent on the smoothed probability of the predicted class."""
    noise = sigma * torch.randn(32, *model.features(x).shape, dtype=x.dtype, generator=torch.Generator().manual_seed(7))
    shift = 1e-3 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(8))
    radius = radii.view(-1, 1, 1, 1)
    for _ in range(20):
        shift.requires_grad_()
        logits = model((model(x + shift, "left") + noise).flatten(0, 1), "right").unflatten(0, noise.shape[:2])
        chosen = logits.softmax(-1).mean(0).gather(1, predictions[:, None])
        (gradient,) = torch.autograd.grad(chosen.clamp(min=1e-30).log().sum(), shift)
        step = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        shift = (shift - 0.3 * radius * step).detach()
        length = shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        shift = shift * (0.999 * radius / length).clamp(max=1)
    return (x + shift).clamp(0, 1)


def flips(model: SplitClassifier, x: Tensor, split: Split, factor: float = 1.0) -> tuple[int, int]:
    """(how many predictions an attack within factor * radius changes, of how many certified ones)."""
    found = certify(model, x, split, seed=0)
    kept = [row for row, c in enumerate(found) if c.radius > 0]
    predictions = torch.tensor([found[row].prediction for row in kept])
    radii = torch.tensor([factor * found[row].radius for row in kept], dtype=x.dtype)
    adversaries = attacked(model, x[kept], predictions, radii, split.inner.sigma).clamp(0, 1)  # only nearer
    judged = SmoothedClassifier(model, split).predict(adversaries)
    return int(((judged != ABSTAIN) & (judged != predictions)).sum()), len(kept)


def test_an_attack_inside_the_radius_flips_no_more_than_alpha_allows() -> None:
    model, x, split = balanced(images(100)), images(100), Split(Gaussian(sigma=0.1, n=2000, alpha=0.01), bisections=4)
    wrong, certified = flips(model, x, split)
    assert certified > 50
    assert binomtest(wrong, certified, 0.01, "greater").pvalue > 1e-3
    beyond, of = flips(model, x, split, factor=4)
    assert beyond > of / 4, "the attack is too weak to find a mistake"


class Louder(SplitClassifier):
    """Does more than its halves."""

    def forward(self, x: Tensor, part: Part = "whole") -> Tensor:
        if part == "whole":
            return self.forward(self.forward(x, "left"), "right")
        return super().forward(x, part) * (1000 if part == "left" else 1)


def hooked(model: SplitClassifier) -> SplitClassifier:
    model.left[0].register_forward_hook(lambda layer, inputs, output: 1000 * output)  # pyright: ignore
    return model


def twice(model: SplitClassifier) -> SplitClassifier:
    """One layer under two names, scaled so that it counts twice."""
    layer = nn.Conv2d(2, 2, 1, bias=False).double()
    layer.weight.data = 1000**0.5 * torch.eye(2).double().view(2, 2, 1, 1)
    return SplitClassifier(nn.Sequential(layer, layer, *model.left), model.right).eval()  # pyright: ignore


@pytest.mark.parametrize("change", [hooked, twice, lambda model: Louder(model.left, model.right).eval()])
def test_what_runs_in_front_of_the_noise_is_what_is_proven(change) -> None:
    """Breaks 1 to 3, on a left half: the constant is that of all that the call computes."""
    plain = certify(clipped(), images(1), Split(INNER), seed=0)[0].evidence["global_constant"]
    (found,) = certify(change(clipped()), images(1), Split(INNER), seed=0)
    assert found.evidence["global_constant"] == pytest.approx(1000 * plain, rel=1e-3)
    assert found.evidence["program"] != certify(clipped(), images(1), Split(INNER), seed=0)[0].evidence["program"]


class Branching(nn.Module):
    """A network that is no chain, with a functional call and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.head = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.norm(torch.relu(x + self.second(x)))
        return self.head(x.flatten(1))


class Choosing(nn.Module):
    """Does what depends on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_a_network_that_is_no_chain_is_cut_where_everything_passes_and_stays_live() -> None:
    whole = Branching().double()
    model = SplitClassifier.cut(whole, "norm")
    assert torch.equal(model(images(4)), whole(images(4))), "in training mode, by the statistics of the batch"
    assert model.left.get_submodule("norm") is whole.norm
    model, x = model.eval(), images(2)
    assert torch.equal(model(model(x, "left"), "right"), whole.eval()(x))
    (found,) = certify(model, x[:1], Split(INNER), seed=0)
    assert found.evidence["global_constant"] > 0


class TestCuts:
    def test_a_chain_is_cut_by_index_and_by_name(self) -> None:
        layers = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()
        x = images(2).float()
        for at in (0, 2, "1"):
            model = SplitClassifier.cut(layers, at)
            assert torch.equal(model(x), layers(x))
            assert len(model.left) == {0: 0, 2: 2, "1": 2}[at]  # pyright: ignore

    @pytest.mark.parametrize(
        ("at", "message"),
        [(4, "0 to 3"), (-1, "0 to 3"), ("conv1", "unknown module to cut behind 'conv1'")],
    )
    def test_a_cut_that_does_not_exist_is_refused(self, at, message: str) -> None:
        layers = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
        with pytest.raises(ValueError, match=message):
            SplitClassifier.cut(layers, at)
        with pytest.raises(ValueError, match=r"only an nn\.Sequential"):
            SplitClassifier.cut(nn.ReLU(), 0)
        with pytest.raises(ValueError, match="what is behind it also uses first"):
            SplitClassifier.cut(Branching(), "second")
        with pytest.raises(ValueError, match=r"torch\.fx cannot trace"):
            SplitClassifier.cut(Choosing(), "layer")
        with pytest.raises(ValueError, match=r"unknown cut point of lenet 'conv9'.*conv1"):
            zoo.build("lenet@conv9", DataInfo("mnist", (1, 28, 28), 10, (0.1,), (0.3,)))

    @pytest.mark.parametrize(
        "arch", ["cnn@conv2", "lenet@conv1", "lenet@pool2", "front-lenet@front", "resnet110@conv1", "resnet20@layer2.1"]
    )
    def test_our_architectures_have_a_proof_up_to_their_cuts(self, arch: str) -> None:
        shape = (1, 28, 28) if "net" in arch and "res" not in arch else (3, 32, 32)
        torch.manual_seed(0)
        model = zoo.build(arch, DataInfo("images", shape, 10, (0.4,) * shape[0], (0.25,) * shape[0])).eval()
        assert isinstance(model, SplitClassifier)
        x = torch.rand(1, *shape)
        assert model(x).shape == (1, 10)
        features = model.features(x)
        assert 0 <= features.min() <= features.max() <= 1
        assert local_constants(model.left, x, 0.1, lambda affine, slope, mask: slope.new_ones(len(slope))).shape == (1,)
        Steps(capture(model.left, shape)).require(local.RULES)


class TestBadInput:
    @pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
    def test_sigma(self, sigma: float) -> None:
        with pytest.raises(ValueError, match="sigma must be positive"):
            Split(Gaussian(sigma=sigma))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"ball": 0.0}, "ball must be positive"),
            ({"ball": float("nan")}, "ball must be positive"),
            ({"theta": -1.0}, "theta"),
            ({"weight": 1.5}, "weight"),
            ({"part": 0}, "part"),
        ],
    )
    def test_settings_of_the_method(self, settings: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Splitz(**settings)

    def test_a_layer_without_a_proof_is_named(self) -> None:
        model = in_two(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2), features=72)
        with pytest.raises(ValueError, match=r"no proof for aten.*group_norm.* in model\.left\.1"):
            certify(model, images(1), Split(INNER), seed=0)

    def test_a_classifier_that_is_not_split(self) -> None:
        with pytest.raises(ValueError, match="needs a SplitClassifier"):
            certify(confident(72).double().eval(), images(1), Split(INNER), seed=0)
        with pytest.raises(ValueError, match="needs a SplitClassifier"):
            SmoothedClassifier(confident(72), Split(INNER))
        with pytest.raises(ValueError, match="expected inner to be SamplingCertifier, got Margin"):
            Split(Margin())  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="expected a classifier in two halves"):
            Splitz().constants(nn.Flatten(), images(1))

    def test_features_outside_of_the_unit_interval_cannot_be_trained_on(self) -> None:
        model = in_two(nn.Conv2d(2, 2, 1), features=72)
        with pytest.raises(ValueError, match="end the left half with a ClippedReLU"):
            Splitz().loss(model, images(2), torch.zeros(2, dtype=torch.int64), 0.0)


def test_training_makes_the_local_constant_of_the_left_half_smaller() -> None:
    model, x = clipped().train(), images(16)
    y = (x[:, 0].mean((1, 2)) > 0.5).long()
    method = Splitz(GaussianNoise(0.1), ball=0.5, theta=0.1, weight=0.3)
    before = method.constants(model, x).mean().item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(40):
        optimizer.zero_grad()
        method.loss(model, x, y, step / 40).backward()
        optimizer.step()
    assert method.constants(model, x).mean().item() < 0.7 * before
    proven = local_bound(capture(model.eval().left, SHAPE), x, 0.5).constant
    assert (method.constants(model, x) <= proven).all()


def test_the_weight_falls_from_one() -> None:
    model, x, y = clipped(), images(4), torch.tensor([0, 1, 0, 1])
    method = Splitz(GaussianNoise(1e-9), ball=0.5, theta=0.0, weight=0.6)
    entropy = nn.functional.cross_entropy(model(x), y).item()
    constant = method.constants(model, x).mean().item()
    for t in (0.0, 0.5, 1.0):
        weight = 1 - 0.4 * t
        expected = weight * entropy + (1 - weight) * constant
        assert method.loss(model, x, y, t).item() == pytest.approx(expected, rel=1e-5)


def test_a_report_shows_the_left_half_layer_by_layer_and_the_radii_of_the_parts() -> None:
    found = certify(clipped(), images(3), Split(INNER, bisections=4), seed=0)
    records = [Record(index, 0, certificate) for index, certificate in enumerate(found)]
    nothing = {"profile": {}, "gamma": 0.0, "local_bound": 0.0, "feature_radius": 0.0}
    abstained = dataclasses.replace(found[0], prediction=None, radius=0.0, evidence={**found[0].evidence, **nothing})
    (table,) = halves([Curve("run", [*records, Record(3, 0, abstained)])])
    rows = {row[0]: row[1:] for row in table.rows}
    assert {"after layer 0", "after layer 1"} <= rows.keys()
    radii = sorted(certificate.radius for certificate in found)
    expected = (np.mean(radii), *np.quantile(radii, (0.25, 0.5, 0.75)))
    assert rows["radius in pixels"] == tuple(f"{value:.4g}" for value in expected)
    after = float(rows["after layer 1"][1])
    assert after <= float(rows["left half, anywhere"][1])
    assert (
        halves([Curve("plain", [Record(0, 0, certify(confident(72).double().eval(), images(1), INNER, seed=0)[0])])])
        == []
    )
