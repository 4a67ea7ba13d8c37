"""Several training seeds of one method, labels, tables for papers, and what a report costs in memory."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_cases import FOUR, abstention, certify_folder, drawn, record, run_folder

from holdfast.cli import main
from holdfast.report.command import report
from holdfast.report.curve import KEPT, SHOWN, Curve, gallery, thinned
from holdfast.report.facts import facts_of
from holdfast.report.figure import Frame, curve_figure
from holdfast.report.groups import changes, groups, hierarchical_bootstrap, spread
from holdfast.report.labels import differing, labeled, shared, told
from holdfast.report.page.data import BINS, proven_shares
from holdfast.report.summary import Format, latex_text, measurements, paper, rows, summarise


def curve(method: str, training_seed: int, radii: list[float], **more: Any) -> Curve:
    """A run of a recipe, whose records have these radii."""
    recipe = {"method": {"kind": method, "sigma": 0.5}, "dataset": "mnist", "arch": "lenet", "epochs": 9}
    recipe |= {"seed": training_seed}
    settings = {
        "certifier": "Shown",
        "sigma": 0.5,
        "dataset": "mnist",
        "split": "test",
        "model": f"{method}{training_seed}",
    }
    return Curve(f"{method}-{training_seed}", [record(i, r) for i, r in enumerate(radii)], settings | more, recipe)


def folder(path: Path, method: str, seed: int, radii: list[float]) -> Path:
    run = run_folder(path)
    recipe = {"method": {"kind": method, "sigma": 0.5}, "dataset": "mnist", "arch": "lenet", "seed": seed}
    (run / "run.json").write_text(json.dumps({"name": path.name, "recipe": recipe}))
    certify_folder(run / "certify-1", [record(i, r) for i, r in enumerate(radii)], name=path.name)
    return run


def test_runs_that_differ_in_their_training_seed_only_are_one_method() -> None:
    curves = [
        curve("Gaussian", 0, [0.1, 0.2]),
        curve("MACER", 0, [0.3, 0.4]),
        curve("Gaussian", 1, [0.1, 0.3]),
        curve("Gaussian", 1, [0.1, 0.3], seed=7),  # the same training, certified with other noise
        curve("Gaussian", 2, [0.1, 0.3], sigma=0.25),
        curve("Gaussian", 3, [0.1, 0.2, 0.3]),
    ]
    assert [group.members for group in groups(curves)] == [(0, 2)]


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0)


def test_the_bootstrap_over_seeds_and_images_has_the_variance_of_both_levels() -> None:
    """Var of a mean over S seeds of m images: s^2 / S between seeds, and that of images, which are shared."""
    rng = np.random.default_rng(1)
    seeds, m = 4, 2000
    values = rng.normal(0, 1, (1, 1, m)) + rng.normal(0, 0.1, (seeds, 1, 1))
    (draws,) = hierarchical_bootstrap([values])
    means = values.mean(2)[:, 0]
    expected = means.var(ddof=1) / seeds + values[0, 0].var() / m
    assert draws.var() == pytest.approx(expected, rel=0.1)


def test_images_are_drawn_together_for_all_methods() -> None:
    """So what all images share does not blur a difference, and a constant gain is certain."""
    rng = np.random.default_rng(2)
    first = np.repeat(rng.normal(0, 1, (1, 1, 500)), 3, axis=0)
    one, other = hierarchical_bootstrap([first, first + 0.1])
    (change,) = changes(np.array([0.1]), other - one)
    assert (change.estimate.low, change.estimate.high) == pytest.approx((0.1, 0.1))
    assert change.p < 0.001


def test_a_difference_within_the_spread_of_training_is_not_significant() -> None:
    """Each pair of runs differs for certain; over seeds the methods do not."""
    rng = np.random.default_rng(3)
    images = rng.uniform(0, 1, 1000)
    first = np.stack([(images + shift)[None] for shift in (0.0, 0.1, 0.2)])
    second = np.stack([(images + shift)[None] for shift in (0.01, 0.11, 0.21)])
    one, other = hierarchical_bootstrap([first, second])
    (change,) = changes(np.array([0.01]), other - one)
    assert change.p > 0.5
    assert change.estimate.low < 0 < change.estimate.high


def test_a_report_of_several_seeds_compares_methods(tmp_path: Path) -> None:
    base = np.linspace(0.1, 1, 40)
    paths = [
        folder(tmp_path / f"{method}{seed}", method, seed, list(base + gain + 0.001 * seed))
        for method, gain in (("Gaussian", 0.0), ("MACER", 0.3))
        for seed in (0, 1, 2)
    ]
    result = summarise(paths, [0.5])
    assert [group.members for group in result.groups] == [(0, 1, 2), (3, 4, 5)]
    (pair,) = result.group_pairs
    assert pair.acr
    assert pair.acr.estimate.value == pytest.approx(0.3)
    titles = [table.title for table in result.tables]
    assert titles[2].startswith("Methods: mean ± standard deviation over training seeds")
    assert titles[3].startswith("Differences of methods over training seeds and images")
    notes = "\n".join(result.notes)
    assert "they ignore training variance" in notes
    assert "these p-values do contain training variance" in notes
    sds = [row["value"] for row in measurements(result) if row["quantity"] == "acr_sd"]
    assert sds == pytest.approx([0.001, 0.001])


def test_labels_are_the_settings_that_differ() -> None:
    curves = [curve("Gaussian", 0, [0.1]), curve("Gaussian", 1, [0.1]), curve("MACER", 0, [0.1])]
    assert [run.label for run in labeled(curves)] == [
        "Gaussian, training seed 0",
        "Gaussian, training seed 1",
        "MACER, training seed 0",
    ]
    assert differing(curves) == ["method", "training seed"]
    assert shared(curves)["epochs"] == 9
    assert told(curves[0])["sigma"] == 0.5
    assert [run.label for run in labeled(curves, ["a", "b", "c"])] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="expected 3 labels, one for each of Gaussian-0; Gaussian-1; MACER-0; got 2"):
        labeled(curves, ["a", "b"])


def test_runs_with_nothing_to_tell_them_apart_keep_their_names() -> None:
    twins = [Curve("one", FOUR), Curve("other", FOUR)]
    assert [run.label for run in labeled(twins)] == ["one", "other"]
    same = [curve("Gaussian", 0, [0.1]), curve("Gaussian", 0, [0.2], model="another")]
    assert [run.label for run in labeled(same)] == ["Gaussian (Gaussian-0)", "Gaussian (Gaussian-0)"]


def test_the_gallery_shows_the_telling_examples_first() -> None:
    records = [record(i, 0.1 * (i + 1)) for i in range(20)] + [
        record(20, 0.4, right=False),
        record(21, 0.9, right=False),
    ]
    found = gallery([*records, abstention(22)])
    assert [one.index for one in found["smallest certified radii"]] == list(range(SHOWN))
    assert [one.index for one in found["largest radii"]] == [19 - i for i in range(SHOWN)]
    assert [one.index for one in found["certified as another class"]] == [21, 20]
    assert [one.index for one in found["abstentions"]] == [22]


def test_a_thinned_run_says_the_same() -> None:
    """All that a report counts stays; of evidence in full only that of the gallery."""
    evidence: dict[str, Any] = {
        "votes": {"1": 9},
        "samples": 10,
        "p_lower": 0.8,
        "alpha": 0.01,
        "invalid": 1,
        "one_class_radius": 0.2,
    }
    records = [record(i, 0.1 + 0.001 * i, **evidence) for i in range(100)]
    thin = thinned(records)
    whole, less = Curve("whole", records), Curve("thin", thin)
    for name in ("acr", "one_class_acr", "abstentions", "samples", "invalid", "alpha"):
        assert getattr(whole, name) == getattr(less, name), name
    kept = [one for one in thin if "votes" in one.certificate.evidence]
    assert len(kept) == 2 * SHOWN
    assert all(one.certificate.evidence.keys() <= set(KEPT) for one in thin if one not in kept)


@pytest.mark.parametrize("stored", [True, False])
def test_the_proven_shares_are_those_that_were_stored_or_that_the_radius_needs(stored: bool) -> None:
    """For Gaussian noise R = sigma Phi^-1(p), so both are the same numbers."""
    from scipy.stats import norm

    shares = [0.505, 0.75001, 0.999]
    radii = [0.5 * float(norm.ppf(share)) for share in shares]
    told: list[dict[str, Any]] = [{"p_lower": share} if stored else {} for share in shares]
    run = Curve("run", [record(i, r, **e) for i, (r, e) in enumerate(zip(radii, told, strict=True))], {"sigma": 0.5})
    found = proven_shares(run)
    assert found is not None
    assert (len(found), np.flatnonzero(found).tolist()) == (BINS, [0, 25, 49])
    assert proven_shares(Curve("log", run.records)) is None or stored
    assert proven_shares(Curve("proof", [record(0, 1.0, confidence=1.0)])) is None


def numbered(path: Path, name: str, radii: list[float]) -> Path:
    return certify_folder(path, [record(i, radius) for i, radius in enumerate(radii)], name=name)


def test_the_latex_table_shows_any_name_and_the_best_in_bold(tmp_path: Path) -> None:
    good = numbered(tmp_path / "a", "good", [0.5] * 90 + [0.1] * 10)
    close = numbered(tmp_path / "b", "close", [0.5] * 88 + [0.1] * 12)
    poor = numbered(tmp_path / "c", "50% & $x_1$ <b>\\", [0.5] * 10 + [0.1] * 90)
    text = paper(summarise([good, close, poor], [0.25]), "latex").decode()
    lines = [line for line in text.splitlines() if line.endswith(r"\\") and not line.startswith(" &")]
    assert [line.split(" & ")[-1] for line in lines] == [r"\textbf{90.0} \\", r"\textbf{88.0} \\", r"10.0 \\"]
    assert lines[2].startswith(r"50\% \& \$x\_1\$ \textless{}b\textgreater{}\textbackslash{} & ")
    assert text.count(r"\begin{tabular}{lrr}") == text.count(r"\end{tabular}") == 1


def test_latex_special_characters_are_all_escaped() -> None:
    assert latex_text("a~b^c{d}#|") == r"a\textasciitilde{}b\textasciicircum{}c\{d\}\#\textbar{}"


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_the_numbers_for_other_programs_are_those_of_the_report(tmp_path: Path, format: Format) -> None:
    result = summarise([numbered(tmp_path / name, name, [0.1, 0.4, 0.8]) for name in "ab"], [0.25])
    content = paper(result, format)
    match format:
        case "csv":
            read = list(csv.DictReader(io.StringIO(content.decode())))
        case "json":
            read = json.loads(content)
        case _:
            read = pq.read_table(io.BytesIO(content)).to_pylist()
    expected = list(measurements(result))
    assert len(read) == len(expected)
    for one, other in zip(read, expected, strict=True):
        assert one["quantity"] == other["quantity"]
        assert float(one["value"]) == pytest.approx(other["value"])


def test_a_run_decided_at_one_radius_is_in_that_column_only(tmp_path: Path) -> None:
    given = certify_folder(tmp_path / "g", [record(0, 0.5), record(1, 0.5)], certifier={"kind": "AtRadius", "r": [0.5]})
    usual = numbered(tmp_path / "u", "usual", [0.3, 0.6])
    found = rows(summarise([given, usual], [0.25, 0.5]))
    assert [[cell is not None for cell in row.cells] for row in found] == [[False, False, True], [True, True, True]]


def test_the_command_prints_the_table_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = numbered(tmp_path / "a", "a", [0.1, 0.4])
    main(
        [
            "report",
            str(run),
            "--format",
            "markdown",
            "--radii",
            "0.25",
            "--labels",
            "mine",
            "--out",
            str(tmp_path / "o"),
        ]
    )
    shown = capsys.readouterr()
    assert shown.out == (tmp_path / "o" / "table.md").read_text()
    assert shown.out.startswith("|  | ACR | 0.25 |")
    assert "| mine | **0.250** | **50.0** |" in shown.out
    assert not (tmp_path / "o" / "report.html").exists()
    assert "table.md" in shown.err


@pytest.mark.parametrize("width", [3.3, 5.6])
def test_the_legend_of_eighteen_runs_is_never_cut(width: float) -> None:
    curves = [Curve(f"a run with a rather long name, number {i}, sigma 0.5, epochs 90", FOUR) for i in range(18)]
    figure = drawn(curves, Frame(width=width, title="$ a title"))
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert (box.x0 >= 0, box.y0 >= 0) == (True, True)
    assert (box.x1 <= figure.bbox.x1, box.y1 <= figure.bbox.y1) == (True, True)
    around = figure.axes[0].get_tightbbox()
    assert around
    assert box.y1 <= around.y0
    assert figure.axes[0].get_window_extent().height > 1.5 * figure.dpi
    assert len(legend.get_texts()) == 18


def test_a_figure_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="width and height are inches from 1 to 40, got 0 and 3"):
        Frame(0, 3)


def test_a_figure_has_the_width_that_was_asked_for(tmp_path: Path) -> None:
    from matplotlib.image import imread

    curve_figure([Curve("a", FOUR)], [tmp_path / "a.png"], Frame(width=3.0, height=2.0))
    assert imread(tmp_path / "a.png").shape[1] == pytest.approx(3.0 * 200, rel=0.05)


def page_of(path: Path) -> dict[str, Any]:
    """The data of a page."""
    text = path.read_text()
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def test_the_page_shows_pictures_of_data_that_is_at_hand_and_downloads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "cifar10").mkdir(parents=True)  # holds no images
    for dataset, expected in (("digits", {"digits/test/0", "digits/test/1"}), ("mnist", set()), ("cifar10", set())):
        run = certify_folder(tmp_path / dataset, [record(0, 0.5), record(1, 0.1)], dataset=dataset)
        main(["report", str(run), "--out", str(tmp_path / "out")])
        images = page_of(tmp_path / "out" / "report.html")["images"]
        assert images.keys() == expected
        assert all(url.startswith("data:image/png;base64,") for url in images.values())


def test_the_curve_of_the_page_is_that_of_the_records(tmp_path: Path) -> None:
    """At every radius of its grid, and beyond its end as it ends."""
    rng = np.random.default_rng(4)
    records = [record(i, float(r), right=bool(rng.random() < 0.8)) for i, r in enumerate(rng.exponential(1, 300))]
    path = certify_folder(tmp_path / "c", records, sigma=0.5)
    main(["report", str(path), "--out", str(tmp_path / "out")])
    data, run = page_of(tmp_path / "out" / "report.html"), Curve.open(path)
    row, radii = data["rows"][0], data["panels"][0]["radii"]
    for radius, value, low, high in zip(radii, row["value"], row["low"], row["high"], strict=False):
        found = run.accuracy(radius)
        assert value == pytest.approx(100 * found.value, abs=0.4)  # the radius has ten digits
        assert low - 0.4 <= 100 * found.low <= 100 * found.high <= high + 0.8
    assert run.accuracy(radii[len(row["value"]) - 1]).value <= 1 / 300


def test_the_board_needs_no_run_and_names_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["board"])
    rows_of_none = page_of(tmp_path / "board.html")["rows"]
    assert {row["kind"] for row in rows_of_none} == {"published"}
    assert all(row["source"]["url"].startswith("https://") for row in rows_of_none)
    part = certify_folder(tmp_path / "part", FOUR, name="part", total=9)
    whole = certify_folder(tmp_path / "whole", FOUR, name="whole")
    main(["board", str(part), str(whole), "--out", "with.html"])
    assert "left out: part (4 of 9 examples) is not finished" in capsys.readouterr().out
    added = [row["label"] for row in page_of(tmp_path / "with.html")["rows"] if row["kind"] == "run"]
    assert added == ["whole"]


OTHERS: dict[str, dict[str, Any]] = {
    "another model": {"model": "another"},
    "more noise": {"certifier": {"kind": "Gaussian", "sigma": 1.0}},
    "the network without noise": {"certifier": {"kind": "Margin", "threat": "l2"}},
    "another split": {"split": "train"},
}


def attacked(run: Path, number: int, standing: int, **changes: Any) -> None:
    """What `holdfast attack` leaves."""
    asked = {"model": "00", "dataset": "mnist", "split": "test", "epsilon": 0.3, **changes}
    asked = {"certifier": {"kind": "Gaussian", "sigma": 0.5}} | asked
    (run / f"attack-{number}.json").write_text(
        json.dumps({"attack": asked, "found": {"total": 10, "standing": standing}})
    )


def test_what_attacks_left_is_an_upper_bound_for_the_same_function_only(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", "Gaussian", 0, [0.1, 0.9])
    for number, other in enumerate(OTHERS.values()):
        attacked(run, number, 0, **other)
    (run / "attack-x.json").write_text("{")
    curve = Curve.open(run / "certify-1")
    assert facts_of(curve).attacks == ()
    for number, standing in enumerate((9, 8), len(OTHERS)):
        attacked(run, number, standing)
    (attack,) = facts_of(curve).attacks
    assert (attack.epsilon, attack.examples, attack.accuracy.value) == (0.3, 10, 0.8), "the stronger of the two"


def test_what_attacks_left_stands_in_every_form_of_the_report(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", "Gaussian", 0, [0.1, 0.9])
    attacked(run, 0, 8)
    report([run], tmp_path / "out")
    share = "80.0 [44.4, 97.5]"  # Clopper and Pearson, 8 of 10
    assert f"| % under attack at 0.3, upper bound | {share} of 10 |" in (tmp_path / "out" / "report.md").read_text()
    assert "accuracy_under_attack,0.3,0.8,0.44" in (tmp_path / "out" / "report.csv").read_text()
    page = page_of(tmp_path / "out" / "report.html")
    (row,) = [row for row in page["rows"] if row["kind"] == "run"]
    assert row["attacks"] == [[0.3, 80.0, 44.4, 97.5, 10]]
    assert 0.3 in page["panels"][0]["radii"]
    assert "0.3" in [mark["text"] for mark in page["panels"][0]["marks"]]
