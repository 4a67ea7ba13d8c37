"""benchmarks/linf.py prints its tables: at toy size, for what it measures depends on the machine."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "linf.py"
TOY = ["--arch", "linf-dist-128x2", "--batch-size", "32", "--rounds", "1"]


@pytest.mark.parametrize(("what", "lines"), [("kernels", 17), ("memory", 1), ("epoch", 5)])
def test_every_table_is_printed(
    what: str, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), what, *TOY])
    monkeypatch.setattr(torch, "compile", lambda function: function)
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setitem(main.__globals__, "SIZES", [(24, 48)])
    main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines
    assert not [line for line in printed if "nan" in line]
