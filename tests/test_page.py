"""The page of a report and the board in a real browser; skipped where there is no chromium.

With HOLDFAST_SCREENSHOTS=FOLDER the pictures of the documents are written there, to be looked at.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_cases import abstention, certify_folder, record, run_folder

from holdfast.cli import main
from holdfast.report.command import board, report
from holdfast.report.published import published
from holdfast.report.summary import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the page is not tried")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: the page is not tried")

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EVIL = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> $" + "W" * 150
ROOT = Path(__file__).parents[1]
SIZES = {"wide": (1400, 900), "narrow": (390, 800)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


class Opened:
    """A page, and all that it complained about or asked the network for."""

    def __init__(self, browser: Any, path: Path, size: str = "wide", scheme: str = "light") -> None:
        width, height = SIZES[size]
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page.set_default_timeout(300_000)  # a busy machine takes long, and no claim here is about time
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self.complaints.append(asked.url) if asked.url[:4] == "http" else None)
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("#table tbody tr")

    def rows(self) -> list[str]:
        """Labels of the table, from the top."""
        return self.page.eval_on_selector_all("#table tbody tr", "rows => rows.map(row => row.dataset.label)")

    def column(self, title: str) -> list[str]:
        heads = self.page.eval_on_selector_all("#table thead th", "cells => cells.map(cell => cell.innerText.trim())")
        cells = "(rows, at) => rows.map(row => row.cells[at].innerText.trim())"
        return self.page.eval_on_selector_all("#table tbody tr", cells, heads.index(title))

    def picture(self) -> str:
        """What the chart shows, as a string to compare."""
        return self.page.eval_on_selector("#chart canvas", "canvas => canvas.toDataURL()")

    def keep(self, name: str) -> None:
        if folder := os.environ.get("HOLDFAST_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=(path := Path(folder) / f"{name}.png"))
            Image.open(path).quantize(64).save(path, optimize=True)


def trained(folder: Path, method: str, seed: int, sigma: float) -> Path:
    """A run of 200 images: more noise reaches further and is right less often."""
    run = run_folder(folder)
    recipe = {"method": {"kind": method, "sigma": sigma}, "dataset": "mnist", "arch": "lenet", "seed": seed}
    (run / "run.json").write_text(json.dumps({"name": folder.name, "recipe": recipe}))
    (run / "metrics.csv").write_text("epoch,loss,rate\n0,1.5,0.1\n1,0.5,0.1\n2,0.25,0.01\n")
    rng = np.random.default_rng(seed)
    radii = np.minimum(3.8 * sigma, sigma * np.abs(rng.normal(1.5, 1, 200)))
    right = rng.random(200) < 1.05 - 0.4 * sigma
    votes = {"votes": {"1": 900, "7": 100}, "samples": 1000}
    records = [record(i, float(r), right=bool(ok), **votes) for i, (r, ok) in enumerate(zip(radii, right, strict=True))]
    certify_folder(run / "certify-1", [*records, abstention(200)], name=folder.name, sigma=sigma)
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("page")
    runs = [trained(folder / f"g{seed}", "GaussianNoise", seed, 0.25) for seed in (0, 1)]
    runs += [trained(folder / "m", "MACER", 0, 1.0)]
    given = {"kind": "AtRadius", "r": [0.5]}
    decided = [record(i, 0.5, right=i % 4 > 0) for i in range(100)]
    runs += [certify_folder(folder / "given", decided, name=EVIL, certifier=given)]
    (runs[0] / "attack-1.json").write_text(
        json.dumps(
            {
                "attack": {"model": "00", "dataset": "mnist", "split": "test", "epsilon": 0.3}
                | {"certifier": {"kind": "Gaussian", "sigma": 0.25}},
                "found": {"total": 100, "standing": 93},
            }
        )
    )
    return report(runs, folder / "out", [0.25, 0.5]), folder / "out" / "report.html"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_complaint_in_any_size(
    browser: Any, made: tuple[Report, Path], size: str, scheme: str
) -> None:
    opened = Opened(browser, made[1], size, scheme)
    page = opened.page
    assert opened.complaints == []
    assert page.title() == "Certified robustness"
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert any(label.startswith(EVIL) for label in opened.rows())
    assert page.is_visible("#shares-chart canvas")
    assert page.is_visible("#training-chart canvas")
    page.close()


def test_screen_readers_reach_charts_and_tables_by_roles_and_names(browser: Any, made: tuple[Report, Path]) -> None:
    opened = Opened(browser, made[1])
    page = opened.page
    page.select_option('[data-filter="Shown"]', "run")
    table = page.get_by_role("table", name="At radius")
    assert table.get_by_role("columnheader", name="certified %").get_attribute("aria-sort") == "descending"
    assert table.get_by_role("rowheader", name="MACER").count() == 1
    assert table.get_by_role("rowheader").count() == len(opened.rows()) == 4
    assert page.get_by_role("checkbox", name="MACER").is_checked()
    page.get_by_role("img", name="Certified accuracy by radius; the table below has its numbers").wait_for()
    bounds = page.get_by_role("img", name="Histogram of proven lower bounds").get_attribute("aria-label")
    shares = [row["shares"][-1] * 100 / row["examples"] for row in shown_runs(page) if row["shares"]]
    assert [float(found) for found in re.findall(r"([\d.]+) %", bounds)] == pytest.approx(shares, abs=0.005)
    training = page.get_by_role("img", name="Training curves; loss at the end").get_attribute("aria-label")
    assert re.findall(r"([\d.]+)(?:;|$)", training.partition(":")[2]) == ["0.250"] * 3
    for static in made[0].tables:
        assert page.get_by_role("table", name=static.title, exact=True, include_hidden=True).count() == 1
    assert page.get_by_role("slider", name="Radius").get_attribute("aria-valuetext").startswith("radius ")
    assert page.get_by_role("heading", level=1).inner_text() == "Certified robustness"
    page.close()


def shown_runs(page: Any) -> list[dict[str, Any]]:
    """The runs among the rows of the page's data."""
    rows = json.loads(page.eval_on_selector("#data", "it => it.textContent"))["rows"]
    return [row for row in rows if row["kind"] == "run"]


