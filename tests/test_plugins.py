"""A package of one's own, outside of src: found, trained, certified, reported; and the contracts hold for it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "tests" / "plugin"


def install(package: Path, site: Path) -> None:
    """What `pip install --no-deps --target SITE` leaves of a package, without a network for its build tools."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    for folder in package.glob("*/__init__.py"):
        shutil.copytree(folder.parent, site / folder.parent.name, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))


class Shell:
    """Runs commands, each in a process of its own, in an empty folder where the package is installed."""

    def __init__(self, folder: Path, *packages: Path) -> None:
        self.folder = folder
        paths = [str(folder / "site"), str(ROOT / "src"), str(ROOT / "tests")]
        cache = str(folder / "cache")
        self.env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": cache, "COLUMNS": "100"}
        for package in packages:
            install(package, folder / "site")

    def python(self, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args], cwd=cwd or self.folder, env=self.env, capture_output=True, text=True, check=False
        )

    def holdfast(self, line: str) -> str:
        """What a command writes; it must succeed."""
        done = self.python("-m", "holdfast", *line.split())
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("plugin"), PLUGIN)


@pytest.fixture(scope="module")
def run(shell: Shell) -> Path:
    """A run of the method of the package."""
    shell.holdfast("train uniform-digits --epochs 12 --accelerator cpu")
    (run,) = (shell.folder / "runs").glob("uniform-digits-*")
    return run


def test_everything_that_it_offers_is_listed(shell: Shell) -> None:
    shown = shell.holdfast("list").split()
    assert {"uniform-digits", "uniform", "hoeffding", "shallow", "negative-digits"} <= set(shown)
    assert "levels" not in shown  # a file that holds a threat model alone


def test_the_list_follows_a_file_that_changes_and_names_what_cannot_be_used(tmp_path: Path) -> None:
    shell = Shell(tmp_path, PLUGIN)
    assert "uniform-digits" in shell.holdfast("list recipes")
    code = tmp_path / "site" / "shapes" / "training.py"
    code.write_text(code.read_text().replace("uniform-digits", "uniform-numbers"))
    assert "uniform-numbers" in shell.holdfast("list recipes")
    code.write_text("import nothing_of_that_name\n")
    for _ in "ab":  # it is said every time
        shown = shell.holdfast("list")
        assert "the plug-in uniform = shapes.training is left out" in shown
        assert "hoeffding" in shown
        assert "gaussian-digits-0.25" in shown
    info = tmp_path / "site" / "holdfast_shapes-1.0.dist-info" / "entry_points.txt"
    info.write_text(
        "[holdfast.certifiers]\ngaussian = shapes.hoeffding\n[holdfast.methods]\nmine = shapes.levels:levels\n"
    )
    shown = shell.holdfast("list")
    assert "two certifiers are called 'gaussian'" in shown
    assert "expected mine to be a recipe" in shown


def test_its_method_is_certified_with_its_noise_in_its_norm(shell: Shell, run: Path) -> None:
    """Each command is a process of its own: what the folder names is found without being imported beforehand."""
    for certifier in ("--n 300", "hoeffding --n 300", "adaptive --n-max 400"):
        shell.holdfast(f"certify runs/{run.name} {certifier} --limit 20 --device cpu")
    files = list(run.glob("certify-*/records-*.jsonl"))
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert len(lines) == 60
    kinds = {line["certificate"]["evidence"]["kind"] for line in lines}
    assert kinds == {"FixedVotes", "shapes.hoeffding:HoeffdingVotes", "StoppedVotes"}
    for line in lines:
        assert line["certificate"]["norm"] == "l1-levels"
        assert line["certificate"]["evidence"]["noise"] == {"kind": "shapes.uniform:Uniform"}
    assert max(line["certificate"]["radius"] for line in lines) > 10  # levels of 0 to 255
    assert "levels of 0 to 255" in shell.holdfast(f"report runs/{run.name} --out shown")


def test_an_architecture_and_a_data_set_of_its_own_go_with_any_method(shell: Shell) -> None:
    shell.holdfast(
        "train gaussian-digits-0.25 --arch shallow --dataset negative-digits --epochs 1 --accelerator cpu --runs others"
    )
    (run,) = (shell.folder / "others").iterdir()
    assert json.loads((run / "run.json").read_text())["data"]["name"] == "negative-digits"
    shell.holdfast(f"certify others/{run.name} hoeffding --n 100 --limit 2 --device cpu")
    (folder,) = run.glob("certify-*")
    asked = json.loads((folder / "run.json").read_text())["certification"]
    assert asked["dataset"] == "negative-digits"
    assert asked["certifier"]["noise"] == {"kind": "Lattice", "step": None}  # that of the run


def test_the_contracts_hold_for_its_classes(shell: Shell) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    done = shell.python("-m", "pytest", *options, str(PLUGIN / "contracts.py"))
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "hoeffding-uniform" not in done.stdout


PAGE = (ROOT / "docs" / "extending.md").read_text()
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The files that docs/extending.md shows, where a user has written them."""
    shell = Shell(tmp_path_factory.mktemp("page"))
    for _, text in FENCES:
        if named := re.match(r"# (\S+\.(py|toml))\n", text):
            path = shell.folder / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.partition("\n")[2])
    (shell.folder / "my_package" / "__init__.py").touch()
    return shell


RUN_ALL = """
import sys
from pathlib import Path
from holdfast.cli import main
for line in sys.argv[1:]:
    trained = sorted(Path().glob("runs/*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    main([str(trained[-1].parent) if word == "RUN" else word for word in line.split()[1:]])
"""
"""Commands one after the other, in one process; RUN is what was trained last."""


def test_what_the_page_on_extending_shows_works(page: Shell) -> None:
    """Its last commands are those of an installed package."""
    steps: list[list[str]] = [[]]
    for language, text in FENCES:
        if language == "toml":
            steps.append([])
        if not language:
            steps[-1] += text.splitlines()
    assert [len(lines) for lines in steps] == [6, 4]
    for lines in steps:
        done = page.python("-c", RUN_ALL, *lines)
        assert done.returncode == 0, done.stderr
        if lines is steps[0]:
            install(page.folder, page.folder / "site")
            shutil.rmtree(page.folder / "my_package")
    records = [path.read_text() for path in page.folder.glob("runs/*/certify-*/records-*.jsonl")]
    assert sum('"kind": "my_package.cube:Cube"' in text for text in records) == 2
    assert sum('"kind": "my_package.hoeffding:HoeffdingVotes"' in text for text in records) == 2
    (cube,) = (
        path.parent
        for path in page.folder.glob("runs/smooth-labels-*/certify-*/run.json")
        if "Cube" in path.read_text()
    )
    assert "Cube" in page.holdfast(f"report {cube}")  # what the folder names is found in a fresh process
    assert THREAT in page.python("-c", "from holdfast.core.threat import THREATS; print(*THREATS)").stdout


THREAT = "percent"
"""Of a module that nothing but an entry point names."""
