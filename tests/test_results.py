"""Every number of docs/results.md that has a run folder is recomputed from the records in it, digit by digit."""

import copy
import csv
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from test_golden_logs import GOLDEN

from holdfast.report.published import published
from holdfast.report.statistics import paired_difference
from holdfast.runs.certified import read
from holdfast.runs.logs import read_log
from holdfast.smoothing.statistics.planning import expected_radii, shares_from_radii

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results", (ROOT / "docs" / "results.md").read_text()
HEADINGS = re.findall(r"^(#+ (.*))$", PAGE, re.MULTILINE)

AGAIN = "gaussian-mnist-0.50-83b93f6bfa1a-again"
FULL, SHORT_GAUSSIAN = "gaussian-mnist-0.50-83b93f6bfa1a", "gaussian-mnist-0.50-205e808ebfb0"


class Records:
    """What a certify folder or a published log proves, by the index of the image."""

    def __init__(self, source: Path, every: int = 1) -> None:
        found = read_log(source) if source.is_file() else read(source)
        records = sorted((record for record in found if record.index % every == 0), key=lambda record: record.index)
        self.indices = [record.index for record in records]
        self.right: NDArray = np.array([record.correct for record in records])
        self.claimed: NDArray = np.array([record.certificate.radius for record in records])
        self.radii: NDArray = self.claimed * self.right
        self.abstained = np.array([record.certificate.prediction is None for record in records])
        self.samples = np.array([int(record.certificate.evidence.get("samples", 1)) for record in records])

    def percent(self, radius: float) -> float:
        return 100 * float((self.right & (self.radii >= radius)).mean())

    @property
    def acr(self) -> float:
        return float(self.radii.mean())

    def expected(self, sigma: float, n: int) -> "Records":
        """What a log of n = 100,000 would be with fewer samples, by the vote shares that its radii tell."""
        fewer = copy.copy(self)
        shares = shares_from_radii(self.claimed, sigma, 100_000, 0.001)
        fewer.radii = expected_radii(shares, n, 0.001) * sigma * self.right
        return fewer

    def interval(self) -> tuple[float, float]:
        """95 % of Student's t."""
        half = stats.t.ppf(0.975, len(self.radii) - 1) * self.radii.std(ddof=1) / math.sqrt(len(self.radii))
        return self.acr - half, self.acr + half

    def less(self, other: "Records") -> tuple[float, float, float]:
        """Paired difference of ACR with its 95 % interval."""
        assert self.indices == other.indices
        found = self.radii - other.radii
        half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
        return float(found.mean()), float(found.mean() - half), float(found.mean() + half)

    def less_at(self, other: "Records", radius: float) -> tuple[float, float, float]:
        """Paired difference of certified accuracy in points, with its 95 % interval."""
        assert self.indices == other.indices
        ours, theirs = (found.right & (found.radii >= radius) for found in (self, other))
        gain = paired_difference(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours))
        return 100 * gain.value, 100 * gain.low, 100 * gain.high


def seeds(method: str, sigma: float) -> list[Records]:
    """The released logs of all five seeds of a published training, every 20th image of MNIST."""
    found = sorted((RESULTS / "released").glob(f"mnist-lenet-{method}-sigma{sigma:.2f}-*"))
    assert len(found) == 5
    return [Records(path) for path in found]


@cache
def log(sigma: float, every: int = 1, method: str = "gaussian") -> Records:
    """The published log of a training on MNIST, of one seed; without the logs the test is skipped, but every 20th image
    is at hand."""
    name = f"mnist-lenet-{method}-sigma{sigma:.2f}"
    seed = {0.25: 3870, 0.5: 1801, 1.0: 2110}[sigma] if method == "gaussian" else 21
    path = RESULTS / "released" / f"{name}-{seed}.tsv.gz" if every == 20 else GOLDEN / f"{name}.tsv.gz"
    if not path.is_file():
        pytest.skip(f"no published logs in {GOLDEN}; set HOLDFAST_GOLDEN to their folder")
    return Records(path, every)


@cache
def records(run: str, **wanted: object) -> Records:
    """The certified data set of a run whose certifier has these settings, the largest; its kind is `kind`, as that of a
    setting."""
    paths = (RESULTS / run).glob("certify-*/run.json")
    for path in sorted(paths, key=lambda path: (-json.loads(path.read_text())["total"], path)):
        certifier = json.loads(path.read_text())["certification"]["certifier"]
        found = certifier.get("inner", {}) | certifier
        found = {name: value["kind"] if isinstance(value, dict) else value for name, value in found.items()}
        if all(
            found.get(name) == (list(value) if isinstance(value, tuple) else value) for name, value in wanted.items()
        ):
            return Records(path.parent)
    raise AssertionError(f"no certified set of {run} with {wanted}")


def section(heading: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"^#+ ", PAGE.split(f"{heading}\n", 1)[1], flags=re.MULTILINE)[0]


def rows(heading: str, number: int = 0) -> list[list[str]]:
    """The cells of a table of a section, without its head."""
    tables = re.findall(r"(?:^\|.*\n)+", section(heading), re.MULTILINE)
    lines = tables[number].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(r"[-+]?\d[\d,]*\.?\d*", text)]


def agrees(cell: str, *values: float) -> None:
    """Every number of a cell is the value, rounded to the digits that are shown."""
    shown = re.findall(r"[-+]?\d[\d,]*\.?\d*", cell)
    assert len(shown) == len(values), (cell, values)
    for text, value in zip(shown, values, strict=True):
        digits = len(text.partition(".")[2])
        assert float(text.replace(",", "")) == pytest.approx(value, abs=0.5000001 * 10**-digits), (cell, values)


def test_what_stands_at_a_glance_stands_in_the_section_it_links_to() -> None:
    headings = {re.sub(r"[^\w -]", "", name).lower().replace(" ", "-"): line for line, name in HEADINGS}
    for name, _, ours, theirs, difference, _ in rows("## At a glance"):
        (anchor,) = re.findall(r"\(#(.*?)\)", name)
        below = section(headings[anchor])
        for cell in (ours, theirs, difference):
            assert set(re.findall(r"[-+]?[\d.,]+", cell)) <= set(re.findall(r"[-+]?\d[\d,]*\.?\d*", below)), (
                name,
                cell,
            )


IN_FULL = [
    ("### sigma 0.50, n = 100,000", FULL, 0.5, "gaussian"),
    ("### SmoothMix, sigma 0.50, n = 100,000", "smoothmix-mnist-0.50-f5b8eab712a7", 0.5, "smoothmix-eta5"),
    ("### SmoothMix, sigma 0.25, n = 100,000", "smoothmix-mnist-0.25-b374f34a733a", 0.25, "smoothmix-eta5"),
    (
        "### SmoothMix with a one-step adversary, sigma 0.50, n = 100,000",
        "smoothmix-onestep-mnist-0.50-5b7c160668ba",
        0.5,
        "smoothmix-eta5-onestep",
    ),
]
"""Headings, runs, and what the published log is of."""


@pytest.mark.parametrize(("heading", "run", "sigma", "method"), IN_FULL)
def test_training_in_full(heading: str, run: str, sigma: float, method: str) -> None:
    ours = records(run, kind="Gaussian", n=100_000)
    for name, cell, *_ in rows(heading):
        agrees(cell, ours.acr if name == "ACR" else ours.percent(numbers(name)[0]))