def test_switching_a_run_off_takes_its_curve_away(browser: Any, made: tuple[Report, Path]) -> None:
    opened = Opened(browser, made[1])
    before, drawn = opened.page.inner_text("#key"), opened.picture()
    box = opened.page.locator('input[data-row="0"]')
    box.focus()
    opened.page.keyboard.press("Space")
    assert int(before.split()[0]) - int(opened.page.inner_text("#key").split()[0]) == 1
    assert opened.picture() != drawn
    opened.page.click("#none")
    assert opened.page.inner_text("#key").startswith("0 shown")
    opened.page.close()


def test_the_slider_sorts_the_table_anew(browser: Any, made: tuple[Report, Path]) -> None:
    """By hand and from the keyboard; the numbers are those of the report."""
    opened = Opened(browser, made[1])
    page = opened.page
    page.select_option('[data-filter="Shown"]', "run")
    page.click("#marks button:first-child")
    near = [label for label in opened.rows() if not label.startswith(EVIL)]
    assert near[-1].startswith("MACER")
    page.fill("#radius", "1.2")
    page.keyboard.press("Enter")
    assert opened.rows()[0].startswith("MACER")
    assert opened.rows()[-1].startswith(EVIL)  # decided at another radius only: it says nothing here
    page.focus("#slider")
    before = page.input_value("#radius")
    page.keyboard.press("ArrowRight")
    assert float(page.input_value("#radius")) > float(before)
    page.fill("#radius", "0.5")
    page.keyboard.press("Enter")
    shown = dict(zip(opened.rows(), opened.column("certified %"), strict=True))
    for curve in made[0].curves:
        found = curve.accuracy(0.5)
        assert shown[curve.label] == f"{100 * found.value:.2f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    page.close()


def test_the_table_is_sorted_by_any_column(browser: Any, made: tuple[Report, Path]) -> None:
    opened = Opened(browser, made[1])
    opened.page.select_option('[data-filter="Shown"]', "run")
    for expected in (True, False):
        opened.page.locator('[data-sort="acr"]').focus()
        opened.page.keyboard.press("Enter")
        values = [float(cell.split()[0]) for cell in opened.column("ACR") if cell]
        assert values == sorted(values, reverse=expected)
    opened.page.close()


