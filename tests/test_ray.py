"""Workers of a Ray cluster, several machines of which are played by one; without Ray, one line that says so."""

import builtins
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import Gaussian, Margin, RayEngine, certify_run
from holdfast.certification.parcel import packed
from holdfast.certification.task import Certification
from holdfast.cli import main
from holdfast.data import load
from holdfast.nn.lipschitz.layers import LinearResidualBlock

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
)
"""Those of Ray itself."""


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A machine with one core, which has neither a folder nor a model of ours."""
    utils = pytest.importorskip("ray.cluster_utils")
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def test_without_ray_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'holdfast\[ray\]'"):
        certify_run(model(), "digits", Gaussian(0.25, n=100), limit=2, runs=tmp_path, device="cpu", engine=RayEngine())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "local", "--devices", "2"], "leave --devices and --shard out"),
        (["--ray", "local", "--shard", "0/2"], "leave --devices and --shard out"),
        (["--gpus-per-worker", "0.5"], "goes with --ray"),
        (["--allow-mixed"], "goes with --ray or --devices"),
        (["--ray", "local", "--gpus-per-worker", "-1"], "no negative share"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["certify", "--model", "cases:HalfSpace", "--dataset", "digits", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_model_with_parametrised_weights_can_be_sent() -> None:
    """torch itself refuses to pickle one."""
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), LinearResidualBlock(4, depth=2), nn.Flatten(), nn.LazyLinear(10)).eval()
    data = load("digits", "test")
    x = data.pixels(slice(0, 4))
    expected = network(x)
    task = Certification(Margin(), "m", "digits")
    parcel = packed(network, lambda: pytest.fail("it was sent"), task, data, cloudpickle.CloudPickler)
    there = parcel.model()
    assert torch.equal(there(x), expected)
    assert there.state_dict().keys() == network.state_dict().keys()
    assert parcel.indices == list(range(8))


def test_machines_that_join_and_leave_end_in_the_records_of_one_process(tmp_path: Path, cluster: Any) -> None:
    settings: dict[str, Any] = {"limit": 60, "device": "cpu"}
    certifier = Gaussian(0.25, n=2000)
    expected = certify_run(model(), "digits", certifier, runs=tmp_path / "one", **settings).records
    done = threading.Event()

    def join_and_leave() -> None:
        other = cluster.add_node(num_cpus=1)
        folder = next(iter((tmp_path / "ray").glob("*/certify-*")), None)
        while not done.is_set() and (folder is None or len(workers(folder)) < 2):
            folder = next(iter((tmp_path / "ray").glob("*/certify-*")), None)
            time.sleep(0.1)
        cluster.remove_node(other, allow_graceful=False)

    nodes = threading.Thread(target=join_and_leave)
    nodes.start()
    try:
        engine = RayEngine(cluster.address)
        found = certify_run(model(), "digits", certifier, runs=tmp_path / "ray", engine=engine, **settings)
    finally:
        done.set()
        nodes.join()
    assert found.records == expected


def workers(folder: Path) -> list[dict[str, Any]]:
    if not (folder / "log.jsonl").exists():
        return []
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "worker"]
