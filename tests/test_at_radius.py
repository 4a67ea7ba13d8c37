"""Certificates at given radii by optimal designs: their error, their evidence as it is read, the prior they expect."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from cases import Constant, grey
from report_cases import SHOWN
from scipy.special import ndtr
from scipy.stats import binom, norm

from holdfast import certify
from holdfast.certifiers.at_radius import AtRadius, read_prior
from holdfast.core.certificate import Certificate, Evidence, Record, _check_claim
from holdfast.core.certifier import Seed
from holdfast.core.config import Config
from holdfast.runs.logs import read_log, write_log
from holdfast.smoothing.noise import Float32
from holdfast.smoothing.radius_tests import DesignVotes, Reached
from holdfast.smoothing.statistics import selection
from holdfast.smoothing.statistics.binomial import share_needed
from holdfast.smoothing.statistics.design import Design
from holdfast.smoothing.statistics.planning import shares_from_radii

GOLDEN = Path(os.environ.get("HOLDFAST_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden"))
LOGS = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no published logs in {GOLDEN}; set HOLDFAST_GOLDEN")


PROFILE = {"sigma": 1.0, "n0": 6, "n_max": 11, "alpha": 0.05, "first": 5, "loss": 5.0}


def outcomes(certifier: AtRadius, p: float) -> Iterator[tuple[float, tuple[int, ...], Certificate]]:
    """Every way in which the votes of two classes can fall: its probability, the counts of class 0, the certificate."""
    paths: list[tuple[float, tuple[int, ...]]] = [(1.0, ())]
    while paths:
        probability, path = paths.pop()
        procedure = certifier.procedure(Seed(0, 0), 1)
        wanted = next(procedure)
        try:
            for count in path:
                wanted = procedure.send([count, wanted - count, 0])
        except StopIteration as finished:
            yield probability, path, certifier.certificate(finished.value)
            continue
        weights = binom.pmf(range(wanted + 1), wanted, p)
        paths += [(probability * float(w), (*path, k)) for k, w in enumerate(weights)]


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("r", [(0.3,), (0.0, 0.2, 0.5)])
def test_the_radius_is_false_with_probability_at_most_alpha_given_any_selection(r: tuple[float, ...], p: float):
    """Exactly, along every path; both classes may be claimed, each with the truth about it."""
    false, total = defaultdict(float), defaultdict(float)
    for probability, _, found in outcomes(AtRadius(**PROFILE, r=r), p):
        chosen = tuple(sorted(found.evidence["selection"].items()))
        total[chosen] += probability
        share = p if found.prediction == 0 else 1 - p
        if found.prediction is not None and (share <= 0.5 or found.radius > norm.ppf(share) + 1e-9):
            false[chosen] += probability
    assert sum(total.values()) == pytest.approx(1)
    assert all(false[chosen] <= 0.05 * total[chosen] for chosen in total)
    assert p in (0.0, 1.0) or sum(false.values()) > 0


def test_the_evidence_holds_what_the_radius_follows_from():
    for r in ((0.3,), (0.0, 0.2, 0.5)):
        for _, _, found in outcomes(AtRadius(**PROFILE, r=r), 0.7):
            evidence = Evidence.from_record(json.loads(json.dumps(found.evidence)))
            assert isinstance(evidence, DesignVotes)
            _check_claim(evidence, found)
            assert evidence.selected + (evidence.looks or (0,))[-1] == found.evidence["samples"]
            ends = found.evidence["ends"]
            assert len(ends) == len(r)
            assert (found.prediction is None) == (ends[0] != "certified")
            assert len(evidence.tests) == len(r) - ends.count("hopeless")
            for test, radius in zip(evidence.tests, r, strict=False):
                (plan,) = AtRadius(**PROFILE, r=(radius,)).plans(0.0)
                whole = next(design for design in plan.designs if _part(test, design))
                assert test.design(whole.p0)[1] == pytest.approx(whole.type_one_error)


def _part(test: Reached, design: Design) -> bool:
    return test.certify_at == design.certify_at[: len(test.looks)] and test.looks == design.looks[: len(test.looks)]


def test_a_forged_boundary_is_refused_on_reading():
    """Any lower count to certify at, at any look, and later looks that are said to cost less than nothing."""
    certifier = AtRadius(0.5, r=(0.25, 0.5), n_max=5000)
    found = _certificate(certifier, 0.9, np.random.default_rng(1))
    record = json.loads(json.dumps(found.evidence))
    _check_claim(Evidence.from_record(record), found)
    forged = 0
    for test, radius in zip(record["tests"], found.evidence["r"], strict=True):
        p0 = share_needed(radius, 0.5)
        for look, n in enumerate(test["looks"]):
            least = int(binom.isf(1e-3, n, p0))  # votes that alone would err with alpha
            kept, test["certify_at"][look] = test["certify_at"][look], max(least, test["give_up_at"][look] + 1)
            if test["certify_at"][look] < kept:
                forged += 1
                with pytest.raises(ValueError, match="errs with probability"):
                    Evidence.from_record(record)
            test["certify_at"][look] = kept
        for wrong in (-1e-9, -1.0, math.nan, 1e-3):
            kept, test["later"] = test["later"], wrong
            with pytest.raises(ValueError, match="errs with probability"):
                Evidence.from_record(record)
            test["later"] = kept
    assert forged > 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1e-4}, "errs with probability"),
        ({"sigma": 0.4}, "errs with probability"),
        ({"delta": 0.01}, "errs with probability"),
        ({"r": [0.25, 0.6]}, "errs with probability"),
        ({"r": [0.5, 0.25]}, "increasing radii"),
        ({"r": [0.25]}, "increasing radii with a test for each"),
        ({"selected": 101}, "are no votes of"),
        ({"selected": 0}, "are no votes of"),
        ({"n_max": 10}, "of n_max = 10"),
        ({"looks": [4]}, "do not fit looks"),
        ({"votes": {"0": 10**6}}, "do not fit looks"),
        ({"samples": 1}, "samples is 1"),
        ({"ends": ["certified", "hopeless"]}, "ends is"),
    ],
    ids=str,
)
def test_evidence_that_was_changed_is_refused_on_reading(changes: dict, message: str):
    found = _certificate(AtRadius(0.5, r=(0.25, 0.5), n_max=5000), 0.9, np.random.default_rng(1))
    with pytest.raises(ValueError, match=message):
        _check_claim(Evidence.from_record(json.loads(json.dumps(found.evidence)) | changes), found)


def test_a_look_that_was_left_out_or_moved_is_refused_on_reading():
    found = _certificate(AtRadius(0.5, r=(0.5,), n_max=5000), 0.9, np.random.default_rng(1))
    record = json.loads(json.dumps(found.evidence))
    assert len(record["looks"]) > 5
    for name in ("looks", "counts"):
        del record[name][3]
    with pytest.raises(ValueError, match="expected a look at"):
        Evidence.from_record(record)


def test_settings_stored_before_optimal_boundaries_mean_spending_and_keep_their_name():
    old = {"kind": "AtRadius", "sigma": 0.5, "r": [0.5]}
    assert Config.from_dict(old) == AtRadius(0.5, r=(0.5,), boundaries="spending", noise=Float32())
    assert "boundaries" not in AtRadius(boundaries="spending")._chosen()
    assert AtRadius(boundaries="spending").fingerprint() != AtRadius().fingerprint()
    assert Config.from_dict(AtRadius(0.5, r=(0.5,)).to_dict()) == AtRadius(0.5, r=(0.5,))


def _certificate(certifier: AtRadius, share: float, rng: np.random.Generator) -> Certificate:
    procedure = certifier.procedure(Seed(0, 0), 1)
    wanted = next(procedure)
    while True:
        count = int(rng.binomial(wanted, share))
        try:
            wanted = procedure.send([count, wanted - count, 0])
        except StopIteration as finished:
            return certifier.certificate(finished.value)


@LOGS
def test_the_passes_of_a_log_are_predicted_to_monte_carlo_error():
    """Through the certifier's own procedure, with votes drawn at the vote shares of a published log."""
    records = read_log(GOLDEN / "mnist-lenet-gaussian-sigma0.50.tsv.gz")
    radii = np.array([record.certificate.radius for record in records])
    shares = shares_from_radii(radii, 0.5)[::10]
    shares = shares.round(3)  # fewer to predict
    certifier, rng = AtRadius(0.5, r=(0.5,), n_max=10_000), np.random.default_rng(0)
    (plan,) = certifier.plans(0.0)
    values, where = np.unique(shares, return_inverse=True)
    power, expected = np.array([plan.outcome(float(share)) for share in values])[where].T
    used, certified = np.array([_simulate(certifier, float(share), rng) for share in shares]).T
    error = used.std() / math.sqrt(len(used))
    assert abs(used.mean() - expected.mean()) < 4 * error
    assert abs(certified.mean() - power.mean()) < 0.005
    assert expected.mean() < 400


