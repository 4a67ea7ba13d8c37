"""The contract that every certifier keeps."""

import json

import pytest
import torch
from cases import CERTIFIERS, Case, Constant, EqualClasses, ForEvery, HalfSpace, grey, images
from scipy.stats import binomtest, norm

from holdfast import Gaussian, SmoothedClassifier, certify
from holdfast.certifiers.adaptive import Adaptive
from holdfast.certifiers.at_radius import AtRadius
from holdfast.certifiers.betting import Betting
from holdfast.certifiers.margin import Margin
from holdfast.core import registry
from holdfast.core.certificate import Certificate
from holdfast.core.certifier import Certifier


def test_the_table_holds_every_certifier_of_the_package() -> None:
    tested = {type(case.certifier) for case in CERTIFIERS.values()}
    assert tested == {type(certifier) for _, certifier in registry.CERTIFIERS.items()}


class TestEveryCertifier(ForEvery):
    table = CERTIFIERS

    def test_radius_exceeds_the_true_distance_no_more_often_than_it_says(self, case: Case) -> None:
        x = images(200)
        found = certify(case.classifier(), x, case.certifier, seed=0)
        wrong = sum(c.radius > d for c, d in zip(found, case.distance(x).tolist(), strict=True))
        allowed = alpha(case.certifier)
        assert {c.confidence for c in found} == {1 - allowed}
        assert wrong == 0 if allowed == 0 else binomtest(wrong, len(found), allowed, "greater").pvalue > 1e-4
        assert sum(c.radius > 0 for c in found) > 50

    def test_one_by_one_equals_in_a_batch(self, case: Case) -> None:
        x = images(6)
        together = certify(case.classifier(), x, case.certifier, seed=0)
        alone = [certify(case.classifier(), x[[i]], case.certifier, seed=0, indices=[i])[0] for i in range(6)]
        if isinstance(case.certifier, Margin):
            assert all(within_rounding(a, b) for a, b in zip(together, alone, strict=True))
        else:
            assert together == alone

    def test_batch_size_changes_no_vote_and_no_proof_by_more_than_its_rounding_bound(self, case: Case) -> None:
        x = images(200 if isinstance(case.certifier, Margin) else 5)
        one, *others = [
            certify(case.classifier(), x, case.certifier, batch_size=size, seed=0) for size in (1000, 37, 1)
        ]
        for other in others:
            if isinstance(case.certifier, Margin):
                assert all(within_rounding(a, b) for a, b in zip(one, other, strict=True))
            else:
                assert one == other

    def test_certificates_and_settings_survive_json(self, case: Case) -> None:
        again = Certifier.from_dict(json.loads(json.dumps(case.certifier.to_dict())))
        assert again == case.certifier
        assert again.fingerprint() == case.certifier.fingerprint()
        (certificate,) = certify(case.classifier(), images(1), case.certifier, seed=0)
        assert Certificate(**json.loads(json.dumps(certificate.__dict__))) == certificate

    def test_a_model_without_finite_logits_is_never_certified(self, case: Case) -> None:
        broken = case.classifier()
        broken.register_forward_hook(lambda *_: torch.full((len(_[2]), 2), float("nan")))
        if case.certifier.sampling is not case.certifier:  # such a network, or left half, has no constant
            with pytest.raises(ValueError, match="does not depend on its input"):
                certify(broken, images(3), case.certifier)
            return
        for certificate in certify(broken, images(3), case.certifier, seed=0):
            assert certificate.prediction is None
            assert certificate.radius == 0


def alpha(certifier: Certifier) -> float:
    """The probability of error that was asked for; 0 for a proof without sampling."""
    return getattr(getattr(certifier, "inner", certifier), "alpha", 0.0)


def within_rounding(one: Certificate, other: Certificate) -> bool:
    """Two certificates of `margin` whose margins were summed in different orders; neither abstains."""
    allowed = one.evidence["error"]
    same = one.prediction == other.prediction is not None and one.evidence["rival"] == other.evidence["rival"]
    close = abs(one.evidence["margin"] - other.evidence["margin"]) <= allowed
    return same and close and abs(one.radius - other.radius) <= allowed / one.evidence["constant"]


def test_a_constant_classifier_gets_exactly_the_cap() -> None:
    free = Adaptive(0.5, n_max=1000, min_gain=0.0)
    for certifier in (Gaussian(0.5, n=1000), Gaussian(0.25, n=500, alpha=0.01, two_class=True), free):
        (certificate,) = certify(Constant(), grey(1), certifier, seed=0)
        assert certificate.prediction == 1
        assert certificate.radius == certifier.cap()


@pytest.mark.parametrize(("n0", "two_class"), [(100, False), (0, False), (100, True)])
def test_unanimous_votes_never_exceed_the_cap_whatever_is_drawn(n0: int, two_class: bool) -> None:
    certifier = Gaussian(0.5, n0=n0, n=100, alpha=0.2, two_class=two_class, randomized=True)
    radii = [c.radius for c in certify(Constant(), grey(300), certifier, seed=0)]  # w < 2 alpha for many of them
    assert max(radii) == certifier.cap()
    assert min(radii) < certifier.cap()


