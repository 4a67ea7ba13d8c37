"""Certifiers that stop early: their error, followed along every path of votes; what they spare; what they record."""

from collections.abc import Iterator

import pytest
from cases import Constant, HalfSpace, grey, images
from scipy.stats import binom, norm

from holdfast import Gaussian, certify
from holdfast.certifiers.adaptive import Adaptive
from holdfast.certifiers.at_radius import AtRadius
from holdfast.certifiers.betting import Betting
from holdfast.core.certificate import Certificate
from holdfast.core.certifier import Seed
from holdfast.smoothing.certifier import SamplingCertifier

SMALL = {"sigma": 1.0, "n0": 1, "first": 8, "growth": 2.0, "n_max": 32, "alpha": 0.05}


def outcomes(certifier: SamplingCertifier, p: float, selected: int = 1) -> Iterator[tuple[float, Certificate]]:
    """Every way in which the votes of two classes can fall, with its probability, given so many selection votes for
    class 0, which has share p."""
    paths: list[tuple[float, tuple[int, ...]]] = [(1.0, ())]
    while paths:
        probability, path = paths.pop()
        procedure = certifier.procedure(Seed(0, 0), 1)
        wanted, votes = 0, [selected, next(procedure) - selected, 0]
        try:
            for count in (None, *path):
                votes = votes if count is None else [count, wanted - count, 0]
                wanted = procedure.send(votes)
        except StopIteration as finished:
            yield probability, certifier.certificate(finished.value)
            continue
        weights = binom.pmf(range(wanted + 1), wanted, p)
        paths += [(probability * float(w), (*path, k)) for k, w in enumerate(weights) if probability * w > 1e-9]


@pytest.mark.parametrize("p", [0.5, 0.75, 0.9])
@pytest.mark.parametrize(
    "certifier",
    [
        AtRadius(**SMALL, r=(0.0, 0.2, 0.6745, 1.1), boundaries="spending"),
        AtRadius(**SMALL, r=(0.5,), beta=0.5, boundaries="spending"),
        Adaptive(**SMALL, min_gain=1.0, tolerance=0.5, boundaries="spending"),
        Adaptive(**SMALL, min_gain=0.0, boundaries="spending"),
        Adaptive(**SMALL, min_gain=100.0),
        Adaptive(**SMALL, min_gain=0.0),
        Betting(**SMALL),
    ],
    ids=repr,
)
def test_the_radius_is_false_with_probability_at_most_alpha(certifier: SamplingCertifier, p: float) -> None:
    """Exact but for paths of less than 1e-9: no simulation would see a factor of two."""
    found = list(outcomes(certifier, p))
    assert sum(weight for weight, _ in found) == pytest.approx(1, abs=1e-3)
    truth = norm.ppf(p) + 1e-9
    false = sum(w for w, c in found if c.prediction == 0 and (c.radius > truth or (p <= 0.5 and c.radius >= 0)))
    assert false <= 0.05
    assert sum(w for w, c in found if c.prediction == 0) > 0


@pytest.mark.parametrize("p", [0.3, 0.45, 0.6])
def test_two_classes_err_with_probability_at_most_alpha(p: float) -> None:
    truth = max(0.0, (norm.ppf(p) - norm.ppf(1 - p)) / 2) + 1e-9
    found = outcomes(Betting(**SMALL, two_class=True), p)
    assert sum(w for w, c in found if c.prediction == 0 and (c.radius > truth or p <= 0.5)) <= 0.05


def test_a_sure_image_takes_few_samples_and_a_hopeless_one_too() -> None:
    sure, hopeless = Constant(), Constant((0.0, float("nan"), 0.0))
    for certifier in (AtRadius(0.5, r=(0.5,), n_max=5000), Adaptive(0.5, min_gain=5.0), Betting(0.5, n_max=5000)):
        (fast,) = certify(sure, grey(1), certifier, seed=0)
        assert fast.prediction == 1
        assert fast.evidence["samples"] <= 5100
        selected = sum(fast.evidence["selection"].values())
        assert sum(fast.evidence["votes"].values()) + selected == fast.evidence["samples"]
        (lost,) = certify(hopeless, grey(1), certifier, seed=0)
        assert lost.prediction is None
        assert lost.evidence["samples"] <= 1000
        selected = lost.evidence.get("selected", lost.evidence["n0"])
        assert lost.evidence["invalid"] + selected == lost.evidence["samples"]


def test_a_lower_min_gain_buys_a_larger_radius() -> None:
    found = [
        certify(HalfSpace(), images(10), Adaptive(0.5, min_gain=gain, n_max=20_000), seed=0)
        for gain in (20.0, 2.0, 0.02)
    ]
    means = [sum(c.radius for c in run) for run in found]
    samples = [sum(c.evidence["samples"] for c in run) for run in found]
    assert means == sorted(means)
    assert samples == sorted(samples)
    fixed = sum(c.radius for c in certify(HalfSpace(), images(10), Gaussian(0.5, n=20_000), seed=0))
    assert means[-1] > 0.9 * fixed


def test_at_radius_certifies_the_largest_of_its_radii() -> None:
    (certificate,) = certify(Constant(), grey(1), AtRadius(0.5, r=(0.1, 0.7, 1.5), n_max=8000), seed=0)
    assert certificate.radius == 1.5


def test_the_best_rival_is_bounded_from_the_same_samples() -> None:
    (certificate,) = certify(Constant(), grey(1), Betting(0.5, n_max=2000, two_class=True), seed=0)
    evidence = certificate.evidence
    assert evidence["one_class_radius"] == pytest.approx(0.5 * norm.ppf(evidence["p_lower"]))
    expected = 0.25 * (norm.ppf(evidence["p_lower"]) - norm.ppf(evidence["p_upper"]))
    assert certificate.radius == pytest.approx(expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AtRadius(0.5, r=(1.95,)), "can never be certified"),
        (lambda: AtRadius(0.5, r=(5.0,)), "can never be certified"),
        (lambda: AtRadius(0.5, r=(0.5, 0.2)), "increasing radii"),
        (lambda: AtRadius(0.5, r=()), "increasing radii"),
        (lambda: AtRadius(0.0), "sigma must be positive"),
        (lambda: AtRadius(0.5, n0=0), "n0 must be at least 1"),
        (lambda: AtRadius(0.5, beta=1.0), "beta"),
        (lambda: AtRadius(0.5, n_max=50), "first look"),
        (lambda: Adaptive(0.5, tolerance=0.0), "tolerance must be positive"),
        (lambda: Adaptive(0.5, min_gain=-1.0), "min_gain must not be negative"),
        (lambda: Adaptive(0.5, first=5, n_max=8), "can never certify"),
        (lambda: Adaptive(0.5, growth=0.5), "growth"),
        (lambda: Betting(0.5, tolerance=-1.0), "tolerance must be positive"),
        (lambda: Betting(0.5, first=5, n_max=8), "can never certify"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
