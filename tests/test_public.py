"""The public names: lazily imported, documented, and the same for people, for Python and for type checkers."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

NAMES = [name for name in holdfast.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_imported_and_documented(name: str) -> None:
    thing = getattr(holdfast, name)
    assert (inspect.getdoc(thing) or "").strip()
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert not (thing.__doc__ or f"{name}(").startswith(f"{name}("), "the text that a dataclass writes for itself"


def test_all_of_them_come_with_a_star() -> None:
    found: dict[str, object] = {}
    exec("from holdfast import *", found)
    assert {name for name in found if name != "__builtins__"} == set(holdfast.__all__)
    assert holdfast.__version__ == found["__version__"]


def test_a_type_checker_sees_the_same_names_in_the_same_places() -> None:
    tree = ast.parse(Path(holdfast.__file__).read_text())
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == holdfast._HOMES
    assert set(holdfast._HOMES) | {"__version__"} == set(holdfast.__all__) == set(dir(holdfast)) & set(holdfast.__all__)


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = holdfast.nonsense  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_imports_next_to_nothing() -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'tyro', 'rich', 'matplotlib'}"
    code = f"import sys, holdfast; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