@pytest.mark.parametrize("kind", [Gaussian, AtRadius, Adaptive, Betting])
def test_a_certificate_by_sampling_is_never_stated_as_certain(kind: type) -> None:
    for alpha in (1e-17, 1e-16, 0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="alpha in"):
            kind(alpha=alpha)
    (certificate,) = certify(Constant(), grey(1), kind(alpha=1e-15), seed=0)
    assert certificate.confidence < 1
    with pytest.raises(ValueError, match="alpha in"):
        SmoothedClassifier(Constant(), Gaussian(0.5)).predict(grey(1), alpha=1e-17)


def test_samples_that_are_not_a_number_are_counted_and_count_against_the_class() -> None:
    class SometimesBroken(HalfSpace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x[:, 0, 0, :1] > 0.5, Constant((0.0, 1.0))(x), float("nan"))

    (certificate,) = certify(SometimesBroken(), grey(1), Gaussian(0.5, n=1000), seed=0)
    assert certificate.prediction is None
    assert 400 < certificate.evidence["invalid"] < 600
    assert certificate.evidence["votes"] == {"1": 1000 - certificate.evidence["invalid"]}


def test_samples_that_selected_the_class_are_not_used_again() -> None:
    """Else the winner of the selection looks better than it is, and the bound on its 1/10 fails too often."""
    found = certify(EqualClasses(), grey(300), Gaussian(1.0, n0=100, n=100, alpha=0.05), seed=0)
    too_high = sum(c.evidence["p_lower"] > 0.1 for c in found)
    assert binomtest(too_high, len(found), 0.05, "greater").pvalue > 1e-3


def test_without_selection_samples_the_level_is_halved() -> None:
    """Seferis et al. keep alpha; the true level is then 2 alpha, see the specification of sample-efficient bounds."""
    (certificate,) = certify(Constant(), grey(1), Gaussian(1.0, n0=0, n=100, alpha=0.01), seed=0)
    assert certificate.evidence["p_lower"] == pytest.approx((0.01 / 2) ** (1 / 100) - 1e-9, abs=1e-12)


def test_two_classes_prove_what_one_cannot() -> None:
    """With votes 0.45 : 0.05 : ... no class has half of them, yet the winner is far from its rivals."""

    class Spread(HalfSpace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            share = torch.tensor([0.45] + [0.05] * 11).cumsum(0)
            winner = torch.bucketize(norm_cdf(2 * (x[:, 0, 0, 0] - 0.5)), share)
            return torch.nn.functional.one_hot(winner.clamp(max=11), 12).float()

    norm_cdf = torch.distributions.Normal(0, 1).cdf
    (one,) = certify(Spread(), grey(1), Gaussian(0.5, n=10_000), seed=0)
    (two,) = certify(Spread(), grey(1), Gaussian(0.5, n=10_000, two_class=True), seed=0)
    assert one.prediction is None
    assert two.prediction == 0
    truth = 0.25 * (norm.ppf(0.45) - norm.ppf(0.05))
    assert 0.85 * truth < two.radius < truth


def test_seeds_drive_the_noise() -> None:
    first, again, other = (certify(EqualClasses(), grey(2), Gaussian(1.0, n=500), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": float("nan")}, "sigma must be positive"),
        ({"n": 9}, "can never certify anything"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.5}, "alpha"),
        ({"n0": -1}, "n0 must not be negative"),
        ({"n0": 0, "two_class": True}, "samples that select the class"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gaussian(**settings)


class TestSmoothedClassifier:
    def test_predicts_the_sure_class_and_abstains_on_a_tie(self) -> None:
        assert SmoothedClassifier(Constant(), Gaussian(0.5)).predict(grey(2)).tolist() == [1, 1]
        assert SmoothedClassifier(HalfSpace(), Gaussian(0.5)).predict(grey(3)).tolist() == [-1, -1, -1]

    @pytest.mark.parametrize("votes", [False, True])
    def test_answers_with_shares_that_do_not_depend_on_the_batch_size(self, votes: bool) -> None:
        x = images(3).double()
        for batch_size in (2, 1000):
            torch.manual_seed(0)
            found = SmoothedClassifier(HalfSpace(), Gaussian(0.5), 4000, votes, batch_size)(x)
            assert torch.allclose(found.sum(1), torch.ones(3, dtype=torch.float64))
            expected = norm.cdf(2 * HalfSpace().score(x)) if votes else found[:, 0].detach().numpy()
            assert found[:, 0].detach().numpy() == pytest.approx(expected, abs=0.03)

    def test_its_shares_have_the_gradient_that_attacks_follow(self) -> None:
        x = images(2).double().requires_grad_()
        shares = SmoothedClassifier(HalfSpace(), Gaussian(0.5), samples=200)(x)
        (gradient,) = torch.autograd.grad(shares[:, 0].sum(), x)
        w = HalfSpace().get_buffer("w").double()
        assert torch.allclose(
            torch.nn.functional.cosine_similarity(gradient.flatten(1), w[None]), torch.ones(2).double()
        )

    def test_certifies_as_the_function_does(self) -> None:
        certifier = Gaussian(0.5, n=500)
        found = SmoothedClassifier(HalfSpace(), certifier).certify(images(2), seed=0)
        assert found == certify(HalfSpace(), images(2), certifier, seed=0)
