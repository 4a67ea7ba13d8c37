"""The log format: what is read, what is refused, and that a written radius never exceeds the proven one."""

import gzip
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.certificate import Certificate, Record
from holdfast.runs.logs import HEADER, read_log, write_log

HEAD = "\t".join(HEADER)
LOG = f"{HEAD}\n0\t7\t7\t1.87\t1\t0:00:01.397021\n20\t2\t-1\t0.0\t0\t15.6\n40\t1\t3\t0.25\t0\t0:00:00.3\n"


def record(index: int, radius: float, prediction: int | None = 1, norm: str = "l2") -> Record:
    return Record(index, 1, Certificate(prediction, radius, norm, 0.999))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_log_is_read_plain_or_gzipped(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "sigma_0.50"
    path.write_bytes(gzip.compress(LOG.encode()) if zipped else LOG.encode())
    records = list(read_log(path))
    assert [(r.index, r.label, r.certificate.prediction, r.certificate.radius, r.correct) for r in records] == [
        (0, 7, 7, 1.87, True),
        (20, 2, None, 0.0, False),
        (40, 1, 3, 0.25, False),
    ]
    assert {(r.certificate.norm, r.certificate.confidence) for r in records} == {("l2", 0.999)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b,c\n1,2,3\n", r"line 1: expected the header idx label .* found 'a,b,c'"),
        ("idx\tlabel\tpredict\tcorrect\ttime\n", "line 1: expected the header"),
        (f"{LOG}60\t7\t7\t0.9", "line 5: found 4 columns, expected 6"),
        (f"{LOG}60\t7\tseven\t0.9\t1\t1.0\n", "line 5: .*'seven'"),
        (f"{LOG}60\t7\t7\t0.9\t0\t1.0\n", "line 5: correct is 0, but predict 7 and label 7"),
        (f"{LOG}60\t7\t7\t-0.9\t1\t1.0\n", "line 5: a radius is finite and not negative"),
        (f"{LOG}60\t7\t7\tnan\t1\t1.0\n", "line 5: a radius is finite and not negative"),
        (f"{LOG}60\t7\t-1\t0.9\t0\t1.0\n", "line 5: an abstention has radius 0"),
        (f"{LOG}20\t2\t2\t0.9\t1\t1.0\n", "line 5: example 20 is listed twice"),
    ],
)
def test_a_foreign_or_damaged_log_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "log.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_log(path))
    assert str(path) in str(caught.value)


def test_a_cut_off_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(gzip.compress(LOG.encode() * 500)[:-40])
    with pytest.raises(ValueError, match=r"log\.tsv\.gz"):
        list(read_log(path))


def test_a_picture_is_not_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match="line 1"):
        list(read_log(path))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.lists(st.floats(0, 50) | st.floats(0, 1e-8), min_size=1, max_size=5))
def test_a_written_radius_is_never_above_the_proven_one(radii: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.tsv"
        write_log([record(index, radius) for index, radius in enumerate(radii)], path)
        printed = [Decimal(line.split("\t")[3]) for line in path.read_text().splitlines()[1:]]
        found = [r.certificate.radius for r in read_log(path)]
    for text, back, radius in zip(printed, found, radii, strict=True):
        assert text <= Decimal(radius)
        assert Decimal(radius) - text < Decimal("1e-9")
        assert back <= radius


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    records = [record(3, 0.5), record(5, 0.0, prediction=None), record(9, 0.25, prediction=2)]
    write_log(records, tmp_path / "log.tsv")
    assert list(read_log(tmp_path / "log.tsv")) == records


def test_the_format_refuses_radii_in_another_norm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="l2 radii only, found linf"):
        write_log([record(0, 0.1, norm="linf")], tmp_path / "log.tsv")
    assert not (tmp_path / "log.tsv").exists()
