"""A certificate follows from its evidence, and a record that does not, or that is of other settings, is refused."""

import copy
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from cases import CERTIFIERS, images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holdfast import Gaussian, Split, certify
from holdfast.certification.task import Certification
from holdfast.core.certificate import MADE_BY, Certificate, Evidence, Record, verified
from holdfast.core.certifier import Seed
from holdfast.core.config import rich
from holdfast.runs.certified import CertifiedRun
from holdfast.runs.records import read_checked, read_records
from holdfast.smoothing.evidence import SamplingEvidence, SplitEvidence
from holdfast.smoothing.noise import Float32, NormalNoise, Stream
from holdfast.smoothing.statistics.binomial import fixed_lower, fixed_upper, lower_bound, upper_bound

RESULTS = Path(__file__).parents[1] / "results"
Line = dict[str, Any]


@dataclass(frozen=True)
class Quiet(NormalNoise):
    """A noise that claims twice the radius."""

    def stream(self, x: Tensor, sigma: float, seed: Seed) -> Stream:
        raise NotImplementedError

    def radius(self, p_lower: float, p_upper: float, sigma: float) -> float:
        return 2 * super().radius(p_lower, p_upper, sigma)

    def share_needed(self, radius: float, sigma: float) -> float:
        return super().share_needed(radius / 2, sigma)


@lru_cache
def lines(name: str) -> tuple[str, ...]:
    """Records of a certifier on a classifier that it serves; the first holds a radius."""
    case = CERTIFIERS[name]
    found = certify(case.classifier(), images(24), case.certifier, seed=0)
    certified = sorted(range(len(found)), key=lambda i: -found[i].radius)
    records = [Record(i, found[i].prediction or 0, found[i]) for i in certified]
    assert found[certified[0]].radius > 0
    return tuple(json.dumps(dataclasses.asdict(record)) for record in records)