def test_hovering_tells_exact_numbers(browser: Any, made: tuple[Report, Path]) -> None:
    opened = Opened(browser, made[1])
    page = opened.page
    page.select_option('[data-filter="Shown"]', "run")
    box = page.locator("#chart .u-over").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.wait_for_selector("#tip:not([hidden])")
    told = page.inner_text("#tip").split("\n")
    radius = float(told[0].removeprefix("radius "))
    assert radius > 0
    for curve in (curve for curve in made[0].curves if not curve.given_radii):
        share = told[told.index(curve.label) + 1]
        near = [100 * curve.accuracy(radius + shift).value for shift in (-2e-3, 2e-3)]
        assert near[1] - 0.01 <= float(share.removesuffix(" %")) <= near[0] + 0.01
    page.close()


def test_an_attack_stands_beside_what_is_proven(browser: Any, made: tuple[Report, Path]) -> None:
    opened = Opened(browser, made[1])
    opened.page.select_option('[data-filter="Shown"]', "run")
    drawn = opened.picture()
    opened.page.click("#marks button:text-is('0.3')")
    assert opened.picture() != drawn
    (share,) = filter(None, opened.column("under attack %, upper bound"))
    assert share.startswith("93.00 [")
    opened.page.close()


def test_an_example_of_the_gallery_chooses_its_radius(browser: Any, made: tuple[Report, Path]) -> None:
    opened = Opened(browser, made[1])
    cards = opened.page.locator(".card")
    assert "votes 1: 900, 7: 100" in cards.first.inner_text()
    last = cards.last
    radius = float(re.findall(r"radius ([\d.]+)", last.inner_text())[0])
    last.click()
    assert float(opened.page.input_value("#radius")) == pytest.approx(radius, abs=5e-3)
    opened.page.close()


def test_colors_follow_the_reader(browser: Any, made: tuple[Report, Path]) -> None:
    opened = Opened(browser, made[1])
    seen = [opened.page.evaluate("getComputedStyle(document.body).backgroundColor")]
    opened.page.click("#theme")
    seen.append(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(set(seen)) == 2
    opened.page.emulate_media(media="print")
    assert not opened.page.is_visible("#controls")
    assert opened.page.is_visible("#table")
    opened.page.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_board_ranks_and_filters_the_published_record(browser: Any, tmp_path: Path, size: str) -> None:
    board(out=tmp_path / "board.html")
    opened = Opened(browser, tmp_path / "board.html", size)
    page = opened.page
    assert opened.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    panels = page.eval_on_selector_all('[data-filter="Data and threat"] option', "all => all.map(one => one.innerText)")
    assert len(panels) == len({(row.dataset, row.norm) for row in published()})
    page.select_option('[data-filter="Data and threat"]', label="cifar10, \N{SCRIPT SMALL L}\u2082")
    rows = [row for row in published() if (row.dataset, row.norm) == ("cifar10", "l2")]
    assert len(opened.rows()) == len(rows)
    page.select_option('[data-filter="Proof"]', "proven")
    assert len(opened.rows()) == sum(not row.claimed for row in rows)
    page.select_option('[data-filter="Year"]', "2025")
    assert len(opened.rows()) == sum(not row.claimed and row.year == 2025 for row in rows)
    shares = [float(cell.split()[0]) for cell in opened.column("certified %") if cell]
    assert shares == sorted(shares, reverse=True)
    page.close()


@pytest.mark.skipif("HOLDFAST_SCREENSHOTS" not in os.environ, reason="no pictures are asked for")
def test_the_pictures_of_the_documents(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of results/; the images of the data sets are taken from $HOLDFAST_DATA."""
    monkeypatch.chdir(ROOT)
    runs = [str(path) for path in sorted(Path("results").glob("*mnist-0.50*"))]
    main(["report", *runs, "--out", str(tmp_path)])
    main(["board", "results", "--out", str(tmp_path / "board.html")])
    for name in ("report", "board"):
        opened = Opened(browser, tmp_path / f"{name}.html")
        box = opened.page.locator("#chart .u-over").bounding_box()
        if name == "report":
            opened.page.mouse.move(box["x"] + 0.36 * box["width"], box["y"] + 0.3 * box["height"])
        opened.keep(name)
        opened.page.mouse.move(0, 0)
        opened.page.locator("#details-title" if name == "report" else "#table-title").evaluate(
            "it => it.scrollIntoView()"
        )
        opened.keep(f"{name}-below")
        opened.page.close()