@pytest.mark.parametrize(("heading", "run", "sigma", "method"), IN_FULL)
def test_the_published_log_beside_training_in_full(heading: str, run: str, sigma: float, method: str) -> None:
    ours, theirs = records(run, kind="Gaussian", n=100_000), log(sigma, 20, method)
    assert ours.indices == theirs.indices
    for name, _, cell, difference in rows(heading):
        if name == "ACR":
            agrees(cell, theirs.acr)
            agrees(difference, *ours.less(theirs))
            continue
        at = numbers(name)[0]
        agrees(cell, theirs.percent(at))
        agrees(difference, *ours.less_at(theirs, at))


def stand_beside(told: list[list[str]], found: Records, accuracy: Mapping[float, float]) -> None:
    """Rows (at a radius, images, samples per image, ours, published, ours - published, what images are chosen)."""
    for name, total, samples, ours, theirs, difference, _ in told:
        at = numbers(name)[0]
        agrees(total, len(found.indices))
        agrees(samples, found.samples.mean())
        agrees(ours, found.percent(at))
        agrees(theirs, accuracy[at])
        agrees(difference, found.percent(at) - accuracy[at])


def are_chosen(told: list[list[str]]) -> None:
    """The last cell of such rows: the released Gaussian log on every 20th image less that on all."""
    for name, *_, cell in told:
        agrees(cell, log(0.5, every=20).percent(numbers(name)[0]) - log(0.5).percent(numbers(name)[0]))


CONSISTENCY, CONSISTENCY_SECTION = (
    "consistency-mnist-0.50-253f200c3507",
    "## Consistency training on MNIST, sigma 0.50: the published recipe in full",
)


def test_consistency_training_in_full() -> None:
    some, every = records(CONSISTENCY, kind="Gaussian", n=10_000), records(CONSISTENCY, kind="AtRadius")
    (row,) = [row for row in published() if (row.method, row.dataset, row.sigma) == ("Consistency", "mnist", 0.5)]
    (_, total, samples, ours, *_), *others = rows(CONSISTENCY_SECTION)
    exact = stats.binomtest(int((every.right & (every.radii >= 0.5)).sum()), 10_000).proportion_ci(0.95, "exact")
    agrees(total, len(every.indices))
    agrees(samples, every.samples.mean())
    agrees(ours, every.percent(0.5), 100 * exact.low, 100 * exact.high)
    stand_beside(others, some, row.accuracy)
    agrees(re.findall(r"1\.4373 \[.*?\]", section(CONSISTENCY_SECTION))[0], some.acr, *some.interval())


def test_the_images_that_consistency_is_shown_on_beside_all_of_them() -> None:
    are_chosen(rows(CONSISTENCY_SECTION)[1:])


SMOOTHMIX_FULL, SMOOTHMIX_FULL_SECTION = (
    "smoothmix-mnist-0.50-f5b8eab712a7",
    "## SmoothMix training on MNIST, sigma 0.50: the published recipe in full",
)


SMOOTHMIX_RUNS = [
    (SMOOTHMIX_FULL, SMOOTHMIX_FULL_SECTION, 0.5, "smoothmix-eta5"),
    (
        "smoothmix-mnist-0.25-b374f34a733a",
        "## SmoothMix training on MNIST, sigma 0.25: the published recipe in full",
        0.25,
        "smoothmix-eta5",
    ),
    (
        "smoothmix-onestep-mnist-0.50-5b7c160668ba",
        "## SmoothMix with a one-step adversary on MNIST, sigma 0.50: the published recipe in full",
        0.5,
        "smoothmix-eta5-onestep",
    ),
]
"""The full runs, their sections, sigma, and what the published log is of."""


@pytest.mark.parametrize(("run", "heading", "sigma", "method"), SMOOTHMIX_RUNS)
def test_smoothmix_training_in_full(run: str, heading: str, sigma: float, method: str) -> None:
    found = records(run, kind="Gaussian", n=10_000)
    for name, total, cell, *_ in rows(heading):
        agrees(total, len(found.indices))
        agrees(cell, *((found.acr, *found.interval()) if name == "ACR" else (found.percent(numbers(name)[0]),)))
    text = " ".join(section(heading).split())
    radius, *told = re.findall(r"At ([\d.]+), all 10,000 test images: (.*?) % with (.*?) samples", text)[0]
    every = records(run, kind="AtRadius", r=(float(radius),))
    certified = int((every.right & (every.radii >= float(radius))).sum())
    exact = stats.binomtest(certified, 10_000).proportion_ci(0.95, "exact")
    agrees(" ".join(told), certified / 100, 100 * exact.low, 100 * exact.high, every.samples.mean())
    epochs = csv.DictReader((RESULTS / run / "metrics.csv").read_text().splitlines())
    agrees(re.findall(r"([\d,]+) s by the clock", text)[0], sum(float(row["seconds"]) for row in epochs))


