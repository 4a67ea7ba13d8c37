"""What a report reads, what it leaves out and says so, and that an export is read back as what it was."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_cases import FOUR, certify_folder, record, run_folder

from holdfast.cli import main
from holdfast.report.command import ExportFormat, export, report
from holdfast.report.curve import Curve, load
from holdfast.report.summary import summarise
from holdfast.report.tables import results
from holdfast.runs.find import find
from holdfast.runs.logs import HEADER, read_log

RESULTS = Path(__file__).parents[1] / "results"


def certified(folder: Path, **changes: Any) -> Path:
    """A certify folder of a trained run, with evidence, a rounded radius and an explanation."""
    run = run_folder(folder)
    records = [*FOUR, record(4, 1 / 3, votes={"1": 90}, samples=100, alpha=0.01)]
    inside = certify_folder(run / "certify-1", records, **{"name": folder.name, "total": 9, "cap": 0.95} | changes)
    (inside / "explanation.json").write_text('{"upper": 2.0}')
    return inside


def wrong_at_most(*paths: Path) -> list[str]:
    (row,) = [row for row in results(load(paths).curves, [0.0]).rows if row[0] == "wrong at most"]
    return list(row[1:])


DENOISERS = sorted(path for path in RESULTS.glob("denoise-*") if "+" not in path.name)
CLASSIFIERS = sorted({path.parent for path in RESULTS.glob("*/run.json")} - {*DENOISERS})


@pytest.mark.parametrize("run", CLASSIFIERS, ids=lambda run: run.name)
def test_every_run_of_the_results_is_reported_whole(run: Path) -> None:
    found = summarise([run])
    assert not [note for note in found.notes if note.startswith("Left out: ")]
    assert len(found.curves) == len(list(run.glob("certify-*")))
    assert all(len(curve) == curve.total and curve.recipe and curve.settings for curve in found.curves)


def test_a_folder_of_runs_stands_for_all_of_them() -> None:
    found, left_out = find([RESULTS])
    assert found == sorted(RESULTS.glob("*/certify-*"))
    assert [note.partition(" is a denoiser")[0] for note in left_out] == [str(path) for path in DENOISERS]


def test_a_certify_folder_with_a_table_only_is_read_from_it(tmp_path: Path) -> None:
    folder = certified(tmp_path / "run")
    whole = Curve.open(folder)
    export([folder], "parquet")
    (folder / "records-0-of-1.jsonl").unlink()
    assert Curve.open(folder) == whole


def test_a_parquet_export_is_read_back_as_the_run_that_it_was(tmp_path: Path) -> None:
    folder = certified(tmp_path / "run")
    (table,) = export([folder], "parquet", tmp_path / "elsewhere").written
    assert table == tmp_path / "elsewhere" / "certify-1.parquet"
    assert Curve.open(table) == Curve.open(folder)
    rows = pq.read_table(table).to_pylist()
    assert [row["prediction"] for row in rows] == [1, 1, 0, None, 1]
    assert json.loads(rows[4]["evidence"])["votes"] == {"1": 90}


@pytest.mark.parametrize("zipped", [False, True])
def test_a_tsv_export_keeps_everything_but_evidence(tmp_path: Path, zipped: bool) -> None:
    folder = certified(tmp_path / "run", alpha=0.05, total=5)
    (log,) = export([folder], "tsv", tmp_path / "elsewhere").written
    assert log.read_text().split("\n")[0] == "\t".join(HEADER)
    if zipped:
        log.with_suffix(".tsv.gz").write_bytes(gzip.compress(log.read_bytes()))
        log.unlink()
        log = log.with_suffix(".tsv.gz")
    back, whole = Curve.open(log), Curve.open(folder)
    for part in ("name", "settings", "recipe", "explanation", "total", "cap", "most_samples", "alpha"):
        assert getattr(back, part) == getattr(whole, part)
    assert 1 / 3 - 1e-9 < back.records[4].certificate.radius <= 1 / 3
    assert back.records[3].certificate.prediction is None
    assert wrong_at_most(log) == wrong_at_most(folder) == ["3 (60.00 points)"]


def test_a_deterministic_run_stays_deterministic_in_a_tsv_export(tmp_path: Path) -> None:
    folder = certify_folder(tmp_path / "certify-1", [record(0, 0.5, confidence=1.0, margin=0.1)], alpha=None)
    (log,) = export([folder], "tsv", tmp_path / "out").written
    assert Curve.open(folder).alpha is None
    assert Curve.open(log).alpha is None


def test_the_settings_beside_a_log_count_for_that_content_only(tmp_path: Path) -> None:
    (log,) = export([certified(tmp_path / "run")], "tsv", tmp_path).written
    log.write_text(log.read_text().replace("0.5", "0.6"))
    with pytest.raises(ValueError, match=r"certify-1\.tsv\.json tells the settings of another content"):
        list(read_log(log))
    log.with_name("certify-1.tsv.json").write_text('{"notes": "of somebody else"}')
    (curve,) = load([log]).curves
    assert (curve.alpha, curve.settings) == (pytest.approx(0.001), {})
    assert "its alpha is taken to be 0.001" in "\n".join(summarise([log]).notes)


@pytest.mark.parametrize("format", ["tsv", "parquet"])
@pytest.mark.parametrize("where", ["inside", "beside", "elsewhere"])
def test_an_export_is_not_counted_besides_its_run(tmp_path: Path, format: ExportFormat, where: str) -> None:
    folder = certified(tmp_path / "runs" / "run")
    out = {"inside": folder, "beside": folder.parent, "elsewhere": tmp_path / "runs"}[where]
    (target,) = export([folder], format, out).written
    for paths in ([folder], [folder.parent], [tmp_path / "runs"]):
        assert len(load(paths).curves) == 1
    found = load([target, folder])
    assert (len(found.curves), len(found.left_out)) == (1, 1)
    assert "was exported from" in found.left_out[0]
    assert len(load([target]).curves) == 1


def test_an_old_export_without_settings_is_known_by_its_place(tmp_path: Path) -> None:
    folder = certified(tmp_path / "run")
    written = [*export([folder], "parquet").written, *export([folder], "tsv", folder.parent).written]
    table = pq.read_table(written[0]).replace_schema_metadata(None)
    pq.write_table(table, written[0])
    written[1].with_name("certify-1.tsv.json").unlink()
    assert find([*written, folder])[0] == [folder]
    assert Curve.open(written[0]) == Curve.open(folder)
    pq.write_table(table, tmp_path / "alone.parquet")
    assert Curve.open(tmp_path / "alone.parquet").settings == {"certifier": "not recorded"}


def test_two_exports_of_a_run_count_once(tmp_path: Path) -> None:
    folder = certified(tmp_path / "run")
    for format in ("tsv", "parquet"):
        export([folder], format, tmp_path / "out")
    assert find([tmp_path / "out"])[0] == [tmp_path / "out" / "certify-1.parquet"]


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    folder = certified(tmp_path / "run")
    assert find([folder, folder.parent, folder.parent / ".." / "run"])[0] == [folder]


def test_runs_of_one_name_are_told_apart_by_the_settings_of_their_inner_certifier(tmp_path: Path) -> None:
    for kind in ("Adaptive", "AtRadius"):
        certify_folder(tmp_path / kind, FOUR, certifier={"kind": "Split", "inner": {"kind": kind, "alpha": 0.001}})
    labels = [curve.label for curve in summarise([tmp_path]).curves]
    assert labels == ["gaussian, inner Adaptive", "gaussian, inner AtRadius"]


def damaged(folder: Path, name: str) -> Path:
    """Runs that cannot be reported, by what is wrong with them."""
    path = folder / name
    if name == "trained":
        return run_folder(path)
    if name == "empty":
        return certify_folder(path, [])
    certify_folder(path, FOUR)
    run = path / "run.json"
    match name:
        case "no-settings":
            run.write_text("{")
        case "no-certifier":
            run.write_text('{"certification": {"certifier": 3}}')
        case "edited":
            run.write_text(run.read_text().replace('"cap": null', '"cap": 0.6'))
        case "foreign-table":
            (path / "records-0-of-1.jsonl").unlink()
            (path / "foreign-table.parquet").write_text("no table")
    return path


DAMAGED = {
    "nowhere": "nowhere does not exist",
    "trained": "trained is trained but not certified; run `holdfast certify",
    "empty": "empty: gaussian holds no records; certify it first",
    "no-settings": "no-settings/run.json is not valid JSON",
    "no-certifier": "no-certifier does not tell its certifier",
    "edited": "records-0-of-1.jsonl, line 3: not a record of this run: radius is 0.9, above 0.6",
    "foreign-table": "foreign-table.parquet is no Parquet table",
}


def test_a_report_leaves_out_what_it_cannot_read_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    runs = tmp_path / "runs"
    certified(runs / "good")
    broken = [damaged(runs, name) for name in DAMAGED if name != "nowhere"]
    main(["report", str(runs), str(runs / "nowhere"), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    for told in (shown, (tmp_path / "out" / "report.md").read_text(), (tmp_path / "out" / "report.html").read_text()):
        assert told.count("Left out: ") == len(DAMAGED)
    assert all(reason in shown for reason in DAMAGED.values())
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, broken), "--out", str(tmp_path / "none")])
    assert stopped.value.code == 2
    assert not (tmp_path / "none").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    assert "not a run folder" in load([tmp_path / "foreign"]).left_out[0]


def test_the_report_of_a_folder_of_runs_does_not_go_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    certified(tmp_path / "runs" / "run")
    report([Path("runs")])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    assert (tmp_path / "report" / "report.md").exists()


def test_runs_that_cannot_share_a_table_are_left_out(tmp_path: Path) -> None:
    boxes = certify_folder(tmp_path / "boxes", [record(0, 0.1, norm="linf")], name="boxes")
    balls = [certify_folder(tmp_path / f"{i}", [record(0, 0.1)], name=f"ball {i}") for i in range(27)]
    result = summarise([boxes, *balls])
    assert [row[0] for row in result.tables[0].rows][-2:] == ["Z", "AA"]
    assert [note for note in result.notes if note.startswith("Left out")] == [
        "Left out: boxes has linf radii, the others l2: report it apart.",
    ]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("radius", pa.array([9.0]), "radius is 9, above 0.95"),
        ("index", pa.array([0.5]), "index is 0.5, expected an integer"),
        ("index", pa.array([77]), "did not ask for that example"),
        ("evidence", pa.array(["{"]), "not a record"),
        ("evidence", pa.array([None], pa.string()), "not a record"),
        ("correct", pa.array([False]), "correct is False, but prediction 1 and label 1"),
    ],
)
def test_a_damaged_table_is_refused_with_its_row(tmp_path: Path, column: str, value: pa.Array, message: str) -> None:
    (path,) = export([certified(tmp_path / "run")], "parquet", tmp_path).written
    table = pq.read_table(path).slice(0, 1)
    pq.write_table(table.set_column(table.column_names.index(column), column, value), path)
    with pytest.raises(ValueError, match=rf"certify-1\.parquet, row 1: .*{message}"):
        Curve.open(path)
    pq.write_table(pa.concat_tables([pq.read_table(path)]).drop_columns([column]), path)
    with pytest.raises(ValueError, match=f"lacks the columns {column}"):
        Curve.open(path)


def test_exporting_several_runs_writes_what_it_can_and_names_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    written = [certified(runs / name) / "certify-1.tsv" for name in ("a", "b")]
    damaged(runs, "empty")
    certify_folder(runs / "boxes", [record(0, 0.1, norm="linf")])
    main(["export", *map(str, sorted(runs.iterdir()))])
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("written: ")] == [
        f"written: {path.parent.parent / path.name}" for path in written
    ]
    assert [line.split(": ", 1)[1].removeprefix(f"{runs}/") for line in shown if line.startswith("left out: ")] == [
        "boxes: the tsv format holds l2 radii only, found linf; export as parquet instead",
        "empty holds no records yet; certify it first",
    ]
    left_out = export([runs / "a", runs / "b"], "parquet", tmp_path / "one").left_out
    assert len(left_out) == 1
    assert "would overwrite the export of" in left_out[0]
    with pytest.raises(ValueError, match="empty holds no records"):
        export([runs / "empty"], "tsv", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="would be overwritten"):
        export([runs / "a" / "certify-1.tsv"])


def test_several_processes_read_what_one_reads(tmp_path: Path) -> None:
    """In an interpreter of its own, because only without torch are there several."""
    (tmp_path / "broken.tsv").write_text("no log")
    program = (
        "import sys; from pathlib import Path; import holdfast.report.curve as curve\n"
        "paths = [*map(Path, sys.argv[1:])]\n"
        "one = curve.load(paths)\n"
        "curve.MANY, curve.os.cpu_count = 0, lambda: 3\n"
        "several = curve.load(paths)\n"
        "assert 'torch' not in sys.modules and len(one.curves) > 3 and len(one.left_out) == 1\n"
        "assert several == one\n"
        "assert [list(run.records) for run in several.curves] == [list(run.records) for run in one.curves]\n"
    )
    runs = [str(path) for path in sorted(RESULTS.glob("gaussian-mnist-0.50-*"))]
    done = subprocess.run([sys.executable, "-c", program, *runs, str(tmp_path / "broken.tsv")], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
