"""What `holdfast inspect` and `holdfast list cuts` say of a classifier, and `margin` for a network of one's own."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.bounds import l2, linf
from holdfast.bounds.head import Head
from holdfast.bounds.tightness import factors, largest_difference
from holdfast.cli import main
from holdfast.nn.lipschitz import Residual
from holdfast.program import capture
from holdfast.program.cut import cuts

SOURCE = """
import torch
from torch import nn

class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x.relu()

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Doubled(), nn.Linear(16, 10)).eval()

def normalized():
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10)).eval()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of a user's own, in the working directory."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return name


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), Residual(nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU())),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("threat", ["l2", "linf"])
def test_critical_factors_multiply_to_the_constant_of_the_features(threat: str) -> None:
    head = Head.of(capture(network(), (1, 4, 4)))
    found = factors(head, threat)
    product = math.prod(factor.factor for factor in found if factor.critical)
    (features,) = [factor.constant for factor in found if factor.node == head.source]
    assert product == pytest.approx(features, rel=1e-12)
    assert any(factor.factor > 1.5 for factor in found if factor.critical), "the residual sum"
    if threat == "l2":
        assert features == l2.network_bound(head.steps, head.source).norm


@pytest.mark.parametrize(("threat", "domain"), [("l2", l2), ("linf", linf)])
def test_the_largest_difference_is_an_entry_of_the_constants(threat: str, domain) -> None:
    program = capture(network(), (1, 4, 4))
    constant, first, second = largest_difference(Head.of(program), threat)
    assert constant == float(domain.difference_constants(program)[first, second])
    assert first != second


def test_inspect_prints_operations_lines_constants_and_identity(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "--model", f"{own}:make", "--shape", "1", "8", "8"])
    said = capsys.readouterr().out
    program = capture(__import__(own).make(), (1, 8, 8))
    assert program.identity in said
    assert "return 2 * x.relu()" in said
    assert f"{64 * 16 + 16 + 160 + 10:,}" in said
    difference, *_ = largest_difference(Head.of(program), "l2")
    assert f"largest difference of two logits: {difference:.6g}" in said
    assert "linear + relu" in said, "what is bounded at once"


def test_inspect_shows_a_graph_without_a_proof_and_says_which_operation_lacks_one(
    own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["inspect", "--model", f"{own}:normalized", "--shape", "1", "8", "8"])
    said = capsys.readouterr().out
    assert "layer_norm" in said
    assert "do not serve it: there is no proof for aten.layer_norm.default in 1" in said
    with pytest.raises(SystemExit):
        main(["inspect", "--model", f"{own}:make"])
    assert "expected --dataset, or the --shape" in capsys.readouterr().err


def test_list_cuts_names_the_values_through_which_everything_passes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "cuts", "lenet"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said if line.strip()] == [
        f"lenet@{cut}" for cut in ("conv1", "pool1", "conv2", "pool2")
    ]
    main(["list", "cuts", "gloro-2c2f"])
    assert "gloro-2c2f@body.conv1 " in capsys.readouterr().out
    found = cuts(capture(network(), (1, 4, 4)))
    assert "2" in found
    assert "2.body" not in found, "the sum passes it by"


@pytest.mark.parametrize("threat", ["l2", "linf"])
def test_margin_certifies_a_network_of_ones_own_from_the_command_line(own: str, threat: str) -> None:
    asked = ["--dataset", "digits", "--limit", "5", "--device", "cpu", "margin", "--threat", threat]
    main(["certify", "--model", f"{own}:make", *asked])
    (records,) = Path("runs").glob("*/certify-*/records*.jsonl")
    found = [json.loads(line) for line in records.read_text().splitlines()]
    assert len(found) == 5
    text = records.read_text()
    assert f'"{threat}"' in text
    assert capture(__import__(own).make(), (1, 8, 8)).identity[:16] in text


def test_a_network_without_a_proof_leaves_no_folder(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["certify", "--model", f"{own}:normalized", "--dataset", "digits", "--device", "cpu", "margin"])
    assert "no proof for aten.layer_norm" in " ".join(capsys.readouterr().err.split())
    assert not Path("runs").exists()
