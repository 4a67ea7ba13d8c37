"""The gates of the house: sizes, imports, and what must not be written anywhere."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_every_file_says_first_what_it_is_and_is_read_in_one_sitting() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{path}: the first line says what the file is"
        assert text.count("\n") <= 400, path


def test_functions_fit_on_a_screen() -> None:
    for path in SOURCES:
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > 40]
        assert not long, path


def test_devices_printing_and_torchvision_are_left_alone() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert ".cuda(" not in text, path
        assert not re.search(r"^\s*(import|from) (torchvision|timm)\b", text, re.MULTILINE), path
        if not {"cli", "report"} & set(path.parts):
            assert not re.search(r"(?<![\w.])print\(", text), path


def test_imports_go_one_way() -> None:
    """The contracts stand in pyproject.toml."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_methods_and_certifiers_open_with_their_source() -> None:
    for folder in ("methods", "certifiers"):
        for path in (ROOT / "src" / "holdfast" / folder).glob("[!_]*.py"):
            header = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert re.search(r"\b(19|20)\d\d\b", header), f"{path.name} names no publication with its year"
            assert "holdfast " in header, f"{path.name} shows no command"


@pytest.mark.parametrize("code", ["import holdfast.report.command", "import holdfast.cli.report", "import holdfast"])
def test_a_report_needs_no_torch(code: str) -> None:
    check = f"{code}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
