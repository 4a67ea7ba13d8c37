"""Certificates on a device that is not the CPU, whose rules are those of a GPU: they are the same as on the CPU."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("other_device.py")


@cache
def found() -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "case", ["GloRo", "GloRo, wide layers", "LiResNet", "l-inf-distance net", "SPLITZ", "smoothed"]
)
def test_a_certificate_on_another_device_is_that_of_the_cpu(case: str) -> None:
    result = found()[case]
    assert not isinstance(result, str), result
    here, there = result
    assert [prediction for prediction, _ in there] == [prediction for prediction, _ in here]
    assert all(radius > 0 for _, radius in here)
    assert [radius for _, radius in there] == pytest.approx([radius for _, radius in here], rel=1e-9)
