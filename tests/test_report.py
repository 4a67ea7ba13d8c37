"""Curves, comparisons, notes and files of a report, on runs small enough to check by hand."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import FOUR, SETTINGS, abstention, certify_folder, record, run_folder

import holdfast
from holdfast.core.certificate import Record
from holdfast.report.command import report
from holdfast.report.curve import Curve, compare_all, default_radii, load, why_not
from holdfast.report.figure import examples_figure, look
from holdfast.report.labels import labeled, notes
from holdfast.report.published import published
from holdfast.report.summary import summarise
from holdfast.report.tables import beside, matching, published_radii, radius_text, results
from holdfast.runs.logs import write_log


def test_certified_accuracy_and_acr_count_correct_examples_only() -> None:
    curve = Curve("four", FOUR)
    assert [curve.accuracy(radius).value for radius in (0, 0.25, 0.26, 0.5, 0.51)] == [0.5, 0.5, 0.25, 0.25, 0]
    assert curve.acr.value == pytest.approx(0.75 / 4)
    assert curve.abstentions.value == 0.25
    assert curve.largest == 0.5


def test_counts_of_many_radii_are_those_of_one_by_one() -> None:
    rng = np.random.default_rng(0)
    radii = rng.choice([0.0, 0.1, 0.25, 0.7], 60)
    curve = Curve("random", [record(i, float(r), right=bool(rng.random() < 0.7)) for i, r in enumerate(radii)])
    at = np.array([0.0, 0.05, 0.1, 0.1001, 0.25, 0.7, 0.8])
    assert curve.counts(at).tolist() == [int(curve.reaches(radius).sum()) for radius in at]


def test_a_correct_prediction_of_radius_zero_counts_at_radius_zero() -> None:
    assert Curve("zero", [record(0, 0.0), abstention(1)]).accuracy(0).value == 0.5


def test_samples_are_counted_where_certificates_tell_them(tmp_path: Path) -> None:
    folder = certify_folder(tmp_path / "c", [record(0, 0.5, samples=100), record(1, 0.5, samples=300)], samples=1000)
    (curve,) = load([folder]).curves
    assert curve.samples == 400
    shown = {row[0]: row[1] for row in summarise([folder]).tables[1].rows}
    assert (shown["samples per example"], shown["samples in all"], shown["samples saved %"]) == ("200", "400", "80.0")
    assert Curve("four", FOUR).samples is None


def test_the_one_class_radius_of_two_class_certificates_is_shown_beside(tmp_path: Path) -> None:
    records = [record(0, 0.5, one_class_radius=0.4), record(1, 0.7, right=False, one_class_radius=0.6)]
    one_class = Curve("two-class", records).one_class_acr
    assert one_class is not None
    assert one_class.value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("settings", "evidence", "alpha"),
    [
        ({}, {}, None),
        ({"certifier": "Margin"}, {"margin": 0.1, "constant": 2.0}, None),
        ({"alpha": 1e-17}, {}, 1e-17),
        ({"certifier": "Split", "inner": {"kind": "Gaussian", "alpha": 1e-17}}, {}, 1e-17),
        ({}, {"alpha": 1e-18, "votes": {"1": 9}}, 1e-18),
        ({}, {"votes": {"1": 9}}, 2**-53),
        ({}, {"samples": 100}, 2**-53),
    ],
)
def test_a_sampled_certificate_of_confidence_one_is_no_deterministic_proof(
    settings: dict[str, Any], evidence: dict[str, Any], alpha: float | None
) -> None:
    curve = Curve("run", [record(0, 0.8, confidence=1.0), record(1, 0.8, confidence=1.0, **evidence)], settings)
    assert curve.alpha == alpha
    shown = {row[0] for row in results([curve], [0.0]).rows}
    assert ("wrong at most" in shown) == ("alpha is the probability" in told(curve)) == (alpha is not None)
    assert (0.25 in default_radii([curve])) == (alpha is not None)


def test_the_larger_of_alpha_and_what_the_confidence_leaves_counts() -> None:
    assert Curve("run", FOUR, {"alpha": 1e-17}).alpha == pytest.approx(0.001)
    assert Curve("run", [record(0, 0.5, alpha=0.01)]).alpha == 0.01


def test_a_curve_holds_one_norm_and_at_least_one_record() -> None:
    with pytest.raises(ValueError, match="mixes radii in the norms l2 and linf"):
        Curve("mixed", [record(0, 0.5), record(1, 0.1, norm="linf")])
    with pytest.raises(ValueError, match="empty holds no records"):
        Curve("empty", [])


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record(0, 0.8)], ["0", "0.25", "0.5", "0.75"]),
        ([record(0, 0.12)], ["0", "0.05", "0.1"]),
        ([record(0, 7.9)], [f"{radius:g}" for radius in np.arange(0, 7.6, 0.5)]),
        ([record(0, 0.5, confidence=1.0)], ["0", "36/255", "72/255", "108/255"]),
        ([record(0, 0.05, norm="linf", confidence=1.0)], ["0", "2/255", "8/255"]),
        ([record(0, 0.5, right=False)], ["0"]),
    ],
)
def test_radii_are_by_default_those_of_the_literature(records: list[Record], expected: list[str]) -> None:
    assert [radius_text(radius) for radius in default_radii([Curve("one", records)])] == expected


def test_a_constant_gain_is_found_without_doubt_on_shared_examples_only() -> None:
    first = Curve("first", [record(i, 0.1 * i) for i in range(10)])
    second = Curve("second", [record(i, 0.1 * i + 0.5) for i in range(4, 20)])
    (pair,), apart = compare_all([first, second], [0.0, 0.95])
    assert (pair.shared, apart) == (6, [])
    assert pair.acr
    assert (pair.acr.estimate.value, pair.acr.estimate.low) == pytest.approx((0.5, 0.5))
    assert pair.acr.p < 1e-6
    assert [change.estimate.value for change in pair.accuracy if change] == pytest.approx([0, 5 / 6])


def test_a_run_compared_with_itself_does_not_differ() -> None:
    (pair,), _ = compare_all([Curve("a", FOUR), Curve("b", FOUR)], [0.25])
    assert [(change.estimate.value, change.p) for change in (pair.acr, *pair.accuracy) if change] == [(0, 1), (0, 1)]


@pytest.mark.parametrize(
    ("runs", "pairs"), [(4, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]), (5, [(0, i) for i in range(1, 5)])]
)
def test_few_runs_are_compared_with_each_other_and_many_with_the_first(runs: int, pairs: list[tuple[int, int]]) -> None:
    found, _ = compare_all([Curve(str(i), FOUR) for i in range(runs)], [0.25])
    assert [(pair.first, pair.second) for pair in found] == pairs


def test_a_radius_that_a_log_has_rounded_up_betrays_no_other_settings() -> None:
    run = Curve("run", FOUR, SETTINGS, cap=0.499)
    assert "caps differ" not in told(run, Curve("log", FOUR))
    assert "caps differ" in told(run, Curve("log", [record(3, 0.51)]))


def test_runs_on_other_data_are_not_compared_by_example() -> None:
    here = Curve("here", FOUR, {"dataset": "mnist", "split": "test"})
    assert why_not(here, Curve("there", FOUR, {"dataset": "cifar10"})) == "they are on cifar10 and mnist"
    assert why_not(here, Curve("later", [record(3, 0.1), record(9, 0.1)])) == "they share 1 examples"
    relabelled = [dataclasses.replace(record, label=5) for record in FOUR]
    assert "4 common indices 4 have another label" in (why_not(here, Curve("log", relabelled)) or "")
    assert why_not(here, Curve("log", FOUR)) is None


def told(*curves: Curve) -> str:
    return "\n".join(notes(curves))


def test_differing_settings_are_told_in_words() -> None:
    first = Curve("a", FOUR, SETTINGS | {"seed": 0, "model": "00"}, cap=1.9)
    second = Curve("b", FOUR, SETTINGS | {"n": 10_000, "seed": 1, "model": "11"}, cap=0.4)
    assert "n differs (A: 100,000; B: 10,000): more samples prove larger radii" in told(first, second)
    assert "settings of B can prove a radius of 0.4 at best, and A reaches 0.5: the caps differ" in told(first, second)
    assert "seed differs" not in told(first, second)
    assert "differ" not in told(first, first)


def test_other_examples_and_unknown_settings_are_told_in_words() -> None:
    run, log = Curve("run", FOUR[:3], SETTINGS), Curve("log", FOUR)
    assert "different examples (A 3, B 4; common to all: 3)" in told(run, log)
    assert "B: a published log does not record its sigma, n and alpha" in told(run, log)
    assert "does not record" not in told(log, log)


def test_invalid_logits_are_told() -> None:
    broken = Curve("broken", [record(0, 0.1, invalid=3), record(1, 0.1, invalid=0)], SETTINGS)
    assert "A: for 1 examples some samples gave NaN" in told(broken)


def test_a_run_folder_stands_for_all_its_certify_folders(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "gaussian-mnist")
    certify_folder(run / "certify-1", FOUR, n=100_000)
    certify_folder(run / "certify-2", FOUR[:2], n=10_000, total=4)
    few, many = sorted(load([run]).curves, key=len)
    assert (many.label, few.label) == ("gaussian", "gaussian (2 of 4 examples)")
    assert [curve.label for curve in labeled([many, few])] == [
        "GaussianNoise, n 100,000",
        "GaussianNoise, n 10,000 (2 of 4 examples)",
    ]
    assert many.recipe["arch"] == "lenet"
    assert many.settings["certifier"] == "Shown"


def test_a_report_of_nothing_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    balls = certify_folder(tmp_path / "balls", [record(0, 0.1)])
    for paths, radii, message in (
        ([], [], "nothing to report; name a run folder"),
        ([tmp_path / "nowhere"], [], "nothing to report; .*nowhere does not exist"),
        ([balls], [-0.5], "radii must not be negative"),
        ([balls], [float("inf")], "radii must not be negative or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            report(paths, tmp_path / "out", radii)
    assert not (tmp_path / "out").exists()


def test_every_curve_looks_different() -> None:
    assert len({str(look(number)) for number in range(49)}) == 49


def test_a_report_writes_tables_figures_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = certify_folder(tmp_path / "certify-1", FOUR, name="<b>bold</b> & | [n=1]")
    write_log(FOUR, tmp_path / "log.tsv")
    result = report([run, tmp_path / "log.tsv"], tmp_path / "out", [0.25, 0.125])
    out = tmp_path / "out"
    assert result.radii == (0.125, 0.25)
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "curve.pdf").read_bytes().startswith(b"%PDF")
    page = (out / "report.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; | [n=1]" in page
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert [row["label"] for row in data["rows"][:2]] == ["<b>bold</b> & | [n=1]", "log"]
    assert not re.search(r'(src|href)="(?!https://(arxiv|openreview|github)|data:)|@import|url\(', page)
    assert "\\| [n=1] |" in (out / "report.md").read_text()
    assert "50.0 [6.8, 93.2]" in capsys.readouterr().out


def test_the_package_is_a_function_for_users(tmp_path: Path) -> None:
    folder = certify_folder(tmp_path / "certify-1", FOUR, name="mine")
    result = holdfast.report(str(folder), out=str(tmp_path / "out"), radii=[0.25])
    assert [curve.name for curve in result.curves] == ["mine"]
    assert (tmp_path / "out" / "report.html").exists()
    from holdfast import report as again

    assert again([folder], tmp_path / "out", [0.25]).radii == (0.25,)  # pyright: ignore[reportCallIssue]
    assert "report" in holdfast.__all__


def test_the_csv_holds_every_number_of_the_report(tmp_path: Path) -> None:
    paths = [certify_folder(tmp_path / name, FOUR, name=name) for name in ("a", "b")]
    report(paths, tmp_path / "out", [0.25])
    rows = list(csv.DictReader((tmp_path / "out" / "report.csv").read_text().splitlines()))
    found = {(row["run"], row["quantity"], row["radius"]): float(row["value"]) for row in rows}
    assert found["A", "acr", ""] == 0.1875
    assert found["B", "certified_accuracy", "0.25"] == 0.5
    assert found["B-A", "certified_accuracy_difference", "0.25"] == 0
    assert len(found) == 8


def test_the_report_of_one_run_goes_into_its_folder(tmp_path: Path) -> None:
    folder = certify_folder(tmp_path / "c", FOUR)
    report([folder])
    assert (folder / "report.html").exists()


def test_a_wide_table_is_shown_in_parts_that_fit(tmp_path: Path) -> None:
    table = summarise([certify_folder(tmp_path / str(i), FOUR, name=f"run {i}") for i in range(5)]).tables[1]
    parts = table.split(80)
    assert [name for part in parts for name in part.header[1:]] == list("ABCDE")
    assert all(max(sum(map(len, row)) for row in part.rows) <= 80 for part in parts)
    assert {part.rows[0][0] for part in parts} == {"examples"}


def test_a_published_number_without_a_source_does_not_load(tmp_path: Path) -> None:
    row = {
        "method": "GaussianNoise",
        "label": "Gaussian",
        "dataset": "mnist",
        "arch": ["lenet"],
        "norm": "l2",
        "acr": 1.5,
    }
    source = {"paper": "A paper, 2020", "table": "Table 1", "url": "https://example.org", "how": "printed"}
    for missing in ("paper", "table", "url"):
        part = {key: value for key, value in source.items() if key != missing}
        (tmp_path / "one.json").write_text(json.dumps({"source": part, "rows": [row]}))
        with pytest.raises(ValueError, match=rf"one\.json: a published number needs its source; missing: {missing}"):
            published(tmp_path)
    (tmp_path / "one.json").write_text(json.dumps({"source": source, "rows": [row | {"arc": 2}]}))
    with pytest.raises(ValueError, match=r"one\.json: no such field: arc"):
        published(tmp_path)


def test_every_shipped_number_has_a_source_and_lies_in_range() -> None:
    rows = published()
    assert len(rows) > 100
    for row in rows:
        assert row.url.startswith("https://")
        assert row.acr is None or 0 < row.acr < 2
        assert all(0 <= percent <= 100 for percent in row.accuracy.values())
        assert sorted(row.accuracy.values(), reverse=True) == [row.accuracy[at] for at in sorted(row.accuracy)]
        assert row.acr or row.accuracy


def test_a_run_is_shown_beside_the_published_rows_of_its_method_and_noise(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    certify_folder(run / "certify-1", [record(i, 1.6) for i in range(20)], n=10_000)
    (curve,) = load([run]).curves
    found = matching(curve, published())
    assert {(row.method, row.sigma) for row in found} == {("GaussianNoise", 0.5), ("GaussianNoise", None)}
    (table,) = beside([curve], published(), [0.0, 1.5, 1.6])
    (row,) = [row for row in found if row.sigma]
    assert [cells[0] for cells in table.rows] == ["ACR", "0", "1.5"]
    assert table.rows[0][3] == f"{1.6 - (row.acr or 0):+.4f}"
    assert table.rows[2][3] == f"{100 - row.accuracy[1.5]:+.1f}"
    assert "n = 100,000 there and 10,000 here, so the caps differ" in table.sources[0]
    assert beside([Curve("log", FOUR)], published(), [0.0]) == []


@pytest.mark.parametrize(("kind", "arch"), [("LInfDist", "linf-dist-1024x3"), ("LInfPlus", "linf-dist-plus-512x2")])
def test_a_small_l_inf_distance_net_is_shown_beside_the_published_large_ones(kind: str, arch: str) -> None:
    recipe = {"method": {"kind": kind}, "dataset": "mnist", "arch": arch}
    found = matching(Curve("run", [record(0, 0.3, norm="linf", confidence=1.0)], recipe=recipe), published())
    assert all("5120x4" in row.label and ("MLP" in row.label) == (kind == "LInfPlus") for row in found)
    assert {at for row in found for at in row.accuracy} - {0.0} <= {0.1, 0.3}
    assert found


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_examples_is_drawn(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).random((4, channels, 8, 8))
    examples_figure(images, images + 0.5, FOUR, tmp_path / "examples.png")
    assert (tmp_path / "examples.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="expected as many images as noisy copies and records"):
        examples_figure(images, images, FOUR[:2], tmp_path / "wrong.png")


def test_reports_do_not_import_torch() -> None:
    code = (
        "import holdfast; assert callable(holdfast.report);"
        "import importlib, pkgutil, sys, holdfast.report as room;"
        "[importlib.import_module(f'holdfast.report.{info.name}') for info in pkgutil.iter_modules(room.__path__)];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_deterministic_run_is_shown_at_the_radii_of_the_published_rows_beside_it() -> None:
    rows = published()
    recipe = {"method": {"kind": "Gloro"}, "dataset": "mnist", "arch": "gloro-2c2f"}
    curve = Curve("gloro", [record(0, 1.0, confidence=1.0)], {"certifier": "Margin"}, recipe)
    assert published_radii([curve], rows) == {0.3}
    assert published_radii([dataclasses.replace(curve, records=[record(0, 0.2, confidence=1.0)])], rows) == set()
    assert published_radii([dataclasses.replace(curve, records=[record(0, 1.0)])], rows) == set()
