"""Every command of docs/experiments.md is one that its own parser takes; sweeps: see test_sweep.py."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro

from holdfast.cli import main
from holdfast.core.registry import RECIPES
from holdfast.nn.zoo import CUTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "experiments.md").read_text()
QUOTED = [text for text in re.findall(r"`([^`\n]+)`", PAGE) if text.startswith(("holdfast ", "python "))]
COMMANDS = [text for text in QUOTED if len(text.split()) > 2 and "sweep" not in text]
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "| what |" not in line]


class Parsed(Exception):
    """What the parser made of a command; nothing of it was done."""


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Takes a line as a shell would, up to where its options are known."""
    whole = tyro.cli

    def parsed(*args: Any, **settings: Any) -> Any:
        raise Parsed(whole(*args, **settings))

    def take(command: str) -> Any:
        name, *words = shlex.split(command)
        try:
            if name == "holdfast":
                main(words)
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except Parsed as found:
            return found.args[0]

    monkeypatch.chdir(tmp_path)
    Path("RUN").mkdir()
    Path("RUN/model.safetensors").touch()
    monkeypatch.setattr(tyro, "cli", parsed)
    return take


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_parsed(command: str, parse: Callable[[str], Any]) -> None:
    assert parse(command) is not None


def test_an_option_that_is_none_is_no_command(parse: Callable[[str], Any]) -> None:
    """The check can fail."""
    with pytest.raises((SystemExit, ValueError)):
        parse("holdfast plan --sigmas 0.5")
    assert parse("holdfast plan --sigma 0.5 --loss 0.2").loss == 0.2


def test_every_row_of_experiments_holds_a_whole_command() -> None:
    experiments = [row for row in ROWS if "`--accumulate`" not in row and not re.match(r"\| [124] \|", row)]
    assert len(experiments) > 40
    for row in experiments:
        assert any(f"`{command}`" in row for command in QUOTED), row


def test_every_cut_of_experiments_is_one_that_is_known() -> None:
    cuts = {tuple(word.split("@")) for text in QUOTED for word in text.split() if re.fullmatch(r"\w+@[\w.]+", word)}
    assert len(cuts) > 4
    for arch, cut in cuts:
        assert cut in CUTS[arch], (arch, cut)


def test_every_published_recipe_is_in_an_experiment() -> None:
    """Recipes that are ours are in none, and denoisers, which are no classifiers, are in any_classifier.md."""
    ours = re.compile(r"digits|mnist-5k|short|-epochs|12x128|stride1|pool1|front|cifar10-small|^denoise-|^standard-")
    named = {word for text in QUOTED if "sweep" in text for word in text.split()}
    without_sigma = {word for word in named if any(name.startswith(f"{word}-") for name in RECIPES)}
    stems = {name: re.sub(r"-\d\.\d\d$", "", name) for name in RECIPES if not ours.search(name)}
    assert [name for name, stem in stems.items() if name not in named and stem not in without_sigma] == []