def _simulate(certifier: AtRadius, share: float, rng: np.random.Generator) -> tuple[int, bool]:
    found = _certificate(certifier, share, rng)
    return found.evidence["samples"], found.prediction == 0


@LOGS
def test_a_prior_from_a_mismatched_log_costs_samples_and_never_validity():
    own, other = ("cifar10-resnet110-gaussian-sigma0.50", "mnist-lenet-gaussian-sigma0.50")
    priors = [read_prior(str(GOLDEN / f"{name}.tsv.gz"), 0.5).prior for name in (own, other)]
    p0 = share_needed(0.5, 0.5)
    found = [selection.plan(p0, 1e-3, 5000, 100, 0.3, prior) for prior in priors]
    assert all(0.9e-3 < plan.type_one_error <= 1e-3 for plan in found)
    just_below = [plan.outcome(p0 - 1e-4)[0] for plan in found]
    assert max(just_below) <= 1e-3
    weights, shares = np.array(priors[0].weights), np.array(priors[0].shares)
    some = slice(0, None, 100)
    value = [np.array([plan.outcome(float(s)) for s in shares[some]]) for plan in found]
    lost = [100 * weights[some] @ (1 - v[:, 0]) / weights[some].sum() for v in value]
    assert lost[0] < lost[1]


def test_a_prior_is_read_from_runs_and_logs_and_refused_with_a_reason(tmp_path: Path):
    with pytest.raises(ValueError, match="is not a run folder"):
        read_prior(str(tmp_path), 0.5)
    with pytest.raises(ValueError, match="does not exist"):
        read_prior(str(tmp_path / "nowhere"), 0.5)
    (tmp_path / "log.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(ValueError, match="expected the header"):
        read_prior(str(tmp_path / "log.tsv"), 0.5)
    proofs = [Certificate(None, 0.0, "l2", 0.999), Certificate(3, 0.5, "l2", 0.999)]
    write_log([Record(i, 3, proof) for i, proof in enumerate(proofs)], tmp_path / "good.tsv")
    found = read_prior(str(tmp_path / "good.tsv"), 0.25)
    assert found.prior.shares == (0.45, pytest.approx(ndtr(2), abs=0.002))
    assert found.seeds == set()
    folder = _certified(tmp_path, [{"votes": {"1": 9}}, {"votes": {}}, {"votes": {}, "selection": {"1": 2, "2": 2}}], 7)
    for path in (tmp_path / "run", folder):
        assert read_prior(str(path), 0.3).prior.shares == (0.45, 0.5, 0.95)
        assert read_prior(str(path), 0.3).seeds == {7}
    (margin := tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="no vote shares for a prior"):
        read_prior(str(_certified(margin, [{"margin": 1.0}], 0)), 0.3)


def _certified(path: Path, evidence: list[dict], seed: int) -> Path:
    """A certify folder in a run folder."""
    proof = {"prediction": 1, "radius": 0.1, "norm": "l2", "confidence": 0.9}
    lines = [{"index": i, "label": 1, "certificate": proof | {"evidence": e}} for i, e in enumerate(evidence)]
    folder = path / "run" / "certify-1"
    folder.mkdir(parents=True, exist_ok=True)
    (path / "run" / "run.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps({"certification": {"seed": seed, "certifier": {"kind": SHOWN}}}))
    (folder / "records-0-of-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_prior_from_the_same_noise_is_refused(tmp_path: Path):
    """Boundaries that follow from the votes they judge are no boundaries."""
    prior = str(_certified(tmp_path, [{"votes": {"1": 90, "2": 10}}], 7))
    certifier = AtRadius(0.5, n_max=1000, prior=prior)
    for seed in (7, 8):
        refused = pytest.raises(ValueError, match="the noise of seed 7") if seed == 7 else nullcontext()
        with refused:
            certifier.refuse_seed(seed)
        with refused:
            next(certifier.procedure(Seed(seed, 0), 1))
    with pytest.raises(ValueError, match="does not exist"):
        certify(Constant(), grey(1), AtRadius(0.5, prior="nowhere"))
