"""Runs decided at given radii, unfinished runs, and how their classifiers were trained."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
from report_cases import FOUR, SETTINGS, abstention, certify_folder, drawn, record, run_folder

from holdfast.report.command import report
from holdfast.report.curve import Curve
from holdfast.report.labels import notes
from holdfast.report.published import published
from holdfast.report.summary import summarise
from holdfast.report.tables import beside, runs

AT_RADIUS = {"certifier": "AtRadius", "r": [0.3, 0.6]}
DECIDED = [record(0, 0.6), record(1, 0.3), record(2, 0.6, right=False), abstention(3)]


def test_a_run_decided_at_given_radii_has_no_acr_and_nothing_between_them(tmp_path: Path) -> None:
    given = certify_folder(tmp_path / "given", DECIDED, name="given", certifier=AT_RADIUS | {"kind": "AtRadius"})
    usual = certify_folder(tmp_path / "usual", FOUR, name="usual")
    result = report([given, usual], tmp_path / "out")
    assert result.radii == (0, 0.25, 0.3, 0.5, 0.6)
    shown = {row[0]: row[1:] for row in result.tables[1].rows}
    assert shown["ACR"][0] == "" != shown["ACR"][1]
    assert [bool(shown[f"% at {radius}"][0]) for radius in ("0", "0.25", "0.3", "0.5", "0.6")] == [0, 0, 1, 0, 1]
    assert [row[0] for row in result.tables[2].rows] == ["shared examples", "% at 0.3", "% at 0.6"]
    rows = list(csv.DictReader((tmp_path / "out" / "report.csv").read_text().splitlines()))
    assert {(row["quantity"], row["radius"]) for row in rows if "A" in row["run"]} == {
        (quantity, radius)
        for quantity in ("certified_accuracy", "certified_accuracy_difference")
        for radius in ("0.3", "0.6")
    } | {("abstained", "")}
    assert "A was decided at radius 0.3, 0.6 only" in "\n".join(result.notes)
    assert summarise([given]).radii == (0.3, 0.6)


def test_the_examples_that_stay_undecided_are_counted_at_each_radius() -> None:
    ends = [["certified", "undecided"], ["undecided", "open"], ["certified", "undecided"], ["certified", "given up"]]
    records = [record(i, 0.3, ends=end) for i, end in enumerate(ends)]
    curve = Curve("given", [*records, record(4, 0.6)], AT_RADIUS)
    assert curve.undecided == (1, 2)
    assert "A: undecided after the most samples, and not certified: 1 at 0.3, 2 at 0.6." in notes([curve])
    assert not any("undecided" in note for note in notes([Curve("given", DECIDED, AT_RADIUS)]))


def test_a_run_decided_at_given_radii_is_drawn_as_points() -> None:
    curves = [Curve("given", DECIDED, AT_RADIUS), Curve("usual", FOUR, SETTINGS)]
    figure = drawn(curves)
    points, steps = figure.axes[0].containers[0], figure.axes[0].lines[-1]
    assert np.asarray(points[0].get_xydata()).tolist() == [[0.3, 50], [0.6, 25]]
    assert len(np.asarray(steps.get_xydata())) > 1000
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A  given", "B  usual (ACR 0.188)"]


def test_the_runs_are_told_with_their_training_seed_and_epochs(tmp_path: Path) -> None:
    paths = [certify_folder(run_folder(tmp_path / name) / "certify-1", FOUR, name=name) for name in ("a", "b")]
    recipe = json.loads((tmp_path / "b" / "run.json").read_text())
    recipe["recipe"] |= {"epochs": 30, "seed": 7}
    (tmp_path / "b" / "run.json").write_text(json.dumps(recipe))
    table = summarise(paths).tables[0]
    assert table.header == ("", "run", "epochs", "training seed", "name")
    assert [row[1:4] for row in table.rows] == [
        ("GaussianNoise", "", ""),
        ("GaussianNoise, epochs 30", "30", "7"),
    ]
    assert "noise seed 0" in table.sources[0]
    assert summarise([paths[0]]).tables[0].header == ("", "run")


def test_a_split_run_decided_at_given_radii_of_the_features_has_no_acr() -> None:
    inner = {"kind": "AtRadius", "r": [1.3]}
    curve = Curve("split", FOUR, {"certifier": "Split", "inner": inner})
    assert not curve.has_acr
    assert curve.decides(0.1)
    assert beside_acr(curve) == ""


def beside_acr(curve: Curve) -> str:
    recipe = {"method": {"kind": "GaussianNoise"}, "dataset": "mnist", "arch": "lenet"}
    shown = dataclasses.replace(curve, recipe=recipe, settings={**curve.settings, "sigma": 0.5})
    return beside([shown], published(), [0.0])[0].rows[0][1]


def test_an_unfinished_run_is_left_out_by_name_unless_there_is_nothing_else(tmp_path: Path) -> None:
    whole = certify_folder(tmp_path / "whole", FOUR, name="whole")
    part = certify_folder(tmp_path / "part", FOUR[:3], name="part", total=4)
    result = summarise([whole, part])
    assert [curve.label for curve in result.curves] == ["whole"]
    assert "Left out: part (3 of 4 examples) is not finished." in result.notes
    alone = summarise([part])
    assert alone.curves[0].label == "part (3 of 4 examples)"
    assert not [row for row in alone.tables[1].rows if row[0] == "wrong at most"]
    assert "A: not finished. Which examples are done first can depend on their votes" in "\n".join(alone.notes)


def test_settings_of_an_inner_certifier_are_shown_as_fields(tmp_path: Path) -> None:
    """Never as `inner={'kind': ...}`, neither in the table nor in the notes."""
    inner = {"kind": "Gaussian", "sigma": 0.5, "alpha": 0.001, "noise": {"kind": "Float32"}}
    paths = [
        certify_folder(tmp_path / name, FOUR, name=name, certifier={"kind": "Split", "inner": inner | {"sigma": sigma}})
        for name, sigma in (("a", 0.5), ("b", 1.0))
    ]
    result = summarise(paths)
    table = result.tables[0]
    assert table.header == ("", "run", "inner.sigma")
    assert [row[2] for row in table.rows] == ["0.5", "1.0"]
    assert {"certifier Split", "inner Gaussian", "inner.noise Float32"} <= set(
        table.sources[0].split(": ")[1].split(", ")
    )
    text = "\n".join(result.notes) + str(result.tables)
    assert "inner.sigma differs (A: 0.5; B: 1.0): more noise reaches further" in text
    assert "{" not in text


def test_several_values_of_a_setting_are_shown_side_by_side() -> None:
    assert runs([Curve("given", DECIDED, AT_RADIUS)]).sources == ("The run: certifier AtRadius, r (0.3, 0.6).",)


def test_what_cannot_be_checked_is_a_note_for_the_runs_that_it_is_about() -> None:
    lacking = Curve("old", FOUR, SETTINGS, lacks=("not recomputable: 2 of 4 radii",))
    told = notes([lacking, Curve("new", FOUR, SETTINGS), dataclasses.replace(lacking, name="older")])
    assert [note for note in told if "recomputable" in note] == ["A, C: not recomputable: 2 of 4 radii."]
