"""A run folder: complete or absent, append-only, never half read."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.certificate import Certificate, Record
from holdfast.runs import records, store
from holdfast.runs.find import read_facts

RECORD = Record(3, 1, Certificate(1, 0.25, "l2", 0.999, {"votes": {"1": 90}, "n": 100}))


def test_records_are_read_back_in_the_order_of_their_indices(tmp_path: Path) -> None:
    other = Record(1, 0, Certificate(None, 0.0, "linf", 1.0))
    for shard, record in ((0, RECORD), (1, other)):
        with records.RecordWriter(tmp_path, shard, 2) as writer:
            writer.append(record)
    assert records.read_records(tmp_path) == [other, RECORD]
    assert records.read_labels(tmp_path) == {RECORD.index: 1, other.index: 0}
    assert records.count_records(tmp_path) == 2
    with records.RecordWriter(tmp_path, 0, 3) as writer:  # of another machine, which has not heard of it
        writer.append(other)
    assert records.count_records(tmp_path) == len(records.read_records(tmp_path)) == 2


def test_a_line_of_the_log_that_a_full_disk_tore_takes_no_other_with_it(tmp_path: Path) -> None:
    store.log(tmp_path, event="certify")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "wor')
    store.log(tmp_path, event="certified")
    assert [entry["event"] for entry in store.entries(tmp_path)] == ["certify", "certified"]


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    store.open_run(tmp_path / "run", {"certification": {"certifier": {"n": 5}, "seed": 0}}, {"total": 3})
    store.open_run(tmp_path / "run", {"certification": {"certifier": {"n": 5}, "seed": 0}}, {"total": 4})
    with pytest.raises(ValueError, match=r"other settings \(certification.certifier.n: 5 there, 6 now\)"):
        store.open_run(tmp_path / "run", {"certification": {"certifier": {"n": 6}, "seed": 0}}, {})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    with pytest.raises(ValueError, match=r"not a run folder: it has no run\.json"):
        store.open_run(tmp_path / "foreign", {}, {})
    (tmp_path / "foreign" / "run.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        store.read_run(tmp_path / "foreign")


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        store.open_run(tmp_path / "run", {"seed": object()}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    with records.RecordWriter(tmp_path, 0, 1) as writer:
        writer.append(RECORD)
    file = tmp_path / "records-0-of-1.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert records.read_records(tmp_path) == [RECORD]
    with records.RecordWriter(tmp_path, 0, 1):
        assert file.read_bytes() == whole


@pytest.mark.parametrize("line", ["{}", "not json", '{"index": 1, "label": 2, "certificate": {"radius": -1}}'])
def test_a_foreign_line_is_named(tmp_path: Path, line: str) -> None:
    with records.RecordWriter(tmp_path, 0, 1) as writer:
        writer.append(RECORD)
    with (tmp_path / "records-0-of-1.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"records-0-of-1\.jsonl, line 2: not a record"):
        records.read_records(tmp_path)


PROOF = {"prediction": 1, "radius": 0.25, "norm": "l2", "confidence": 0.999, "evidence": {}}
LINE = {"index": 3, "label": 1, "certificate": PROOF}


def written(folder: Path, *, run: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder with one good line and one with changed values of the record or of its certificate."""
    inner = PROOF | {key: value for key, value in changes.items() if key not in LINE}
    outer = {key: value for key, value in changes.items() if key in LINE}
    lines = [LINE, LINE | {"index": 5, "certificate": inner} | outer]
    (folder / "records-0-of-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if run is not None:
        (folder / "run.json").write_text(json.dumps(run))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": -7}, "index is -7, expected an integer, 0 or more"),
        ({"index": 0.5}, "index is 0.5, expected an integer"),
        ({"index": "5"}, "index is '5', expected an integer"),
        ({"index": True}, "index is True, expected an integer"),
        ({"label": "0"}, "label is '0', expected an integer"),
        ({"label": True}, "label is True, expected an integer"),
        ({"label": None}, "label is None, expected an integer"),
        ({"radius": True}, "radius is True, expected a number"),
        ({"radius": "0.2"}, "radius is '0.2', expected a number"),
        ({"radius": float("inf")}, "Infinity is no finite number"),
        ({"radius": float("nan")}, "NaN is no finite number"),
        ({"radius": 10**400}, "too large"),
        ({"prediction": 1.0}, "prediction is 1.0, expected an integer"),
        ({"prediction": "1"}, "prediction is '1', expected an integer"),
        ({"prediction": True}, "prediction is True, expected an integer"),
        ({"prediction": -1}, "prediction is -1, expected an integer, 0 or more"),
        ({"norm": "L2"}, "norm is 'L2', expected one of l1, l2, linf"),
        ({"norm": ["l2"]}, "norm is .* expected a string"),
        ({"confidence": "0.999"}, "confidence is '0.999', expected a number"),
        ({"evidence": [1]}, r"evidence is \[1\], expected an object"),
        ({"surplus": 1}, "unknown fields: surplus"),
        ({"certificate": 3}, "certificate is 3, expected an object"),
    ],
)
def test_a_value_of_another_type_is_refused_with_file_and_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"records-0-of-1\.jsonl, line 2: not a record of this run: .*{message}"):
        records.read_records(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": 10**6}, "index is 1000000, and the run did not ask for that example"),
        ({"index": 4}, "index is 4, and the run did not ask"),
        ({"index": 1}, "index is 1, and the run did not ask"),
        ({"index": 11}, "index is 11, and the run did not ask"),
        ({"radius": 9.6}, "radius is 9.6, above 0.8, the largest that this run can prove"),
        ({"radius": 1e9}, r"radius is 1e\+09, above 0.8"),
    ],
)
def test_a_record_that_the_run_cannot_hold_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run = {"total": 4, "cap": 0.8, "certification": {"start": 3, "every": 2}}
    with pytest.raises(ValueError, match=f"line 2: .*{message}"):
        records.read_records(written(tmp_path, run=run, **changes))
    assert len(records.read_records(written(tmp_path, run=run, index=9, radius=0.8))) == 2


