"""The commands of README.md and of the demo are executed as they stand, on small data."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from holdfast.cli import demo, main
from holdfast.core.recipe import Recipe
from holdfast.core.registry import DATASETS, RECIPES
from holdfast.data import folders

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
BLOCKS = [text.replace("\\\n", " ").splitlines() for language, text in FENCES if not language]
LINES = [[line for line in block if re.match(r"(holdfast|torchrun) ", line)] for block in BLOCKS]

SMALL = {
    "train": [],
    "certify": ["--limit", "3", "--device", "cpu"],
    "attack": ["--limit", "5", "--steps", "2", "--device", "cpu"],
    "predict": ["--device", "cpu"],
}
"""What is added to a command, so that it takes seconds: nothing that changes how the rest of it is read."""

SAMPLES = {"gaussian": ["--n", "100"], "adaptive": ["--n-max", "400"], "at-radius": ["--n-max", "400"]}

MODULE = "from torch import nn\n\n\ndef make_model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


def small(recipe: Recipe) -> Recipe:
    """The method of a recipe, on digits, with the network of the recipe that the same method has there."""
    twins = (r for r in RECIPES.values() if r.dataset == "digits" and type(r.method) is type(recipe.method))
    twin = next(twins)
    return recipe.replace(dataset="digits", arch=twin.arch, batch_size=twin.batch_size, epochs=1, crop=0, flip=False)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Executes a line as a shell would in an empty folder, with what README takes for granted, and small data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_module.py").write_text(MODULE)
    torch.manual_seed(0)
    save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), tmp_path / "weights.safetensors")
    Image.new("L", (8, 8), 128).save(tmp_path / "photo.png")
    log = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t7\t7\t0.5\t1\t0\n"
    (tmp_path / "log.tsv.gz").write_text(log)  # plain or gzipped: both are read
    (tmp_path / "log.tsv").write_text(log)
    recipes = {name: small(recipe) for name, recipe in RECIPES.items() if has_twin(recipe)}
    for name, recipe in recipes.items():
        monkeypatch.setitem(RECIPES._found, name, recipe)
    for name in ("mnist", "cifar10"):
        monkeypatch.setitem(DATASETS._found, name, folders.digits)
    return execute


def has_twin(recipe: Recipe) -> bool:
    kinds = {type(r.method) for r in RECIPES.values() if r.dataset == "digits"}
    return type(recipe.method) in kinds


def execute(line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index("holdfast") + 1 :]  # behind `torchrun ... -m`, too
    if "RUN" in words and not Path("runs").exists():  # one that was trained before
        main(["train", "gaussian-digits-0.25", "--epochs", "1", "--accelerator", "cpu"])
    trained = sorted(Path("runs").glob("*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    words = [str(trained[-1].parent) if word == "RUN" else word for word in words]
    words = [
        name for word in words for name in (sorted(map(str, Path().glob(word))) or [word] if "*" in word else [word])
    ]
    words = ["1" if before == "--devices" else word for before, word in zip(["", *words], words, strict=False)]
    added = SMALL.get(words[0], [])
    if words[0] in ("certify", "predict"):
        certifier = next((word for word in words if word in SAMPLES), None)
        sampled = certifier or ("gaussian" if any("gaussian-" in word for word in words) else None)
        added = [*added, *SAMPLES.get(sampled or "", [])]
    main([*words, *added])


DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_what_the_documents_import_is_there(path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    for line in re.findall(r"^(?:from|import) holdfast\b.*$", "".join(blocks), re.MULTILINE):
        exec(line, {})


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_the_files_that_the_documents_name_are_there(path: Path) -> None:
    for name in re.findall(r"`((?:[\w.-]+/)+(?:[\w.-]+\.\w+)?)`", path.read_text()):
        places = [ROOT / name, ROOT / "src" / "holdfast" / name]
        made = name.startswith(("runs/", "train/", "test/", "my_package/"))
        assert made or any(place.exists() for place in places), name


@pytest.mark.parametrize("lines", [pytest.param(lines, id=lines[0][:40]) for lines in LINES if lines])
def test_the_commands_of_the_readme_are_accepted_and_work(lines: list[str], run: Callable[[str], None]) -> None:
    for line in lines:
        run(line)


def test_the_readme_has_commands() -> None:
    found = {shlex.split(line)[1] for lines in LINES for line in lines}
    assert {"train", "certify", "report", "attack", "plan"} <= found


def test_what_make_is_asked_for_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {line.split()[1] for block in BLOCKS for line in block if line.startswith("make ")}
    assert asked
    assert asked <= targets


def test_what_the_demo_says_to_try_next_works(
    run: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "RECIPE", "gaussian-digits-0.25")
    main(["demo", "--examples", "5", "--n", "100"])
    said = [line.strip() for line in capsys.readouterr().out.split("Try next:")[1].splitlines()]
    lines = [re.split(r"\s{2,}", line)[0] for line in said if line.startswith("holdfast ")]
    assert len(lines) >= 4
    for line in lines:
        run(line.replace("--n 100000", ""))
