"""Every published log, read and summarised, gives exactly the pinned numbers."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from holdfast import checker
from holdfast.cli import main
from holdfast.report.curve import Curve
from holdfast.report.plan import Pilot
from holdfast.report.published import find, published
from holdfast.report.summary import summarise
from holdfast.runs.logs import read_log, released
from holdfast.smoothing.statistics.binomial import radius_cap
from holdfast.smoothing.statistics.planning import shares_from_radii

HERE = Path(__file__).resolve().parent
GOLDEN = Path(os.environ.get("HOLDFAST_GOLDEN", HERE.parent.parent / "shared" / "golden"))
TABLE = GOLDEN / "golden.csv"
PINNED = list(csv.DictReader(TABLE.read_text().splitlines())) if TABLE.exists() else []

pytestmark = pytest.mark.skipif(
    not PINNED, reason=f"no published logs in {GOLDEN}; set HOLDFAST_GOLDEN to their folder"
)


def curve(file: str) -> Curve:
    return Curve(file, list(read_log(GOLDEN / file)))


@pytest.mark.parametrize("pinned", PINNED, ids=lambda row: row["file"])
def test_a_published_log_reproduces_its_pinned_counts(pinned: dict[str, str]) -> None:
    found = curve(pinned["file"])
    at = {float(name.rsplit("_", 1)[1]): int(count) for name, count in pinned.items() if name.startswith("certified")}
    assert len(found) == int(pinned["rows"])
    assert found.acr.value == pytest.approx(float(pinned["acr"]), abs=1e-6)
    assert {radius: int(found.reaches(radius).sum()) for radius in at} == at
    assert found.counts(np.array(list(at))).tolist() == list(at.values())


@pytest.mark.parametrize("pinned", PINNED, ids=lambda row: row["file"])
def test_a_released_log_has_the_alpha_that_its_radii_follow_from(pinned: dict[str, str]) -> None:
    path = GOLDEN / pinned["file"]
    run, told = Curve.open(path), released(path)
    sigma, n = run.settings["sigma"], run.settings["n"]
    fits = [alpha for alpha in (0.001, 0.01) if all(ok for ok, _ in checker.check_log(path, sigma, n, alpha))]
    assert fits == told["fits"]
    assert run.alpha == fits[0]  # where both fit, that of the released script
    assert {record.certificate.confidence for record in run.records} == {1 - fits[0]}
    assert run.cap == pytest.approx(radius_cap(sigma, n, fits[0]), rel=1e-5)
    assert told["source"] == f"https://github.com/{pinned['repository']}, {pinned['path']}"


AT_01 = "cifar10-resnet110-cohen-noise0.50-test-sigma0.50.tsv.gz"
AT_001 = "cifar10-resnet110-cohen-noise1.00-test-sigma0.50.tsv.gz"


def test_report_plan_and_verify_use_the_alpha_of_a_released_log(capsys: pytest.CaptureFixture[str]) -> None:
    result = summarise([GOLDEN / AT_01, GOLDEN / AT_001])
    (wrong,) = [row[1:] for table in result.tables for row in table.rows if row[0] == "wrong at most"]
    assert wrong == ("13 (2.60 points)", "4 (0.80 points)")  # P(Binomial(500, alpha) > them) <= 0.001, and not of fewer
    told = "\n".join(result.notes)
    assert "alpha differs (A: 0.01; B: 0.001)" in told
    assert "from votes of n = 100,000 at 0.01" in told
    assert "taken to be" not in told
    radii = np.array([record.certificate.radius for record in read_log(GOLDEN / AT_01)])
    shares = Pilot.of(GOLDEN / AT_01, 0.25, None, 1000).shares
    assert shares.tolist() == shares_from_radii(radii, 0.5, 100_000, 0.01).tolist()
    main(["verify", str(GOLDEN / AT_01)])
    assert "all that could be checked holds" in capsys.readouterr().out


def test_a_log_with_another_digit_is_not_the_released_one(tmp_path: Path) -> None:
    text = gzip.decompress((GOLDEN / AT_01).read_bytes())
    (tmp_path / "same.tsv").write_bytes(text)
    (tmp_path / "other.tsv").write_bytes(text.replace(b"\t0", b"\t1", 1))
    assert Curve.open(tmp_path / "same.tsv").alpha == 0.01
    other = Curve.open(tmp_path / "other.tsv")
    assert other.settings == {}
    assert other.alpha == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("file", "method", "sigma", "examples"),
    [
        ("cifar10-resnet110-cohen-noise0.25-test-sigma0.25.tsv.gz", "GaussianNoise", 0.25, 500),
        ("cifar10-resnet110-cohen-noise0.50-test-sigma0.50.tsv.gz", "GaussianNoise", 0.5, 500),
        ("cifar10-resnet110-cohen-noise1.00-test-sigma1.00.tsv.gz", "GaussianNoise", 1.0, 500),
        ("cifar10-resnet110-gaussian-sigma0.50.tsv.gz", "GaussianNoise", 0.5, 10_000),
        ("cifar10-resnet110-consistency-sigma1.00.tsv.gz", "Consistency", 1.0, 10_000),
        ("imagenet-resnet50-cohen-noise0.25-test-sigma0.25.tsv.gz", "GaussianNoise", 0.25, 427),
        ("imagenet-resnet50-cohen-noise1.00-test-sigma1.00.tsv.gz", "GaussianNoise", 1.0, 500),
    ],
)
def test_a_published_row_agrees_with_its_log(file: str, method: str, sigma: float, examples: int) -> None:
    dataset, arch = file.split("-")[:2]
    alike = find(published(), method, dataset, arch, "l2", sigma)
    rows = [row for row in alike if row.examples == examples and row.acr]
    (row,) = [row for row in rows if "logs" in row.how]
    found = curve(file)
    assert row.acr == pytest.approx(found.acr.value, abs=6e-5)
    assert row.accuracy == pytest.approx({at: 100 * found.accuracy(at).value for at in row.accuracy}, abs=0.0051)


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_one_training_seed_lies_near_the_published_mean_over_five(sigma: float) -> None:
    (row,) = [row for row in find(published(), "GaussianNoise", "mnist", "lenet", "l2", sigma) if row.acr_sd]
    found = curve(f"mnist-lenet-gaussian-sigma{sigma:.2f}.tsv.gz")
    assert row.acr == pytest.approx(found.acr.value, abs=4 * (row.acr_sd or 0))