@pytest.mark.parametrize(
    "run",
    [
        [],
        {"total": "4"},
        {"total": 4, "certification": {"every": 0}},
        {"cap": "0.8"},
        {"certification": 3},
        {"certification": {"certifier": {"kind": "Generous"}}},
        {"certification": {"certifier": {"kind": "SGD"}}},
        {"certification": {"certifier": {"kind": ["Gaussian"]}}},
        {"certification": {"certifier": {"sigma": 0.25}}},
    ],
)
def test_a_damaged_run_json_is_refused(tmp_path: Path, run: Any) -> None:
    with pytest.raises(ValueError, match=r"run\.json.*was it edited\?"):
        records.read_records(written(tmp_path, run=run))


def test_two_records_of_an_example_must_agree(tmp_path: Path) -> None:
    other = Record(3, 1, Certificate(1, 0.26, "l2", 0.999))
    for shard, record in ((0, RECORD), (1, RECORD), (2, other)):
        with records.RecordWriter(tmp_path, shard, 3) as writer:
            writer.append(record)
    with pytest.raises(ValueError, match="two different records of example 3"):
        records.read_records(tmp_path)


TWICE = [
    ("records-0-of-1.jsonl", '"radius": 0.25', '"radius": 0.25, "radius": 0.25', "line 2: .*'radius' stands twice"),
    ("records-0-of-1.jsonl", '"evidence": {}', '"evidence": {"a": 1e999}', "line 2: .*1e999 is no finite number"),
    ("run.json", '"total": 4', '"total": 3, "total": 4', "'total' stands twice"),
    ("run.json", '"every": 2', '"every": 2, "x": -Infinity', "-Infinity is no finite number"),
    ("log.jsonl", '"b": 1', '"b": 1, "b": 2', "line 2: .*'b' stands twice"),
    ("log.jsonl", '"b": 1', '"b": NaN', "line 2: NaN is no finite number"),
    ("log.jsonl", '"b": 1', '"b": 1e999', "line 2: 1e999 is no finite number"),
]
"""A file of a run, what stands there, what is put there, and what is said of it."""


