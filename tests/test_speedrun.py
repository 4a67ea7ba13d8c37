"""Every row of docs/speedrun.md is recomputed from the run folder that it names."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from test_results import Records

from holdfast.cli.train import parse
from holdfast.core.registry import RECIPES
from holdfast.optim import WarmSGD
from holdfast.runs.certified import read

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "speedrun.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in re.findall(r"^\| [^|]+ \| `holdfast.*\|$", PAGE, re.MULTILINE)
]


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def certified(run: Path, kind: str, n: int | None = None) -> Path:
    """The certify folder of that kind of certifier, and of that n where there is one, that has most images."""
    told = {path.parent: json.loads(path.read_text()) for path in run.glob("certify-*/run.json")}
    certifiers = {folder: found["certification"]["certifier"] for folder, found in told.items()}
    found = [folder for folder, one in certifiers.items() if one["kind"] == kind and (n is None or one.get("n") == n)]
    return max(found, key=lambda folder: told[folder]["total"])


def shown(text: str) -> tuple[float, float]:
    """A number, and half of its last digit."""
    return float(text.replace(",", "")), 0.5000001 * 10.0 ** -len(text.partition(".")[2])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[-1].strip("`"))
def test_a_row_is_that_of_its_run(row: list[str]) -> None:
    _, command, number, *_, seconds, date, commit, folder = row
    run = ROOT / "results" / folder.strip("`")
    name, *options = command.strip("`").split()[2:]
    assert run.name.endswith(parse(name, options, "train").recipe.fingerprint())
    metrics = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    begun = [event for event in events(run) if event["event"] == "train"]
    spent = {name: sum(float(line.get(name) or 0) for line in metrics) for name in ("seconds", "processor_seconds")}
    found = {float(f"{value / 60:.1f}") for value in spent.values() if value}
    assert {float(text) for text in re.findall(r"\d+\.\d", seconds)} == found
    assert begun[0]["time"].startswith(date)
    assert commit.strip("`") == (begun[0].get("commit") or "not recorded")[:12]
    kind, what = re.findall(r"(\w+): (.*)", number)[0]
    n = [int(digits.replace(",", "")) for digits in re.findall(r"of n = ([\d,]+)", what)]
    records = sorted(read(certified(run, kind, *n)), key=lambda record: record.index)
    radii = [record.certificate.radius if record.correct else 0.0 for record in records]
    if "ACR" in what:
        value, half = shown(re.findall(r"ACR ([\d.]+)", what)[0])
        assert sum(radii) / len(radii) == pytest.approx(value, abs=half)
    for share, at in re.findall(r"([\d.]+) % at ([\d./]+)", what):
        top, _, bottom = at.partition("/")
        value, half = shown(share)
        right = [record.correct and record.certificate.radius >= float(top) / float(bottom or 1) for record in records]
        assert 100 * sum(right) / len(right) == pytest.approx(value, abs=half)


def test_the_short_run_beside_the_full_one() -> None:
    runs = ("consistency-mnist-0.50-short-65f3c9e025f6", "consistency-mnist-0.50-253f200c3507")
    short, full = (Records(certified(ROOT / "results" / run, "Gaussian")) for run in runs)
    (text,) = re.findall(r"proves an ACR of (1.*?\])", PAGE, re.DOTALL)
    values = [full.acr, short.acr, *short.less(full)]
    found = re.findall(r"(?<![\w,])-?\d\.\d+", text)
    assert len(found) == len(values)
    for one, value in zip(found, values, strict=True):
        assert float(one) == pytest.approx(value, abs=0.5000001e-4)
    assert short.less(full)[0] > -0.02


def test_the_tables_of_how_schedules_were_chosen_are_those_of_the_output() -> None:
    tables = (ROOT / "results" / "benchmarks" / "short.txt").read_text().strip().split("\n\n")
    assert len(tables) == 2
    assert all(table in PAGE for table in tables)


def test_there_are_rows() -> None:
    assert len(ROWS) >= 5


SHORT = [
    ("consistency-mnist-0.50", {}),
    ("smoothmix-mnist-0.50", {}),
    ("emma-cifar10-small", {"batch_size": 128, "crop": 0}),
]
"""Recipes, and what their short form has of its own beside the epochs and the optimiser."""


@pytest.mark.parametrize(("name", "own"), SHORT)
def test_a_short_recipe_differs_in_what_is_named_here_alone_and_takes_a_fifth_of_the_epochs_at_most(
    name: str, own: dict[str, int]
) -> None:
    full, short = RECIPES[name], RECIPES[f"{name}-short"]
    assert short == full.replace(epochs=short.epochs, optimizer=short.optimizer, **own)
    assert 5 * short.epochs <= full.epochs


def test_one_cycle_of_the_rate() -> None:
    schedule = WarmSGD(lr=0.05)
    assert [schedule.rate(t) for t in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0, 0.025, 0.05, 5e-5])
    rates = [schedule.rate(t / 100) for t in range(20, 101)]
    assert rates == sorted(rates, reverse=True)


def test_one_cycle_takes_the_steps_of_nesterov() -> None:
    """Two steps down the slope of w at a constant rate: momentum that looks ahead has added 0.9, then 0.9 + 0.81."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    optimizer = WarmSGD(lr=1.0, weight_decay=0.0).build(layer)
    for expected in (-1.9, -1.9 - 2.71):
        optimizer.zero_grad()
        layer.weight.sum().backward()
        optimizer.step()
        assert layer.weight.item() == pytest.approx(expected)
