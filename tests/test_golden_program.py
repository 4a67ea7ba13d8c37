"""The identity of a program with a layer of every kind and weights by formula: the same on every processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rule_cases import numbers
from torch import nn

from holdfast.nn.linf import DistanceHead, LInfDistLinear, LInfDistNet
from holdfast.nn.lipschitz import LinearResidualBlock, LipschitzNet, MinMax, Residual, Shift, orthogonal, unit_rows
from holdfast.nn.lipschitz.layers import ClippedReLU
from holdfast.nn.normalize import Normalize
from holdfast.program import capture

SHAPE = (2, 8, 8)


def chain() -> nn.Module:
    return nn.Sequential(
        Normalize((0.25, 0.5), (0.5, 0.25)),
        nn.Conv2d(2, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        ClippedReLU(0.75),
        nn.ConvTranspose2d(4, 4, 2, 2, groups=2),
        Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.LeakyReLU(0.25), nn.GELU())),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.SiLU(),
        nn.Linear(6, 3),
    )


def lipschitz() -> nn.Module:
    body = nn.Sequential(
        Shift(-0.5), nn.PixelUnshuffle(2), LinearResidualBlock(8, 2), MinMax(), nn.Flatten(),
        orthogonal(nn.Linear(128, 6)), MinMax(),
    )  # fmt: skip
    return LipschitzNet(body, unit_rows(6, 3), SHAPE)


def distances() -> nn.Module:
    body = nn.Sequential(LInfDistLinear(128, 6))
    return LInfDistNet(body, DistanceHead(6, 3, keep=0.5), (0.25, 0.5), 0.25)


GOLDEN = {
    "chain": (chain, "f3225cc6280c52d214ae8d15edb640ae45a11f9531b490f7a9d32853fbeb7ab9"),
    "lipschitz": (lipschitz, "0e76e855f63a0f8793390d70dcecc2644d66611dba08bb12b794f8eb625e6217"),
    "distances": (distances, "e8262ad08b5e2650fbd578ec1121e224db75b423f04528316276f3442f268c63"),
}


def identity(name: str) -> str:
    """With weights and buffers that are exact in float32, whatever made the first ones."""
    model = GOLDEN[name][0]().eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(numbers(*value.shape).abs() + 0.25)
    return capture(model, SHAPE).identity


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="another torch may export another graph")
@pytest.mark.parametrize("name", GOLDEN)
def test_a_program_has_the_identity_that_it_has_everywhere(name: str) -> None:
    assert identity(name) == GOLDEN[name][1]


def test_the_identity_is_the_same_in_another_process_with_other_threads_and_without_avx() -> None:
    limits = {"OMP_NUM_THREADS": "3", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    code = "import test_golden_program as t; print(*map(t.identity, t.GOLDEN))"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | limits | {"PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [identity(name) for name in GOLDEN]