@pytest.mark.parametrize(("file", "old", "new", "message"), TWICE)
def test_what_two_readers_could_read_differently_is_refused_with_file_and_line(
    file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    run = {"total": 4, "certification": {"start": 3, "every": 2}}
    path = written(tmp_path, run=run) / file
    store.log(tmp_path, a=1)
    store.log(tmp_path, b=1)
    assert read_facts(tmp_path)
    assert len(records.read_records(tmp_path)) == 2
    before, found, after = path.read_text().rpartition(old)
    assert found
    path.write_text(before + new + after)
    with pytest.raises(ValueError, match=rf"{file}.*{message}"):
        _ = read_facts(tmp_path), records.read_records(tmp_path)


def test_only_who_created_a_folder_is_told_so(tmp_path: Path) -> None:
    assert [store.open_run(tmp_path / "run", {"a": 1}, {}) for _ in range(2)] == [True, False]


def test_a_folder_that_was_removed_does_not_come_back_without_its_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone was removed by another process"):
        records.RecordWriter(tmp_path / "gone", 0, 1)
    assert not (tmp_path / "gone").exists()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with records.RecordWriter(tmp_path, 0, 1), pytest.raises(ValueError, match="another process is writing"):
        records.RecordWriter(tmp_path, 0, 1)


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with records.RecordWriter(tmp_path, 0, 1) as writer:
        writer.append(RECORD)
        real = writer._file

        class Full:
            def write(self, line: bytes) -> int:
                return real.write(line[:10])

            def __getattr__(self, name: str):
                return getattr(real, name)

        monkeypatch.setattr(writer, "_file", Full())
        with pytest.raises(OSError, match="disk is full") as caught:
            writer.append(Record(4, 0, RECORD.certificate))
        assert caught.value.errno == errno.ENOSPC
    assert records.read_records(tmp_path) == [RECORD]
    assert (tmp_path / "records-0-of-1.jsonl").read_bytes().endswith(b"\n")


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    store.write_whole(path, b"old")
    with pytest.raises(TypeError):
        store.write_whole(path, "not bytes")  # pyright: ignore[reportArgumentType]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_written_into_a_folder_under_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "x", "file is no folder")):
        with pytest.raises(ValueError, match=message):
            store.write_whole(path, b"")


def test_a_record_is_one_line_of_plain_json(tmp_path: Path) -> None:
    with records.RecordWriter(tmp_path, 0, 1) as writer:
        writer.append(RECORD)
        with pytest.raises(ValueError, match="JSON compliant"):
            writer.append(Record(4, 0, Certificate(1, 0.1, "l2", 0.9, {"p": float("nan")})))
    (line,) = (tmp_path / "records-0-of-1.jsonl").read_text().splitlines()
    assert json.loads(line)["certificate"]["evidence"] == {"votes": {"1": 90}, "n": 100}


@pytest.mark.parametrize("put", ["a link to nothing", "a folder"])
def test_what_is_no_file_of_records_is_refused(put: str, tmp_path: Path) -> None:
    with records.RecordWriter(tmp_path, 0, 1) as writer:
        writer.append(RECORD)
    other = tmp_path / "records-1.jsonl"
    _ = other.mkdir() if put == "a folder" else other.symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"records-1\.jsonl is no file"):
        records.read_records(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, None])
def test_a_run_json_that_no_reader_takes_is_refused_in_words(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    _ = path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=r"not valid JSON|is not a run folder"):
        store.read_run(tmp_path)
