"""Every published log, read and summarised, gives exactly the pinned numbers."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from holdfast.report.curve import Curve
from holdfast.report.published import find, published
from holdfast.runs.logs import read_log

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
