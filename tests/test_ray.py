"""Workers of a Ray cluster, several machines of which are played by one; without Ray, one line that says so."""

import builtins
import json
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_revise import run, run_of_other_noise
from torch import nn

from holdfast import Gaussian, Margin, RayEngine, certify_run
from holdfast.certification import engines
from holdfast.certification.dispatch import Done, Event, Examples, Joined, Left
from holdfast.certification.engines import RayPool
from holdfast.certification.parcel import packed
from holdfast.certification.task import Certification
from holdfast.cli import main
from holdfast.data import load
from holdfast.nn.lipschitz.layers import LinearResidualBlock
from holdfast.runs.records import read_records

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
    assert not list(tmp_path.iterdir())


def test_an_address_at_which_nothing_listens_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself went on trying for minutes, and a folder without records was left."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    for engine in (RayEngine(address), RayEngine(f"ray://{address}")):
        with pytest.raises(ValueError, match=f"there is no Ray cluster at '{engine.address}': .*refused"):
            certify_run(model(), "digits", Gaussian(0.25, n=100), limit=2, runs=tmp_path, device="cpu", engine=engine)
    assert not list(tmp_path.iterdir())


def test_a_share_of_a_machine_that_none_has_is_refused_with_what_there_is(tmp_path: Path, cluster: Any) -> None:
    engine = RayEngine(cluster.address, gpus_per_worker=0.5)
    with pytest.raises(ValueError, match=r"takes 0\.5 GPU and 1 CPU; at most there are 0 GPU and 1 CPU"):
        certify_run(model(), "digits", Gaussian(0.25, n=100), limit=2, runs=tmp_path, device="cpu", engine=engine)
    assert not list(tmp_path.iterdir())


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


class ComingAndGoing(RayPool):
    """A machine joins when the first certificate is there, and dies before it has done what it is given first."""

    def __init__(self, cluster: Any, *settings: Any) -> None:
        super().__init__(*settings)
        self.cluster, self.other, self.second, self.gone = cluster, None, "", False

    def wait(self) -> list[Event]:
        events = super().wait()
        if not self.other and any(isinstance(event, Done) for event in events):
            self.other = self.cluster.add_node(num_cpus=1)
            self.until(Joined, events)
            (joined,) = (event for event in events if isinstance(event, Joined))
            self.second, self.process = joined.worker, joined.machine["process"]
        elif self.gone and self.second:
            self.until(Left, events)
            self.second = ""
        return events

    def until(self, kind: type[Event], events: list[Event]) -> None:
        """Wait for an event of that kind."""
        while not any(isinstance(event, kind) for event in events):
            events += super().wait()

    def hand_out(self, worker: str, examples: Examples) -> None:
        if worker == self.second and not self.gone:
            os.kill(self.process, signal.SIGKILL)  # it may outlive its machine for a moment, and answer
            self.cluster.remove_node(self.other, allow_graceful=False)
            self.gone = True
        super().hand_out(worker, examples)


def test_workers_go_on_from_earlier_votes(tmp_path: Path, cluster: Any) -> None:
    certifier = Gaussian(0.25, n=700)
    for name in ("alone", "ray"):
        run_of_other_noise(tmp_path / name, certifier.replace(n=200))
    gone_on = run(tmp_path / "ray", certifier, engine=RayEngine(cluster.address))
    expected, fresh = run(tmp_path / "alone", certifier), run(tmp_path / "fresh", certifier)
    assert read_records(gone_on) == read_records(expected) != read_records(fresh)


def test_machines_that_join_and_die_end_in_the_records_of_one_process(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"limit": 60, "device": "cpu"}
    certifier = Gaussian(0.25, n=100)
    expected = certify_run(model(), "digits", certifier, runs=tmp_path / "one", **settings).records
    monkeypatch.setattr(engines, "RayPool", partial(ComingAndGoing, cluster))
    engine = RayEngine(cluster.address)
    found = certify_run(model(), "digits", certifier, runs=tmp_path / "ray", engine=engine, **settings)
    assert found.records == expected
    (folder,) = (tmp_path / "ray").glob("*/certify-*")
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "worker" for event in events) >= 2
    assert "is gone" in capsys.readouterr().err