def test_smoothmix_with_fewer_samples() -> None:
    heading = "### SmoothMix, sigma 0.50, with fewer samples"
    few, most = records(SMOOTHMIX_FULL, min_gain=0.1), records(SMOOTHMIX_FULL, kind="Gaussian", n=100_000)
    saved, text = 100 * (1 - few.samples.sum() / most.samples.sum()), " ".join(section(heading).split())
    told = re.findall(
        r"alpha = 0.001\): (\S+) samples per image, (\S+) % saved, ACR ([\d.]+); less .*?: ([^]]+\])", text
    )[0]
    agrees(" ".join(told), float(few.samples.mean()), saved, few.acr, *few.less(most))
    told = re.findall(r"At 0.5 it certifies (\S+) %, at 1 (\S+) % \(n = 100,000: (\S+) and (\S+)\)", text)[0]
    agrees(" ".join(told), *(found.percent(radius) for found in (few, most) for radius in (0.5, 1)))
    (known,) = [row for row in published() if (row.label, row.dataset, row.sigma) == ("SmoothMix η=5", "mnist", 0.5)]
    for radius, images, percent, theirs, difference, samples, saved in rows(heading):
        found, at = records(SMOOTHMIX_FULL, kind="AtRadius", r=(float(radius),)), float(radius)
        assert found.indices == list(range(0, 10_000, 10_000 // int(numbers(images)[0])))
        certified = int((found.right & (found.radii >= at)).sum())
        exact = stats.binomtest(certified, len(found.indices)).proportion_ci(0.95, "exact")
        agrees(percent, found.percent(at), 100 * exact.low, 100 * exact.high)
        agrees(theirs, known.accuracy[at])
        agrees(difference, found.percent(at) - known.accuracy[at])
        agrees(samples, float(found.samples.mean()))
        agrees(saved, 100 * (1 - found.samples.mean() / 100_100))


def test_smoothmix_with_a_one_step_adversary_beside_smoothmix_without() -> None:
    run, heading, *_ = SMOOTHMIX_RUNS[-1]
    found, text = records(run, kind="Gaussian", n=10_000), " ".join(section(heading).split())
    without = records(SMOOTHMIX_FULL, kind="Gaussian", n=10_000)
    agrees(re.findall(r"less than without: ([-+].*?\])", text)[0], *found.less(without))
    logs = [log(0.5, 20, f"smoothmix-eta5{name}").expected(0.5, 10_000) for name in ("-onestep", "")]
    agrees(re.findall(r"logs, expected at n = 10,000: ([-+].*?\])", text)[0], *logs[0].less(logs[1]))
    (row,) = [r for r in published() if (r.label, r.dataset, r.sigma) == ("SmoothMix + one-step η=5", "mnist", 0.5)]
    agrees(re.findall(r"five seeds: ([\d.]+) %", text)[0], row.accuracy[1.0])


def test_smoothmix_training_in_full_beside_less_and_beside_consistency() -> None:
    found, text = records(SMOOTHMIX_FULL, kind="Gaussian", n=10_000), " ".join(section(SMOOTHMIX_FULL_SECTION).split())
    short, consistency = re.findall(r"[-+]0\.\d{4} \[.*?\]", text.rpartition("The ACR is")[2])
    agrees(short, *found.less(records(SMOOTHMIX, kind="Gaussian", n=10_000)))
    agrees(consistency, *found.less(records(CONSISTENCY, kind="Gaussian", n=10_000)))


@pytest.mark.parametrize(("run", "heading", "sigma", "method"), SMOOTHMIX_RUNS)
def test_the_published_log_beside_smoothmix_training_in_full(run: str, heading: str, sigma: float, method: str) -> None:
    ours, theirs = records(run, kind="Gaussian", n=10_000), log(sigma, 20, method)
    assert ours.indices == theirs.indices
    fewer = theirs.expected(sigma, 10_000)
    for name, _, _, there, expected, difference in rows(heading):
        if name == "ACR":
            agrees(there + " " + expected, theirs.acr, fewer.acr)
            agrees(difference, *ours.less(fewer))
            continue
        at = numbers(name)[0]
        agrees(there + " " + expected, theirs.percent(at), fewer.percent(at))
        agrees(difference, *ours.less_at(fewer, at))


@pytest.mark.parametrize(("run", "heading", "sigma", "method"), SMOOTHMIX_RUNS[:2])
def test_the_published_log_of_all_images_beside_smoothmix_training_in_full(
    run: str, heading: str, sigma: float, method: str
) -> None:
    text = " ".join(section(heading).split())
    agrees(re.findall(r"the log: ([\d.]+) %", text)[0], log(sigma, 1, method).percent(0.5))


SMOOTHMIX, SMOOTHMIX_SECTION = (
    "smoothmix-mnist-0.50-short-e9c7e0ad8b85",
    "## SmoothMix training on MNIST, sigma 0.50: a fifth of the published epochs",
)


def test_smoothmix_training_in_a_fifth_of_the_epochs() -> None:
    (row,) = [row for row in published() if (row.label, row.dataset, row.sigma) == ("SmoothMix η=5", "mnist", 0.5)]
    stand_beside(rows(SMOOTHMIX_SECTION), records(SMOOTHMIX, kind="AtRadius"), row.accuracy)
    found, text = records(SMOOTHMIX, kind="Gaussian", n=10_000), section(SMOOTHMIX_SECTION).replace("\n", " ")
    agrees(re.findall(r"n = 10,000: (1.*?\])", text)[0], found.acr, *found.interval())
    full, short = re.findall(r"[+]0\.\d{4} \[.*?\]", text)
    agrees(full, *found.less(records(CONSISTENCY, kind="Gaussian", n=10_000)))
    agrees(short, *found.less(records("consistency-mnist-0.50-short-65f3c9e025f6", kind="Gaussian", n=10_000)))


def test_the_images_that_smoothmix_is_shown_on_beside_all_of_them() -> None:
    are_chosen(rows(SMOOTHMIX_SECTION))


def test_the_published_logs_at_other_sigmas_by_expectation() -> None:
    for sigma, _, cell, _ in rows("### sigma 0.25 and 1.00, n = 10,000"):
        agrees(cell, log(float(sigma), every=20).expected(float(sigma), 10_000).acr)


def test_what_bfloat16_costs_a_certificate() -> None:
    run = RESULTS / SMOOTHMIX_FULL
    float32, bfloat16 = Records(run / "certify-12ca94fb88b7"), Records(run / "certify-d33f8ce06274", 400)
    text = " ".join(section("### SmoothMix, sigma 0.50, n = 100,000").split())
    agrees(re.findall(r"float32 less bfloat16: ([-+].*?\])", text)[0], *float32.less(bfloat16))
    there = [one.percent(1.75) for one in seeds("smoothmix-eta5", 0.5)]
    agrees(re.findall(r"five released seeds have (.*?) there", text)[0], min(there), max(there))


def test_training_in_full_beside_the_released_seeds() -> None:
    told = rows("## One more seed of the published trainings")
    assert {run.split("`")[1] for run, *_ in told} >= {run for _, run, *_ in IN_FULL} | {CONSISTENCY} | {
        run for run, *_ in SMOOTHMIX_RUNS
    }
    for run, setting, cell, size, mean, deviation, difference, half in told:
        name, sigma, n = *setting.split(), int(numbers(cell)[0])
        logs, ours = seeds(name, float(sigma)), records(run.split("`")[1], kind="Gaussian", n=n)
        assert {tuple(one.indices) for one in logs} == {tuple(ours.indices)}
        found = np.array([(one if n == 100_000 else one.expected(float(sigma), n)).acr for one in logs])
        spread = float(found.std(ddof=1))
        agrees(size, ours.acr)
        agrees(mean, float(found.mean()))
        agrees(deviation, spread)
        agrees(difference, ours.acr - float(found.mean()))
        agrees(half, float(stats.t.ppf(0.975, 4)) * spread * math.sqrt(1 + 1 / 5))


@pytest.mark.parametrize(
    ("method", "sigma"),
    [("gaussian", 0.25), ("gaussian", 0.5), ("gaussian", 1.0), ("smoothmix-eta5", 0.25), ("smoothmix-eta5", 0.5)],
)
def test_the_part_at_hand_of_a_published_log_is_every_20th_image_of_it(method: str, sigma: float) -> None:
    whole, part = log(sigma, 1, method), log(sigma, 20, method)
    assert part.indices == whole.indices[::20]
    assert np.array_equal(part.claimed, whole.claimed[::20])
    assert np.array_equal(part.right, whole.right[::20])


def test_the_published_log_of_all_test_images() -> None:
    _, (_, total, _, abstained, *at, acr) = rows("### All 10,000 test images")
    theirs = log(0.5)
    agrees(total, 10_000 * 100_100)
    agrees(abstained, 100 * float(theirs.abstained.mean()))
    for cell, radius in zip(at, (0, 0.25, 0.5, 0.75, 1.0), strict=True):
        agrees(cell, theirs.percent(radius))
    agrees(acr, theirs.acr, *theirs.interval())


def test_gaussian_training_at_other_sigmas() -> None:
    runs = {"0.25": "gaussian-mnist-0.25-584b3a959bcc", "1.00": "gaussian-mnist-1.00-6fe43fc28858"}
    for sigma, cell, log, difference in rows("### sigma 0.25 and 1.00, n = 10,000"):
        found = records(runs[sigma], n=10_000)
        agrees(cell, found.acr, *found.interval())
        assert numbers(difference)[0] == pytest.approx(found.acr - numbers(log)[0], abs=1.01e-4)


def test_samples_that_are_worth_it() -> None:
    wanted = {"gaussian": {"kind": "Gaussian"}, "at-radius": {"kind": "AtRadius"}, "adaptive": {"price": 0.1}}
    most = records(FULL, kind="Gaussian", n=100_000)
    for name, samples, total, saved, at, acr, difference, _ in rows("## Samples that are worth it"):
        found = records(FULL, **wanted[re.findall(r"[\w-]+", name)[0]])
        agrees(samples, float(found.samples.mean()))
        agrees(total, float(found.samples.sum()))
        agrees(at, found.percent(0.5))
        if saved:
            agrees(saved, 100 * (1 - found.samples.sum() / most.samples.sum()))
        if acr:
            agrees(acr, found.acr)
        if difference:
            agrees(difference, *found.less(most))


def test_all_test_images() -> None:
    found = records(FULL, price=5.0)
    (samples, total, _, abstained, *at, acr), _ = rows("### All 10,000 test images")
    agrees(samples, float(found.samples.mean()))
    agrees(total, float(found.samples.sum()))
    agrees(abstained, 100 * float(found.abstained.mean()))
    for cell, radius in zip(at, (0, 0.25, 0.5, 0.75, 1.0), strict=True):
        agrees(cell, found.percent(radius))
    agrees(acr, found.acr, *found.interval())


def test_five_radii_from_the_same_samples() -> None:
    found = records(AGAIN, kind="AtRadius", r=(0.25, 0.5, 0.75, 1.0, 1.5))
    ((samples, total, _, *at),) = rows("### Five radii from the same samples")
    assert len(found.indices) == 250
    assert set(np.diff(found.indices)) == {40}
    agrees(samples, float(found.samples.mean()))
    agrees(total, float(found.samples.sum()))
    for cell, radius in zip(at, (0.25, 0.5, 0.75, 1.0, 1.5), strict=True):
        agrees(cell, found.percent(radius))


def test_five_radii_of_all_test_images() -> None:
    radii = (0.25, 0.5, 0.75, 1.0, 1.25)
    found, known = records(AGAIN, kind="AtRadius", r=radii), log(0.50)
    ours, published, differences = rows("### Five radii from the same samples", 1)
    assert list(found.indices) == list(range(10_000))
    agrees(ours[1], float(found.samples.mean()))
    agrees(ours[2], float(found.samples.sum()))
    for radius, cell, its, difference in zip(radii, ours[4:], published[4:], differences[4:], strict=True):
        agrees(cell, found.percent(radius))
        agrees(its, known.percent(radius))
        agrees(difference, found.percent(radius) - known.percent(radius))


def test_lattice_noise_beside_float32_noise() -> None:
    found = {name: records(AGAIN, kind="Gaussian", n=10000, noise=name.title()) for name in ("float32", "lattice")}
    *shown, (_, difference, *_) = rows("### Noise on a lattice beside float32 noise")
    for name, acr, *at in shown:
        agrees(acr, found[name].acr)
        for cell, radius in zip(at, (0, 0.5, 1.0, 1.25), strict=True):
            agrees(cell, found[name].percent(radius))
    agrees(difference, *found["lattice"].less(found["float32"]))
    assert [int(run.samples.sum()) for run in found.values()] == [5_050_000] * 2


TWO_EPOCHS = "## Training methods of smoothed classifiers, two epochs each"
GLORO = "## GloRo on MNIST: proven, and what power iteration would have claimed"
EMMA, SHORT_EMMA = (
    "## EMMA on CIFAR-10, LiResNet-small: the short recipe, six epochs",
    "emma-cifar10-small-short-7b08b0d87860",
)
FULL_EMMA = "emma-cifar10-small-81164a307f83"


def test_training_methods_after_two_epochs() -> None:
    gaussian = records(SHORT_GAUSSIAN, kind="Adaptive")
    for _, run, steps, *at, acr, difference, known in rows(
        "## Training methods of smoothed classifiers, two epochs each"
    ):
        folder = run.strip("`")
        found = records(folder, kind="Adaptive")
        recipe = json.loads((RESULTS / folder / "run.json").read_text())["recipe"]
        epochs = len(list(csv.DictReader((RESULTS / folder / "metrics.csv").read_text().splitlines())))
        agrees(steps, epochs * math.ceil(60_000 / recipe["batch_size"]))
        for cell, radius in zip(at, (0, 0.5, 1.0, 1.25), strict=True):
            agrees(cell, found.percent(radius))
        agrees(acr, found.acr)
        if difference:
            agrees(difference, *found.less(gaussian))
        ids = (recipe["method"]["kind"], "mnist", 0.5)
        assert numbers(known)[0] in [row.acr for row in published() if (row.method, row.dataset, row.sigma) == ids]


EQUAL_STEPS = "## ResNet-20 on CIFAR-10, sigma 0.25: Gaussian and SmoothMix after equal steps"


def test_smoothmix_beside_gaussian_training_on_cifar10_after_equal_steps() -> None:
    text = " ".join(section(EQUAL_STEPS).split())
    runs = ("gaussian-cifar10-0.25-51d0651b6288", "smoothmix-cifar10-0.25-04469c123ebe")
    plain, mixed = (records(run, n=1000) for run in runs)
    for (name, *at, acr, minutes), run, found in zip(rows(EQUAL_STEPS)[:2], runs, (plain, mixed), strict=True):
        assert run in name
        agrees(" ".join([*at, acr]), *map(found.percent, (0, 0.25, 0.5)), found.acr)
        with (RESULTS / run / "metrics.csv").open() as file:
            epochs = list(csv.DictReader(file))
        agrees(minutes, *(sum(float(e[kind]) for e in epochs) / 60 for kind in ("seconds", "processor_seconds")))
        assert found.claimed.max() < 0.616
    agrees(re.findall(r"Gaussian: ACR ([^]]+\])", text)[0], *mixed.less(plain))
    told = re.findall(r"([-+][\d.]+ \[[^]]+\])(?: points)? at ([\d.]*\d)", text)
    assert [float(radius) for _, radius in told] == [0, 0.25, 0.5]
    for cell, radius in told:
        agrees(cell, *mixed.less_at(plain, float(radius)))


def test_the_published_logs_of_cifar10_on_the_same_images() -> None:
    for (_, *at, acr, _), name in zip(
        rows(EQUAL_STEPS)[2:], ("cohen-noise0.25-test-sigma0.25", "smoothmix-sigma0.25"), strict=True
    ):
        path = GOLDEN / f"cifar10-resnet110-{name}.tsv.gz"
        if not path.is_file():
            pytest.skip(f"no published logs in {GOLDEN}; set HOLDFAST_GOLDEN to their folder")
        found = Records(path, every=20)
        agrees(" ".join([*at, acr]), *map(found.percent, (0, 0.25, 0.5)), found.acr)


def test_what_the_two_epochs_and_the_certifier_cost() -> None:
    text = " ".join(section(TWO_EPOCHS).split())
    longer = records("gaussian-mnist-0.50-1b21b5419e5f", kind="Adaptive")
    agrees(re.findall(r"1,880 steps\) reaches ([\d.]+\d)", text)[0], longer.acr)
    mix = records("smoothmix-mnist-0.50-580ea212c3ad", kind="Adaptive")
    agrees(re.findall(r"better than that by ([^,]+, \+[\d.]+\])", text)[0], *mix.less(longer))
    agrees(re.findall(r"an ACR of ([\d.]+\d), where", text)[0], records(FULL, price=1.0).acr)


def certified_at(cell: str) -> float:
    """36/255, or a number."""
    top, _, bottom = cell.split(" (")[0].partition("/")
    return float(top) / float(bottom or 1)


@pytest.mark.parametrize(
    ("heading", "run"),
    [
        (
            "## GloRo on MNIST: proven, and what power iteration would have claimed",
            "gloro-mnist-0.3-short-9ab902b0eac7",
        ),
        ("## GloRo on MNIST by the scripts of 2021: ReLU, 500 epochs", "gloro-mnist-0.3-c2cb411554b8"),
        (
            "## EMMA on CIFAR-10, LiResNet-small: 30 epochs, proven beside power iteration",
            FULL_EMMA,
        ),
        (EMMA, SHORT_EMMA),
    ],
)
def test_lipschitz_networks(heading: str, run: str) -> None:
    found = records(run, kind="Margin")
    (explained,) = (RESULTS / run).glob("certify-*/explanation.json")
    layers = json.loads(explained.read_text())
    looser = layers["upper"] / layers["power_iteration"]
    for radius, proven, claimed, known, difference in rows(heading):
        at = certified_at(radius)
        share = found.percent(at)
        count = round(share * len(found.radii) / 100)
        exact = stats.binomtest(count, len(found.radii)).proportion_ci(0.95, "exact")
        agrees(proven, share, 100 * exact.low, 100 * exact.high)
        agrees(claimed, found.percent(at / looser) if at else share)
        if known:
            agrees(difference, share - float(known))
    agrees(re.findall(r"^ACR ([^]]+\])", section(heading), re.MULTILINE)[0], found.acr, *found.interval())
    told = dict(rows(heading, 1))
    whole = next(cell for name, cell in told.items() if name.startswith("all layers"))
    agrees(whole, layers["upper"])
    agrees(told["power iteration, 500 steps: not proven"], layers["power_iteration"])
    agrees(next(cell for name, cell in told.items() if name.startswith("reached by")), layers["lower"])
    for names, cell in told.items():
        if names.startswith("conv1"):
            agrees(cell, *(layers["layers"][name] for name in names.split(", ")))


def test_the_short_recipe_of_emma_beside_the_full_one() -> None:
    text = " ".join(section(EMMA).split())
    short, full = records(SHORT_EMMA, kind="Margin"), records(FULL_EMMA, kind="Margin")
    agrees(re.findall(r"images: ACR ([^]]+\])", text)[0], *short.less(full))
    agrees(re.findall(r"at 36/255 ([^]]+\]) points", text)[0], *short.less_at(full, 36 / 255))
    assert short.less_at(full, 36 / 255)[0] > -1
    curve = list(csv.DictReader((RESULTS / SHORT_EMMA / "metrics.csv").read_text().splitlines()))
    agrees(re.findall(r"first three: ([\d., ]+)\.", text)[0], *(float(row["loss"]) for row in curve))
    spent = (sum(float(row[kind]) for row in curve) / 60 for kind in ("seconds", "processor_seconds"))
    agrees(" ".join(re.findall(r"shared: ([\d.]+) minutes by the clock, ([\d.]+) of", text)[0]), *spent)


LINF = "## l-inf-distance nets on MNIST, eps 0.3"


def test_linf_distance_nets() -> None:
    last = ""
    for name, run, seconds, *at, box in rows(LINF)[:7]:
        last = name.split("`")[1].removeprefix("linf-dist-mnist-0.3-") if "`" in name else last
        folder = f"linf-dist-mnist-0.3-{run.strip('`').removeprefix('...-')}"
        recipe = json.loads((RESULTS / folder / "run.json").read_text())["recipe"]
        assert recipe["seed"] == int(numbers(name)[-1])
        assert folder.startswith(f"linf-dist-mnist-0.3-{last}")
        epochs = csv.DictReader((RESULTS / folder / "metrics.csv").read_text().splitlines())
        trained = sum(float(row["seconds"]) for row in epochs)
        agrees(seconds, trained)
        found = records(folder, kind="Margin")
        for cell, radius in zip(at[:3], (0, 0.1, 0.2), strict=True):
            agrees(cell, found.percent(radius))
        count = round(found.percent(0.3) * len(found.radii) / 100)
        exact = stats.binomtest(count, len(found.radii)).proportion_ci(0.95, "exact")
        agrees(at[3], found.percent(0.3), 100 * exact.low, 100 * exact.high)
        if box:
            boxed = records(folder, kind="LInfBox")
            agrees(box, boxed.percent(0.3))
            assert (boxed.radii >= found.radii - 1e-12).all()


def test_the_short_recipe_of_linf_distance_nets_beside_the_full_one() -> None:
    short, full = (
        records(f"linf-dist-mnist-0.3-{run}", kind="Margin")
        for run in ("short-60932a334546", "100-epochs-5053a4aa3c38")
    )
    text = " ".join(section(LINF).split())
    agrees(re.findall(r"That is ([^]]+\]) from", text)[0], *short.less_at(full, 0.3))
    assert short.less_at(full, 0.3)[0] > -1


def test_what_an_attack_is_compared_with_is_what_is_proven() -> None:
    folders = {
        ("20 epochs", "0"): "20-epochs-bca2990a2262",
        ("20 epochs", "1"): "20-epochs-444c8c41191d",
        ("30 epochs", "0"): "30-epochs-426528ae0c34",
        ("30 epochs", "1"): "30-epochs-65e7352a7c14",
    }
    for told, proven, _ in rows(LINF, 1):
        length, rest = told.split(", seed ")
        kind = {"linf-box": "LInfBox", "margin": "Margin"}[re.findall(r"`([\w-]+)`", told)[0]]
        found = records(f"linf-dist-mnist-0.3-{folders[length, rest[0]]}", kind=kind)
        agrees(proven, 100 * float((found.radii[:1000] >= 0.3).mean()))


FIRST_SEED = {
    "gloro-mnist-0.3-short": "gloro-mnist-0.3-short-9ab902b0eac7",
    "emma-cifar10-small-short": SHORT_EMMA,
    "linf-dist-mnist-0.3-short": "linf-dist-mnist-0.3-short-60932a334546",
    "linf-dist-mnist-0.3-100-epochs": "linf-dist-mnist-0.3-100-epochs-5053a4aa3c38",
}
"""By recipe, the run whose seed is 0."""


def test_a_second_seed_of_trainings_without_noise() -> None:
    told = rows("## A second seed of the trainings without noise")
    assert len(told) == len(FIRST_SEED)
    for recipe, radius, *clean, first, second, difference, minutes, run in told:
        runs = (FIRST_SEED[recipe.strip("`")], run.strip("`"))
        for seed, name in enumerate(runs):
            assert json.loads((RESULTS / name / "run.json").read_text())["recipe"].get("seed", 0) == seed
        ours = [records(name, kind="Margin") for name in runs]
        assert ours[0].indices == ours[1].indices == list(range(10_000))
        at = 36 / 255 if "/" in radius else float(radius)
        for cells, where in ((clean, 0.0), ((first, second), at)):
            for cell, found in zip(cells, ours, strict=True):
                agrees(cell, found.percent(where))
        agrees(difference, *ours[1].less_at(ours[0], at))
        epochs = csv.DictReader((RESULTS / runs[1] / "metrics.csv").read_text().splitlines())
        agrees(minutes, sum(float(epoch["processor_seconds"]) for epoch in epochs) / 60)


def test_how_the_schedule_was_chosen() -> None:
    runs = ["linf-dist-mnist-0.3-20-epochs-626396b366e0", "linf-dist-mnist-0.3-20-epochs-8375c160bb9a"]
    found = {round(records(run, kind="Margin").percent(0.3), 2): records(run, kind="Margin") for run in runs}
    for _, clean, certified in rows(LINF, 2):
        agrees(clean, found[numbers(certified)[0]].percent(0))
    halves = records("linf-dist-mnist-0.3-20-epochs-bca2990a2262", kind="Margin").radii >= 0.3
    told = re.findall(
        r"two halves of the test set the final net certifies ([\d.]+) and ([\d.]+\d)", " ".join(section(LINF).split())
    )[0]
    agrees(" ".join(told), 100 * float(halves[:5000].mean()), 100 * float(halves[5000:].mean()))


SPLITZ = "## SPLITZ on MNIST: the published gain does not show"


def test_splitz() -> None:
    runs = {
        "SPLITZ, sigma 0.50": "splitz-mnist-0.50-5267d1f6d000",
        "Gaussian, sigma 0.50": SHORT_GAUSSIAN,
        "SmoothMix, sigma 0.50": "smoothmix-mnist-0.50-580ea212c3ad",
        "Gaussian, sigma 1.00": "gaussian-mnist-1.00-aff718f26cbb",
    }
    radii = (0, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5)
    found = {name: records(run, price=1.0) for name, run in runs.items()}
    for name, *at, acr, samples in rows(SPLITZ)[:4]:
        for cell, radius in zip(at, radii, strict=True):
            agrees(cell, found[name].percent(radius))
        agrees(acr, found[name].acr)
        agrees(samples, float(found[name].samples.mean()))
    text = " ".join(section(SPLITZ).split())
    split = found["SPLITZ, sigma 0.50"]
    agrees(re.findall(r"same sigma: ACR ([^]]+\])", text)[0], *split.less(found["Gaussian, sigma 0.50"]))
    agrees(re.findall(r"SPLITZ - SmoothMix: ([^]]+\])", text)[0], *split.less(found["SmoothMix, sigma 0.50"]))


def test_splitz_decided_at_one_radius() -> None:
    text = " ".join(section(SPLITZ).split())
    for name, run in (("Gaussian", SHORT_GAUSSIAN), ("SmoothMix", "smoothmix-mnist-0.50-580ea212c3ad")):
        told = re.findall(rf"certifies\): .*?{name} ([\d.]+) %", text)[0]
        agrees(told, records(run, kind="AtRadius", r=(1.5,)).percent(1.5))
    told = re.findall(r"SPLITZ ([\d.]+) % \(83.1\)", text)[0]
    agrees(told, records("splitz-mnist-0.50-5267d1f6d000", r=(1.34,)).percent(1.5))


def test_splitz_by_its_recipe() -> None:
    heading = "### The recipe itself: cut behind the first convolution, 45 epochs"
    ours, plain = records("splitz-mnist-0.50-e5ad65e90ee0", min_gain=1.0), records(FULL, price=1.0)
    for (_, *at, acr, samples), found in zip(rows(heading), (ours, plain), strict=True):
        for cell, radius in zip(at, (0, 0.5, 0.75, 1, 1.25, 1.5), strict=True):
            agrees(cell, found.percent(radius))
        agrees(acr, found.acr)
        agrees(samples, float(found.samples.mean()))
    text = " ".join(section(heading).split())
    agrees(re.findall(r"SPLITZ - Gaussian: ACR ([^]]+\])", text)[0], *ours.less(plain))
    (folder,) = (RESULTS / "splitz-mnist-0.50-e5ad65e90ee0").glob("certify-*")
    told = [record.certificate.evidence for record in read(folder) if record.certificate.radius > 0]
    features, pixels = (float(np.mean([one[name] for one in told])) for name in ("feature_radius", "gamma"))
    constant = told[0]["global_constant"]
    agrees(" ".join(re.findall(r"constant of ([\d.]+) everywhere", text)), constant)
    agrees(" ".join(re.findall(r"features, ([\d.]+) in the mean, becomes ([\d.]+) in", text)[0]), features, pixels)
    agrees(re.findall(r"constant alone ([\d.]+\d)", text)[0], features / constant)


def test_splitz_by_its_recipe_in_full() -> None:
    heading, run = "### The recipe in full: 90 epochs", "splitz-mnist-0.50-980e993768d5"
    worth, decided = records(run, min_gain=1.0), records(run, r=(0.6, 1.19, 1.78))
    for (_, *at, acr, samples), found in zip(rows(heading)[:2], (worth, decided), strict=True):
        for cell, radius in zip(at, (0, 0.5, 0.75, 1, 1.25, 1.5), strict=True):
            agrees(cell, *[found.percent(radius)] * bool(cell))
        agrees(acr, *[found.acr] * bool(acr))
        agrees(samples, float(found.samples.mean()))
    text = " ".join(section(heading).split())
    half = records("splitz-mnist-0.50-e5ad65e90ee0", min_gain=1.0)
    agrees(re.findall(r"that of 45 epochs: ([^]]+\])", text)[0], *worth.less(half))
    agrees(
        re.findall(r"less that of the Gaussian classifier: ([^]]+\])", text)[0], *worth.less(records(FULL, price=1.0))
    )
    agrees(re.findall(r"number is (-[\d.]+) points", text)[0], decided.percent(1.5) - 83.1)
    told = [one.certificate.evidence for folder in (RESULTS / run).glob("certify-*") for one in read(folder)]
    told = [one for one in told if one.get("gamma")]
    constant, reach = told[0]["global_constant"], float(np.mean([one["feature_radius"] / one["gamma"] for one in told]))
    agrees(" ".join(re.findall(r"is ([\d.]+) everywhere and ([\d.]+) on", text)[0]), constant, reach)
    agrees(re.findall(r"noise of ([\d.]+) in the image", text)[0], 0.5 / constant)
    epochs = list(csv.DictReader((RESULTS / run / "metrics.csv").read_text().splitlines()))
    minutes = (sum(float(epoch[kind]) for epoch in epochs) / 60 for kind in ("seconds", "processor_seconds"))
    agrees(" ".join(re.findall(r"above; ([\d.]+) minutes of .*?, ([\d.]+) of the processor", text)[0]), *minutes)


def test_splitz_by_its_recipe_with_twice_the_noise() -> None:
    run = "splitz-mnist-1.00-9f61bdfad17a"
    text = " ".join(section("### The recipe itself: cut behind the first convolution, 45 epochs").split())
    found = records(run, r=(1.06, 2.11, 3.16))
    at = [found.percent(radius) for radius in (0.5, 1, 1.5)]
    agrees(re.findall(r"an image\): ([^%]+) %", text)[0], *at)
    agrees(re.findall(r"83.1, which is ([\d.]+) points", text)[0], 83.1 - at[-1])
    agrees(re.findall(r"100,000, ([\d,]+) samples", text)[0], float(found.samples.mean()))
    (folder,) = (RESULTS / run).glob("certify-*")
    told = [record.certificate.evidence for record in read(folder) if record.certificate.radius > 0]
    constant, reach = told[0]["global_constant"], float(np.mean([one["feature_radius"] / one["gamma"] for one in told]))
    agrees(" ".join(re.findall(r"is ([\d.]+) everywhere and ([\d.]+) on", text)[0]), constant, reach)
    agrees(re.findall(r"noise of ([\d.]+) in the image, little", text)[0], 1 / constant)
    with (RESULTS / run / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    minutes = (sum(float(epoch[kind]) for epoch in epochs) / 60 for kind in ("seconds", "processor_seconds"))
    agrees(" ".join(re.findall(r"the same; ([\d.]+) minutes, ([\d.]+) of", text)[0]), *minutes)


FRONT, FRONT_SMOOTHMIX, HEAVY = (
    "splitz-front-mnist-0.50-a7deb2c8b644",
    "splitz-front-smoothmix-mnist-0.50-short-a98a1a92a244",
    "splitz-front-smoothmix-mnist-0.50-short-0d17c1654a89",
)
"""SPLITZ with four filters in front of a whole LeNet; the last of a larger weight, and so of a larger constant."""


def evidence(run: str) -> list[Mapping[str, Any]]:
    """Of all certificates of a run that hold at some radius."""
    folders = sorted((RESULTS / run).glob("certify-*"))
    told = [record.certificate.evidence for folder in folders for record in read(folder)]
    return [one for one in told if one.get("gamma")]


def test_splitz_with_a_front_of_its_own() -> None:
    heading = "### A front of its own, before a whole LeNet"
    worth, decided = records(FRONT, min_gain=1.0), records(FRONT, r=(0.4, 0.79, 1.19, 1.39))
    mixed = records(FRONT_SMOOTHMIX, min_gain=1.0), records(FRONT_SMOOTHMIX, r=(0.76, 1.13, 1.32, 1.51, 1.7))
    for (_, *at, acr, samples), found in zip(rows(heading)[:4], (worth, decided, *mixed), strict=True):
        for cell, radius in zip(at, (0, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25), strict=True):
            agrees(cell, *[found.percent(radius)] * bool(cell))
        agrees(acr, *[found.acr] * bool(acr))
        agrees(samples, float(found.samples.mean()))
    text = " ".join(section(heading).split())
    cut, plain = records("splitz-mnist-0.50-980e993768d5", min_gain=1.0), records(FULL, price=1.0)
    agrees(re.findall(r"cut behind `conv1`: ([^]]+\])", text)[0], *worth.less(cut))
    agrees(re.findall(r"less that of the Gaussian classifier: ([^]]+\])", text)[0], *worth.less(plain))
    told = re.findall(r"published number is ([-+][\d.]+) points, at 1.75 ([-+][\d.]+\d)", text)[0]
    agrees(" ".join(told), decided.percent(1.5) - 83.1, decided.percent(1.75) - 75.9)
    found = evidence(FRONT)
    constant, reach = (
        found[0]["global_constant"],
        float(np.mean([one["feature_radius"] / one["gamma"] for one in found])),
    )
    agrees(" ".join(re.findall(r"is ([\d.]+) everywhere and ([\d.]+) on", text)[0]), constant, reach)
    agrees(re.findall(r"noise of ([\d.]+) in the image", text)[0], 0.5 / constant)
    told = re.findall(r"([\d.]+) minutes of .*?, ([\d.]+) of the processor", text)
    for run, cells in zip((FRONT, FRONT_SMOOTHMIX, HEAVY), told, strict=True):
        epochs = list(csv.DictReader((RESULTS / run / "metrics.csv").read_text().splitlines()))
        minutes = (sum(float(epoch[kind]) for epoch in epochs) / 60 for kind in ("seconds", "processor_seconds"))
        agrees(" ".join(cells), *minutes)


def test_splitz_with_a_front_of_its_own_and_smoothmix_on_its_features() -> None:
    text = " ".join(section("### A front of its own, before a whole LeNet").split())
    worth, decided = records(FRONT_SMOOTHMIX, min_gain=1.0), records(FRONT_SMOOTHMIX, r=(0.76, 1.13, 1.32, 1.51, 1.7))
    constant = evidence(FRONT_SMOOTHMIX)[0]["global_constant"]
    agrees(" ".join(re.findall(r"a constant of ([\d.]+), noise of ([\d.]+) in", text)[0]), constant, 0.5 / constant)
    gaussian = records(FRONT, min_gain=1.0)
    agrees(re.findall(r"on the features, 90 epochs: ([^]]+\])", text)[0], *worth.less(gaussian))
    told = re.findall(r"are (\S+) points at 1.5, (\S+) at 1.75, (\S+) at 2 and (\S+) at 2.25\.", text)[0]
    published = {1.5: 83.1, 1.75: 75.9, 2: 66.2, 2.25: 54.3}
    agrees(" ".join(told), *(decided.percent(radius) - number for radius, number in published.items()))
    on_images = records("smoothmix-mnist-0.50-f5b8eab712a7", kind="Gaussian", n=100_000)
    told = re.findall(r"has ([\d.]+) % at 1.5 and ([\d.]+) % at 1.75 on", text)[0]
    agrees(" ".join(told), on_images.percent(1.5), on_images.percent(1.75))
    assert on_images.radii.max() <= 1.91
    agrees(re.findall(r"SPLITZ less that: ([^]]+\])", text)[0], *decided.less_at(on_images, 1.5))
    agrees(" ".join(re.findall(r"SPLITZ here has (\S+) and ([\d.]+):", text)[0]), *map(decided.percent, (2, 2.25)))


def test_smoothmix_on_the_features_with_a_larger_weight() -> None:
    text = " ".join(section("### A front of its own, before a whole LeNet").split())
    ours = next(Records(path) for path in (RESULTS / HEAVY).glob("certify-*"))
    told = re.findall(r"ACR ([\d.]+), ([\d.]+) % at 0.5 and ([\d.]+) at 1;", text)[0]
    agrees(" ".join(told), ours.acr, ours.percent(0.5), ours.percent(1))
    on_images = records("smoothmix-mnist-0.50-short-e9c7e0ad8b85", kind="Gaussian", n=10_000)
    agrees(re.findall(r"images at the same n: ([^]]+\])", text)[0], *ours.less(on_images))
    constant = evidence(HEAVY)[0]["global_constant"]
    agrees(re.findall(r"the constant is ([\d.]+\d)\. ACR", text)[0], constant)
    agrees(re.findall(r"samples, would be ([\d.]+\d)", text)[0], 1.9057 / constant)


def test_what_makes_the_left_half_contract() -> None:
    output = (RESULTS / "benchmarks" / "contraction.txt").read_text()
    found = rows("### What makes the left half contract: sixteen changes of the recipe")
    assert all(f"| {' | '.join(row)} |" in output for row in found)
    assert len(found) == sum(line.startswith("| ") for line in output.splitlines()) - 1


DENOISED = "## A denoiser before classifiers that know no noise"


def denoised() -> dict[str, dict[str, list[str]]]:
    """Rows of the table by classifier, and by what stands before it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, *cells in rows(DENOISED):
        if name.startswith("behind "):
            found[next(reversed(found))][name] = cells
        else:
            found[name] = {"as it is": cells}
    return found


def at_radius(row: list[str]) -> Records:
    return records(row[0].strip("`"), kind="AtRadius", r=(0.25, 0.5), n_max=1000)


def test_classifiers_as_they_are_and_behind_denoisers() -> None:
    for row in [row for group in denoised().values() for row in group.values()]:
        run = at_radius(row)
        assert run.indices == list(range(0, 10_000, 20))
        agrees(row[1], run.percent(0.25))
        agrees(row[2], run.percent(0.5))
        agrees(row[3], float(run.samples.mean()))


def test_pairs_of_classifiers_as_they_are_and_behind_denoisers() -> None:
    told = denoised()
    pairs = rows(DENOISED, 1)
    assert {(name, second) for name, _, second, *_ in pairs} >= {
        (name, behind) for name, group in told.items() for behind in group if behind != "as it is"
    }
    for name, first, second, *signs in pairs:
        runs = [at_radius(told[name][before]) for before in (first, second)]
        for radius, cells in ((0.25, signs[:3]), (0.5, signs[3:])):
            one, two = (run.right & (run.radii >= radius) for run in runs)
            gained, lost = int((two & ~one).sum()), int((one & ~two).sum())
            agrees(cells[0], gained)
            agrees(cells[1], lost)
            assert cells[2] == f"{stats.binomtest(gained, gained + lost).pvalue:.0e}"


def test_what_a_sample_costs_behind_a_denoiser_is_that_of_its_output() -> None:
    for group in denoised().values():
        output = (RESULTS / "benchmarks" / f"denoised-{group['as it is'][0].strip('`')}.txt").read_text()
        (line,) = re.findall(r"^a noise sample: (.*), of the processor$", output, re.MULTILINE)
        times = {before: time for time, before in re.findall(r"([\d.]+ ms) (as it is|behind [\w.-]+)", line)}
        for row in group.values():
            denoiser, plus, _ = row[0].strip("`").partition("+")
            assert times.pop(f"behind {denoiser}" if plus else "as it is") == row[4]
        assert not times


def test_classifiers_without_a_denoiser_name_one_class_under_noise() -> None:
    text = " ".join(section(DENOISED).split())
    told = re.findall(r"Of the (\d+) images .*?, (\d+) are called a frog; of (\d+) on MNIST, (\d+) an eight", text)
    found = []
    for name, common in (("cnn-cifar10.onnx-*", 6), ("cnn-mnist.onnx-*", 8)):
        (folder,) = RESULTS.glob(f"{name}/certify-*")
        classes = [record.certificate.prediction for record in read(folder) if record.certificate.radius >= 0.25]
        found += [len(classes), classes.count(common)]
        as_it_is, *behind = (
            at_radius(row)
            for group in denoised().values()
            for row in group.values()
            if folder.parent.name in group["as it is"][0]
        )
        assert behind
        for run in behind:
            lost = [r.label for r, a, b in zip(read(folder), as_it_is.radii, run.radii, strict=True) if a >= 0.25 > b]
            assert lost.count(common) > len(lost) / 2
    agrees(" ".join(told[0]), *found)


def test_resnet_names_two_classes_under_noise() -> None:
    text = " ".join(section(DENOISED).split())
    (told,) = re.findall(r"of (\d+) images, (\d+) are called a frog and (\d+) a truck", text)
    (folder,) = RESULTS.glob("standard-cifar10-242633276a1f/certify-*")
    classes = [record.certificate.prediction for record in read(folder) if record.certificate.radius >= 0.25]
    agrees(" ".join(told), len(classes), classes.count(6), classes.count(9))


def test_what_resnet_gains_and_pays_behind_the_denoiser() -> None:
    text = " ".join(section(DENOISED).split())
    pattern = r"ResNet-20 has ([\d.]+) % at 0.25 instead of ([\d.]+), and ([\d.]+) % at 0.5 instead of ([\d.]+);"
    (told,) = re.findall(pattern, text)
    before, behind = (at_radius(row) for row in denoised()["CIFAR-10, ResNet-20"].values())
    agrees(" ".join(told), *(run.percent(radius) for radius in (0.25, 0.5) for run in (behind, before)))
    (paid,) = re.findall(r"([\d.]+) % of the 200 images of the first look instead of (\d+\.\d)", text)
    output = (RESULTS / "benchmarks" / "denoised-standard-cifar10-242633276a1f.txt").read_text()
    assert [*reversed(paid)] == re.findall(r"First look, on 200 images: ([\d.]+) % right", output)


def test_what_training_a_denoiser_and_its_classifier_took() -> None:
    text = " ".join(section(DENOISED).split())
    for name, seconds in re.findall(r"`((?:denoise|standard)-[^`+]*)`, ([\d,]+) s of the processor", text):
        epochs = list(csv.DictReader((RESULTS / name / "metrics.csv").read_text().splitlines()))
        agrees(seconds, sum(float(row["processor_seconds"]) for row in epochs))
        if name.startswith("standard"):
            ((plain, noisy),) = re.findall(rf"{name}`[^;]*; right at ([\d.]+) % .*?at ([\d.]+) %", text)
            agrees(plain, 100 * float(epochs[-1]["training_accuracy"]))
            agrees(noisy, 100 * float(epochs[-1]["noisy_training_accuracy"]))


def test_every_run_that_the_page_names_has_a_folder() -> None:
    there = {path.name for path in RESULTS.iterdir()}
    for name in re.findall(r"`(?:runs/)?((?:\.\.\.-)?[a-z][\w.+-]*-(?:[0-9a-f]{4}){3,4})\b", PAGE):
        assert any(folder.endswith(name.removeprefix("...")) for folder in there), name


def test_the_page_says_of_every_table_without_a_file_that_there_is_none() -> None:
    for heading in ("## Cost of certification", "## l-inf-distance nets: kernels on a CPU"):
        assert "no output kept" in section(heading).splitlines()[1], heading
    for command in ("holdfast attack", "benchmarks/split.py"):
        for place in [found.start() for found in re.finditer(re.escape(command), PAGE)]:
            assert "no output kept" in " ".join(PAGE[place : place + 500].split()), PAGE[place : place + 80]


def test_the_input_path_is_that_of_its_output() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    rate, memory = ((RESULTS / "benchmarks" / f"input-{name}.txt").read_text() for name in ("rate", "memory"))
    for words, shown in (
        ("plain PIL decoding", "plain PIL decoding"),
        ("random resized crop of", "random resized crop"),
    ):
        (cell,) = re.findall(rf"{words}.*\| (\d+) \|", page)
        assert cell == re.findall(rf"{shown} (\d+)", rate)[0]
    assert re.findall(r"batches of float32 \| (\d+) \|", page) == re.findall(r"float32 (\d+),", rate)
    assert re.findall(r"holds ([\d.]+) GiB", page) == re.findall(r"process: peak ([\d.]+) GiB", memory)
    assert re.findall(r"one worker ([\d.]+) GiB", page) == re.findall(r"workers: peak ([\d.]+) GiB", memory)


def test_the_memory_of_the_published_batch_is_that_of_its_output() -> None:
    page, output = (ROOT / "docs" / "experiments.md").read_text(), (RESULTS / "benchmarks" / "memory.txt").read_text()
    told = re.findall(r"^\| (\d) \| (\d+) \| ([\d.]+) GiB \| ([\d.]+) GiB", page, re.MULTILINE)
    assert told == re.findall(r"--accumulate (\d): (\d+) images at once, ([\d.]+) GiB, bf16-mixed ([\d.]+) GiB", output)
    counted, measured = re.findall(r"an image more: ([\d.]+) MiB counted, ([\d.]+) MiB", output)[0]
    assert f"takes {measured} MiB" in page
    assert f"where {counted} MiB" in page
    sixteen = float(re.findall(r"batch 16: .* ([\d.]+) GiB the process", output)[0])
    assert round(sixteen + 384 * float(measured) / 1024) == int(re.findall(r"400 takes (\d+) GiB", page)[0])


def test_the_short_run_of_sortnet() -> None:
    page, run = (ROOT / "docs" / "linf.md").read_text(), "sortnet-mnist-0.3-20-epochs-f04742894246"
    margin, boxed = (records(run, kind=kind) for kind in ("Margin", "LInfBox"))
    shown = [places for places, index in enumerate(margin.indices) if index % 20 == 0]
    assert [margin.indices[place] for place in shown] == boxed.indices
    assert (boxed.claimed >= margin.claimed[shown] - 1e-12).all()
    told = re.findall(r"^\| `(margin|linf-box)` \| (10,000|every 20th) \| (.*) \|$", page, re.MULTILINE)
    assert len(told) == 3
    for name, which, cells in told:
        found = boxed if name == "linf-box" else margin
        radii = found.radii[shown] if name == "margin" and which != "10,000" else found.radii
        right = found.right[shown] if len(radii) < len(found.right) else found.right
        counts = [int((right & (radii >= radius)).sum()) for radius in (0, 0.1, 0.2, 0.3)]
        exact = stats.binomtest(counts[-1], len(radii)).proportion_ci(0.95, "exact")
        *at, last = cells.split(" | ")
        for cell, count in zip(at, counts, strict=False):
            agrees(cell, 100 * count / len(radii))
        agrees(last, 100 * counts[-1] / len(radii), 100 * exact.low, 100 * exact.high)
    epochs = csv.DictReader((RESULTS / run / "metrics.csv").read_text().splitlines())
    agrees(re.findall(r"beside other work: ([\d,]+) s", page)[0], sum(float(row["seconds"]) for row in epochs))


@pytest.mark.parametrize(("name", "count"), [("steps", 8), ("layers", 6)])
def test_the_steps_a_second_are_those_of_their_output(name: str, count: int) -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    table = re.findall(r"^\|.*\|$", (RESULTS / "benchmarks" / f"{name}.txt").read_text(), re.MULTILINE)
    assert len(table) == 2 + count
    assert "\n".join(table) in page