def folder_of(path: Path, name: str, records: list[Line]) -> Path:
    """A certify folder as it is kept today."""
    certifier = CERTIFIERS[name].certifier
    cap = certifier.cap()
    run = {"name": name, "total": 24, "cap": cap if math.isfinite(cap) else None, "samples": certifier.samples()}
    asked = {"certification": Certification(certifier, "00", "mnist").to_dict(), "checksums": {"images": "0"}}
    path.mkdir()
    (path / "run.json").write_text(json.dumps(run | asked))
    (path / "records-0-of-1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record_of(name: str) -> Line:
    return json.loads(lines(name)[0])


@pytest.mark.parametrize("name", CERTIFIERS)
def test_every_certificate_follows_from_what_is_stored_of_it(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", name, [json.loads(line) for line in lines(name)])
    found = read_checked(folder)
    assert {json.dumps(dataclasses.asdict(checked.record)) for checked in found} == set(lines(name))
    for record, evidence in found:
        assert evidence is not None
        assert evidence.claim() == (record.certificate.prediction, record.certificate.radius)
        assert evidence.confidence == record.certificate.confidence
        assert evidence.norm == record.certificate.norm
        kept = {key: value for key, value in record.certificate.evidence.items() if key not in ("seed", "index")}
        assert Evidence.from_record(json.loads(json.dumps(evidence.to_record()))) == evidence
        assert json.loads(json.dumps(evidence.to_record())) == kept
    lacks = CertifiedRun.open(folder).lacks
    assert bool(lacks) == (name.split("-")[0] in ("margin", "linf", "split"))
    assert all("not recomputable without the model" in lack or "the norm of its radii" in lack for lack in lacks)


def test_reading_certificates_imports_no_torch(tmp_path: Path) -> None:
    for name in CERTIFIERS:
        folder_of(tmp_path / name, name, [record_of(name)])
    folders = [str(path) for path in (*tmp_path.iterdir(), RESULTS / "gaussian-mnist-0.25-584b3a959bcc")]
    code = (
        "import sys; from pathlib import Path; from holdfast.report.curve import load;"
        "found = load([Path(name) for name in sys.argv[1:]]);"
        "sys.exit(found.left_out or len(found.curves) != len(sys.argv) - 1 or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, *folders], check=False).returncode == 0


def test_every_kind_of_evidence_is_tried() -> None:
    assert {type(case.certifier).__name__ for case in CERTIFIERS.values()} == set(MADE_BY)


def votes_of(record: Line) -> Line:
    """The part of the evidence that holds the votes."""
    evidence = record["certificate"]["evidence"]
    return evidence.get("inner", evidence)


def alone(record: Line) -> Line:
    """The evidence without what is derived from it, as it stands in that of a split classifier."""
    return Evidence.from_record({k: v for k, v in votes_of(record).items() if k not in ("seed", "index")}).to_dict()


def rebuilt(**changes: Any) -> Callable[[Line], None]:
    """A record that follows from its evidence in every number, with other settings or numbers than the true one."""

    def forge(record: Line) -> None:
        proof = record["certificate"]
        kept = {key: value for key, value in proof["evidence"].items() if key not in ("seed", "index")}
        evidence = Evidence.from_record(kept)
        part = evidence.inner if isinstance(evidence, SplitEvidence) else evidence
        values = {key: value(getattr(part, key)) if callable(value) else value for key, value in changes.items()}
        changed = part.replace(**values)
        evidence = evidence.replace(inner=changed) if isinstance(evidence, SplitEvidence) else changed
        claim = evidence.claim()
        proof |= {"prediction": claim.prediction, "radius": claim.radius}
        proof |= {"confidence": evidence.confidence, "norm": evidence.norm, "evidence": evidence.to_record()}
        proof["evidence"] = json.loads(json.dumps(proof["evidence"]))

    return forge


def with_inner(name: str) -> Callable[[Line], None]:
    """A split record that rests on the votes of another certifier, and follows from them in every number."""

    def forge(record: Line) -> None:
        kept = {key: value for key, value in record["certificate"]["evidence"].items() if key not in ("seed", "index")}
        other = SamplingEvidence.from_dict(alone(record_of(name)))
        evidence = SplitEvidence.from_record(kept).replace(inner=other)
        record["certificate"]["prediction"] = evidence.claim().prediction
        record["certificate"]["evidence"] = json.loads(json.dumps(evidence.to_record()))

    return forge


def proof(**changes: Any) -> Callable[[Line], None]:
    """Another value in the certificate; a function is applied to the old one."""

    def forge(record: Line) -> None:
        for key, value in changes.items():
            record["certificate"][key] = value(record["certificate"][key]) if callable(value) else value

    return forge


def votes(**changes: Any) -> Callable[[Line], None]:
    """Another value beside the votes; a function is applied to the old one."""

    def forge(record: Line) -> None:
        part = votes_of(record)
        for key, value in changes.items():
            part[key] = value(part[key]) if callable(value) else value

    return forge


def outer(**changes: Any) -> Callable[[Line], None]:
    """Another value in the evidence itself."""

    def forge(record: Line) -> None:
        evidence = record["certificate"]["evidence"]
        for key, value in changes.items():
            evidence[key] = value(evidence[key]) if callable(value) else value

    return forge


def without(*keys: str) -> Callable[[Line], None]:
    def forge(record: Line) -> None:
        for key in keys:
            del record["certificate"]["evidence"][key]

    return forge


def one_more(counts: dict[str, int]) -> dict[str, int]:
    top = max(counts, key=lambda label: counts[label])
    return counts | {top: counts[top] + 1}


def other_class(counts: dict[str, int]) -> dict[str, int]:
    """The same votes for classes that are numbered one higher."""
    return {str(int(label) + 1): count for label, count in counts.items()}


NONE = r"the evidence is none|expected \w+ to be"


ANY = {
    "radius-raised": (proof(radius=lambda radius: radius * (1 + 1e-6)), "follows class|above"),
    "radius-lowered": (proof(radius=lambda radius: radius / 2), "follows class"),
    "other-class": (proof(prediction=lambda label: label + 1), "follows class"),
    "abstention": (proof(prediction=None, radius=0.0), "follows class"),
    "confidence": (proof(confidence=0.5), "confidence is 0.5, but"),
    "confidence-nearly": (proof(confidence=lambda found: found - 1e-12), "confidence is 0.9"),
    "threat": (proof(norm=lambda norm: "l1"), "norm is 'l1', but"),
    "surplus": (outer(surplus=1), "unknown number"),
    "no-evidence": (proof(evidence={}), "it has no"),
    "old-evidence": (without("kind"), "it has no"),
    "foreign-evidence": (outer(kind="Record"), "unknown kind"),
    "no-kind-of-evidence": (outer(kind="Margin"), NONE),
    "list-for-evidence": (proof(evidence=[1]), "evidence is"),
}
SAMPLING = {
    "alpha": (rebuilt(alpha=0.5), "alpha is 0.5, in the run 0.05"),
    "alpha-only": (votes(alpha=0.5), "follows from the other numbers|alpha is 0.5|follows class"),
    "sigma": (rebuilt(sigma=lambda sigma: 1.01 * sigma), "sigma is 0.[0-9]+, in the run 0.2?5"),
    "noise": (rebuilt(noise=Quiet()), "noise.kind is '.*Quiet', in the run 'Lattice'"),
    "noise-unknown": (votes(noise={"kind": "Nose"}), "unknown kind 'Nose'"),
    "delta-negative": (votes(delta=-0.1), "delta is -0.1"),
    "delta-smaller": (votes(delta=0.9e-9), r"expected a delta in \[1e-09, 1\)"),
    "numbers-negative": (votes(numbers=-1), "0 numbers or more"),
    "noise-float32": (rebuilt(noise=Float32(), delta=0.0), "noise.kind is 'Float32', in the run 'Lattice'"),
    "one-more-vote": (votes(votes=one_more), "votes"),
    "votes-of-another-class": (votes(votes=other_class), "follow|do not fit|class|within"),
    "invalid-negative": (votes(invalid=-1), "votes are numbers of samples"),
    "invalid-uncounted": (votes(invalid=7), "votes"),
    "votes-negative": (votes(votes=lambda found: found | {"7": -3}), "votes are numbers of samples"),
    "votes-text": (votes(votes={"0": "2000"}), "votes are numbers of samples"),
    "votes-true": (votes(votes=lambda found: found | {"7": True}), "votes are numbers of samples"),
    "votes-fraction": (votes(votes=lambda found: found | {"7": 0.5}), "votes are numbers of samples"),
    "votes-list": (votes(votes=[2000]), NONE),
    "class-text": (votes(votes=lambda found: {f"c{label}": n for label, n in found.items()}), "'c|follow|within"),
    "sigma-text": (votes(sigma="0.5"), NONE),
    "samples": (outer(samples=lambda count: count - 1), "samples is .* follows from the other numbers"),
    "n0": (votes(n0=7), "selected the class|n0 is 7|follows from"),
}
SELECTION = {
    "selection-changed": (votes(selection=lambda found: other_class(found)), "follow|do not fit|within"),
    "selection-too-many": (votes(selection=lambda found: one_more(one_more(found))), "votes selected the class"),
}
FIXED = {
    "n": (votes(n=1000), "of n = 1000 samples"),
    "two-class": (rebuilt(two_class=True), "two_class is True, in the run False"),
}
P_LOWER = {
    "p-lower": (votes(p_lower=lambda p: p * 1.001), "p_lower is .* follows from the other numbers"),
}
SEQUENTIAL = {
    "n-max": (votes(n_max=1000), "do not fit|n_max is 1000|n_max = 1000"),
    "growth": (votes(growth=3.0), "do not fit|growth is 3.0"),
    "counts-more": (votes(counts=lambda counts: [10**6, *counts[1:]]), "do not fit"),
    "counts-falling": (votes(counts=lambda counts: [*counts[:-1], counts[-1] - 1]), "do not fit"),
    "counts-missing": (votes(counts=[]), "do not fit"),
    "counts-twice": (votes(counts=lambda counts: [*counts, counts[-1]]), "do not fit"),
}
GRID = {"beta": (rebuilt(beta=0.2), "beta is 0.2, in the run 0.0")}
FORGERIES: dict[str, dict[str, tuple[Callable[[Line], None], str]]] = {
    "gaussian": ANY | SAMPLING | SELECTION | FIXED | P_LOWER | {"w": (rebuilt(w=0.0), "randomized is True")},
    "gaussian-without-selection": ANY | SAMPLING | FIXED | P_LOWER,
    "gaussian-two-class": ANY
    | SAMPLING
    | SELECTION
    | P_LOWER
    | {"one-class": (rebuilt(two_class=False), "two_class is False, in the run True")},
    "gaussian-randomized": ANY
    | SAMPLING
    | SELECTION
    | FIXED
    | P_LOWER
    | {
        "w-above": (votes(w=2.0), "expected w in"),
        "w-gone": (rebuilt(w=None), "randomized is False, in the run True"),
    },
    "at-radius": ANY | SAMPLING,
    "at-radius-spending": ANY
    | SAMPLING
    | SELECTION
    | SEQUENTIAL
    | GRID
    | {"r": (rebuilt(r=(0.1, 0.3, 0.5)), r"r is \[0.1, 0.3, 0.5\], in the run \[0.1, 0.3, 0.6\]")},
    "adaptive": ANY
    | SAMPLING
    | SELECTION
    | SEQUENTIAL
    | P_LOWER
    | {
        "went-on-with-fewer": (votes(go_on_at=lambda least: [10**6, *least[1:]]), "do not go on from"),
        "did-not-end": (votes(go_on_at=lambda least: [*least[:-1], 0]), "and end there"),
        "go-on-missing": (votes(go_on_at=lambda least: least[1:]), "to go on at for each"),
        "go-on-fraction": (votes(go_on_at=lambda least: [*least[:-1], least[-1] + 0.5]), "a number of votes to go on"),
    },
    "adaptive-spending": ANY | SAMPLING | SELECTION | SEQUENTIAL | GRID,
    "betting": ANY
    | SAMPLING
    | SELECTION
    | SEQUENTIAL
    | P_LOWER
    | {
        "two-class": (rebuilt(two_class=True), "two_class is True, in the run False"),
        "rivals": (votes(rivals=lambda found: found[:-1]), "do not fit"),
    },
    "split": ANY
    | SAMPLING
    | SELECTION
    | {
        "n": FIXED["n"],
        "form": (outer(form="ratio"), "form is 'ratio', in the run 'reach'"),
        "gamma": (outer(gamma=lambda gamma: 2 * gamma), "follows class"),
        "gamma-negative": (outer(gamma=-1.0), "are not negative"),
        "bound": (outer(local_bound=1e9), "are not within"),
        "rounding": (outer(rounding=-1.0), "are not negative"),
        "feature-radius": (outer(feature_radius=9.0), "feature_radius is 9.0"),
        "inner-number": (outer(inner=3), NONE),
        "inner-of-another-kind": (with_inner("adaptive"), "Gaussian leaves FixedVotes, found StoppedVotes"),
    },
    "split-adaptive": ANY | SAMPLING | SELECTION | SEQUENTIAL,
    "margin": ANY
    | {
        "margin": (outer(margin=lambda margin: 2 * margin), "follows class"),
        "margin-text": (outer(margin="0.5"), NONE),
        "margin-missing": (without("margin"), NONE),
        "margin-unknown": (outer(margin=None), "follows class None"),
        "error": (outer(error=-1.0), "error is -1.0"),
        "constant": (outer(constant=lambda constant: constant / 2), "follows class"),
        "constant-negative": (outer(constant=-1.0), "constant is -1.0"),
        "constant-nan": (outer(constant=math.nan), "NaN is no finite number"),
        "constant-gone": (outer(constant=0.0), "follows class"),
        "diameter": (outer(diameter=1e-3), "follows class"),
        "class-in-evidence": (outer(prediction=7), "follows class 7"),
        "class-as-text": (outer(prediction="1"), "expected prediction to be int, got '1'"),
        "threat-in-evidence": (outer(threat="linf"), "but 'linf' follows"),
    },
    "linf-box": ANY
    | {
        "radius-in-evidence": (outer(radius=0.999), "follows class"),
        "radius-beyond": (outer(radius=1.5), "radius is 1.5, expected"),
        "radius-negative": (outer(radius=-1.0), "radius is -1.0, expected"),
        "steps": (outer(steps=3), "steps is 3, in the run 20"),
        "margin-number": (outer(margin=3), NONE),
        "start-abstains": (outer(margin=lambda margin: margin | {"margin": None}), "follows class None"),
        "start-class": (outer(margin=lambda margin: margin | {"prediction": 5}), "follows class 5"),
    },
}
FORGERIES["betting-two-class"] = ANY | SAMPLING | SELECTION | SEQUENTIAL | P_LOWER


def test_every_certifier_is_forged_in_fifteen_ways_or_more() -> None:
    assert FORGERIES.keys() == CERTIFIERS.keys()
    assert all(len(forgeries) >= 15 for forgeries in FORGERIES.values())


@pytest.mark.parametrize(
    ("name", "forgery"), [(name, forgery) for name, forgeries in FORGERIES.items() for forgery in forgeries]
)
def test_a_forged_record_is_refused_with_file_and_line_and_a_reason(name: str, forgery: str, tmp_path: Path) -> None:
    forge, reason = FORGERIES[name][forgery]
    forged, good = record_of(name), json.loads(lines(name)[1])
    before = copy.deepcopy(forged)
    forge(forged)
    assert forged != before
    folder = folder_of(tmp_path / "run", name, [good, forged])
    with pytest.raises(ValueError, match=rf"records-0-of-1\.jsonl, line 2: not a record of this run: .*({reason})"):
        read_records(folder)


@pytest.mark.parametrize("name", CERTIFIERS)
def test_evidence_of_another_certifier_than_that_of_the_run_is_refused(name: str, tmp_path: Path) -> None:
    mine = type(CERTIFIERS[name].certifier)
    others = [other for other, case in CERTIFIERS.items() if type(case.certifier) is not mine]
    for other in others:
        record = record_of(other)
        if record["certificate"]["radius"] > CERTIFIERS[name].certifier.cap():
            continue
        folder = folder_of(tmp_path / other, name, [record])
        with pytest.raises(ValueError, match=f"line 1: .*{mine.__name__} leaves .*, f"):
            read_records(folder)


def test_only_a_threat_is_left_to_the_classifier() -> None:
    found = Certificate(**record_of("gaussian")["certificate"])
    with pytest.raises(ValueError, match=r"sigma is 0\.\d+, in the run 'own'"):
        verified(found, CERTIFIERS["gaussian"].certifier.to_dict() | {"sigma": "own"})


def test_the_settings_of_a_certifier_of_somebody_else_are_compared_too() -> None:
    """Whatever it is called: names that it shares with its evidence mean the same."""
    found = Certificate(**record_of("gaussian")["certificate"])
    mine = CERTIFIERS["gaussian"].certifier.to_dict() | {"kind": "MyOwn"}
    assert verified(found, mine)
    with pytest.raises(ValueError, match=r"alpha is 0\.05, in the run 0\.001"):
        verified(found, mine | {"alpha": 0.001})


def test_noise_that_proves_no_l2_radii_is_refused_where_movements_are_bounded_in_l2() -> None:
    class Flat(Quiet):
        threat = "l1"

    with pytest.raises(ValueError, match=r"split bounds movements in l2, and .* proves l1 radii"):
        Split(Gaussian(noise=Flat()))


def old(pattern: str) -> tuple[dict[str, Any], list[Line]]:
    """The certifier and the records of a folder of an earlier version."""
    (folder,) = RESULTS.glob(pattern)
    records = [dataclasses.asdict(record) for record in read_records(folder)]
    return json.loads((folder / "run.json").read_text())["certification"]["certifier"], records


OLD = {
    "gaussian-mnist-0.25-*/certify-*": (500, 500),
    "gaussian-mnist-1.00-aff718f26cbb/certify-*": (479, 500),
    "gaussian-mnist-0.50-205e808ebfb0/certify-2e*": (500, 500),
    "splitz-mnist-0.50-*/certify-12*": (477, 500),
}


@pytest.mark.parametrize("pattern", OLD)
def test_what_an_old_version_kept_is_computed_again_and_the_rest_counted(pattern: str) -> None:
    (folder,) = RESULTS.glob(pattern)
    again, total = OLD[pattern]
    found = read_checked(folder)
    assert (sum(checked.evidence is not None for checked in found), len(found)) == (again, total)
    lacks = CertifiedRun.open(folder).lacks
    assert "no checksum of its images was kept" in lacks
    missing = f"not recomputable: {total - again:,} of {total:,} radii, whose evidence was not kept in full"
    assert (missing in lacks) == (again < total)


@pytest.mark.parametrize("pattern", OLD)
def test_an_edited_record_of_an_old_version_is_refused(pattern: str) -> None:
    certifier, records = old(pattern)
    certificates = [Certificate(**record["certificate"]) for record in records]
    certain = [found for found in certificates if found.radius > 0 and verified(found, certifier)]
    assert certain
    for certificate in certain[:40]:
        for changes in (
            {"radius": certificate.radius + 3},
            {"radius": certificate.radius / 4},
            {"prediction": (certificate.prediction or 0) + 1},
            {"confidence": 1.0},
            {"norm": "linf"},
            {"evidence": {**certificate.evidence, "alpha": 0.5}},
        ):
            with pytest.raises(ValueError, match=r"follow|alpha|not within|norm"):
                verified(dataclasses.replace(certificate, **changes), certifier)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(1e-6, 0.2))
def test_bounds_of_neighboring_counts_are_those_of_each_alone(votes: tuple[int, int], alpha: float) -> None:
    assert fixed_lower(*votes, alpha) == lower_bound(*votes, alpha)
    assert fixed_upper(*votes, alpha) == upper_bound(*votes, alpha)
    for count in (-1, votes[1] + 1):
        with pytest.raises(ValueError, match="expected counts between"):
            fixed_lower(count, votes[1], alpha)
        with pytest.raises(ValueError, match="expected counts between"):
            fixed_upper(count, votes[1], alpha)


def test_settings_that_many_records_share_are_read_once_and_never_mixed_up() -> None:
    whole, point = rich({"kind": "Lattice", "step": 1}), rich({"kind": "Lattice", "step": 1.0})
    assert rich({"kind": "Lattice", "step": 1}) is whole
    assert (type(whole.step), type(point.step)) == (int, float)
    assert rich([1, [2, {"kind": "Float32"}]]) == (1, (2, Float32()))
