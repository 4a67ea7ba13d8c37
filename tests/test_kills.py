"""benchmarks/kills.py sees what a killed run could have lost, doubled or changed, and goes on counting where it was."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "kills.py"))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([2, 0, 1], (0, 0, 0)),
        ([0, 2], (1, 0, 0)),
        ([0, 1, 1, 2], (0, 1, 0)),
        ([0, 1, 2.5], (0, 0, 1)),
        ([0, 1, 2, 7], (0, 0, 1)),
    ],
    ids=["in another order", "lost", "doubled", "different", "not asked for"],
)
def test_records_that_are_lost_doubled_or_different_are_counted(
    found: list[float], expected: tuple[int, int, int], tmp_path: Path, kills: dict[str, Any]
) -> None:
    for name, numbers in (("alone", [0, 1, 2]), ("ray", found)):
        folder = tmp_path / name / "model" / "certify-x"
        folder.mkdir(parents=True)
        lines = [json.dumps({"index": int(number), "radius": number}) + "\n" for number in numbers]
        (folder / "records-0-of-1.jsonl").write_text("".join(lines))
    told = kills["compared"](tmp_path)
    assert (told["lost"], told["doubled"], told["different"]) == expected
    assert told["records"] == 3


def test_the_count_goes_on_where_it_was(tmp_path: Path, kills: dict[str, Any]) -> None:
    tally = kills["Tally"](tmp_path / "kills.jsonl")
    tally.tell(kill=1, kind="worker")
    tally.tell(kill=2, kind="writer")
    tally.tell(gave_up=0)
    tally.tell(run=0, records=3, lost=1, doubled=0, different=0)
    again = kills["Tally"](tmp_path / "kills.jsonl")
    assert again.words() == tally.words()
    assert (
        "2 kills (1 workers, 1 writers, 0 nodes); 1 runs ended, 1 times one gave up, 3 records: 1 lost" in again.words()
    )
