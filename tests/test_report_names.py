"""Whatever a run is called, every output of a report shows it, and nothing more happens."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.image import imread
from report_cases import FOUR, certify_folder, drawn

from holdfast.report.command import report
from holdfast.report.curve import Curve
from holdfast.report.figure import curve_figure

NAMES = {
    "mathtext": r"$\frac{1}{0$ 50% \alpha",
    "tag": "<script>alert(1)</script><b>",
    "table": "a | b \\| c",
    "code": "`rm` *bold* _it_ [x](http://evil.example) &amp; ~~gone~~",
    "heading": "name\n# Heading\r\n- item\u2028line\x85end",
    "control": "\x1b[31mred\x00\x07\x9b2J\u202egnp",
    "surrogate": "\udcff",
    "markup": "[bold]x[/bold] [/]",
    "long": "W" * 200,
    "underscore": "_hidden",
    "formula": "=1+1",
    "empty": " ",
    "glyphs": "模型 🙂",
    "indented": "    code",
}


def test_any_name_is_shown_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    report([certify_folder(tmp_path / f"plain-{key}", FOUR, name=key) for key in NAMES], tmp_path / "plain", [0.25])
    usual = capsys.readouterr().out
    report([certify_folder(tmp_path / key, FOUR, name=name) for key, name in NAMES.items()], tmp_path / "out", [0.25])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == len(usual.splitlines())
    for file in ("report.md", "report.html", "report.csv"):
        text, expected = ((tmp_path / folder / file).read_text() for folder in ("out", "plain"))
        assert len(text.splitlines()) == len(expected.splitlines())
        assert all(char.isprintable() or char == "\n" for char in text + shown)
    rows = [
        line
        for line in (tmp_path / "out" / "report.md").read_text().splitlines()
        if line.startswith("| ") and "| name |" not in line
    ][: len(NAMES)]
    assert len(rows) == len(NAMES)
    for row in rows:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == rows[-1].count("|")
        assert not re.search(r"(?<!\\)(?:\\\\)*([$`*~]|<[a-z/]|\]\()", row)
    pages = [(tmp_path / folder / "report.html").read_text() for folder in ("out", "plain")]
    assert len({(page.count("<script"), page.count("</script")) for page in pages}) == 1
    assert "alert(1)</" not in pages[0]
    cells = list(csv.DictReader((tmp_path / "out" / "report.csv").read_text().splitlines()))
    assert not any((cell["name"] or "").startswith(("=", "+", "-", "@")) for cell in cells)


def legend_of(curves: Sequence[Curve]) -> tuple[list[str], float]:
    """Texts of the legend, and by how much the widest leaves the picture."""
    figure = drawn(curves)
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()], legend.get_window_extent().x1 - figure.bbox.x1


@pytest.mark.parametrize("letter", ["GAUSSIAN-", "word ", "x-"])
def test_the_legend_shows_the_whole_of_every_name(letter: str) -> None:
    names = [f"{letter * (199 // len(letter))}{end}" for end in "12"]
    texts, beyond = legend_of([Curve(name, FOUR) for name in names])
    assert beyond <= 0
    for text, name in zip(texts, names, strict=True):
        assert "".join(name.split()) in "".join(text.split())


def test_a_name_of_wide_letters_makes_the_picture_wider(tmp_path: Path) -> None:
    curve_figure([Curve("W" * 200, FOUR)], [tmp_path / "wide.png"])
    assert imread(tmp_path / "wide.png").shape[1] > 7 * 200
