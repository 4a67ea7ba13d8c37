"""Two nodes under torchrun, each in a network namespace of its own: killed, and over a bad network, the same weights.

Needs Linux, root and iproute2 (`ip`, `tc`); run by hand: `pytest -m slow tests/test_training_nodes.py`.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from holdfast.training.launch import OWN_STORE

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason="makes network namespaces: needs root, ip and tc"),
]

ADDRESSES = ("10.213.0.1", "10.213.0.2")
"""Of the two nodes; the first is where they meet."""
NAMES = ("holdfast-a", "holdfast-b")
"""Of their namespaces, and of the ends of the cable between them."""
EPOCHS = 40
FEW = 3
"""Epochs where each step takes long."""
FAR = {"delay": 0.05, "jitter": 0.02, "loss": 0.01}
"""Seconds, each way; and a probability."""


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    """Two namespaces with a cable between them, and no other way to each other."""
    try:
        for name in NAMES:
            _run("ip", "netns", "add", name)
        _run("ip", "link", "add", NAMES[0], "type", "veth", "peer", "name", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            _run("ip", "link", "set", name, "netns", name)
            for words in (["addr", "add", f"{address}/24", "dev", name], ["link", "set", name, "up"]):
                _run("ip", "-n", name, *words)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def bad_network() -> Iterator[None]:
    """Twenty megabits a second, and a queue of a few packets, behind which packets are lost."""
    for name in NAMES:
        _run("tc", "-n", name, *f"qdisc add dev {name} root tbf rate 20mbit burst 12000 limit 18000".split())
    try:
        yield
    finally:
        for name in NAMES:
            _run("tc", "-n", name, "qdisc", "del", "dev", name, "root")


@contextmanager
def far_network() -> Iterator[dict[str, int]]:
    """Another cable instead, that delays, reorders and loses frames; afterwards, how many of them."""
    link, told = Path(__file__).with_name("bad_link.py"), dict[str, int]()
    for name in NAMES:
        _run("ip", "-n", name, "link", "set", name, "down")
    command = [sys.executable, str(link), "far-a", "far-b", *map(str, FAR.values()), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            for name, far, address in zip(NAMES, ("far-a", "far-b"), ADDRESSES, strict=True):
                _run("ip", "link", "set", far, "netns", name)
                _run("ip", "-n", name, "addr", "del", f"{address}/24", "dev", name)
                _run("ip", "-n", name, "link", "set", name, "name", "near")
                _run("ip", "-n", name, "link", "set", far, "name", name)
                _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", name)
                _run("ip", "-n", name, "link", "set", name, "up")
            yield told
            told |= json.loads(process.communicate("", timeout=10)[0])
        finally:
            process.kill()
            process.wait()  # the devices go with it
            for name, address in zip(NAMES, ADDRESSES, strict=True):
                words = (["link", "set", "near", "name", name], ["addr", "add", f"{address}/24", "dev", name])
                for back in (*words, ["link", "set", name, "up"]):
                    subprocess.run(["ip", "-n", name, *back], check=False, capture_output=True)


def lost_packets() -> int:
    told = "".join(_run("tc", "-n", name, "-s", "qdisc", "show", "dev", name) for name in NAMES)
    return sum(map(int, re.findall(r"dropped (\d+)", told)))


@pytest.fixture(scope="module")
def unbroken(network: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return train_on_two_nodes(tmp_path_factory.mktemp("whole"))


def test_a_killed_process_of_a_node_is_replaced(unbroken: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert_same(train_on_two_nodes(tmp_path, lambda nodes: os.kill(_child(nodes[1].pid), signal.SIGKILL)), unbroken)


def test_a_killed_node_that_comes_back_continues(unbroken: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def kill(nodes: list[subprocess.Popen[str]]) -> None:
        victims = [_child(nodes[1].pid), nodes[1].pid]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        nodes[1].wait()
        nodes[1] = start(1, tmp_path)

    assert_same(train_on_two_nodes(tmp_path, kill), unbroken)


def test_a_network_that_loses_packets_slows_but_changes_nothing(
    unbroken: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with bad_network():
        found = train_on_two_nodes(tmp_path)
        assert lost_packets() > 0
    assert_same(found, unbroken)


def test_a_node_that_leaves_for_good_leaves_the_rest_to_the_other(network: None, tmp_path: Path) -> None:
    """Another number of processes, other noise, other weights; the batch of a step is the same: see `_batches`."""
    nodes = [start(node, tmp_path, nnodes="1:2") for node in range(2)]
    try:
        while not list(tmp_path.glob("*/checkpoint.pt")):
            assert all(node.poll() is None for node in nodes), _told(tmp_path)
            time.sleep(0.05)
        for victim in (_child(nodes[1].pid), nodes[1].pid):
            os.kill(victim, signal.SIGKILL)
        assert nodes[0].wait(timeout=400) == 0, _told(tmp_path)
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    (folder,) = tmp_path.glob("*/model.safetensors")
    events = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    begun = [(event["processes"], event["epoch"]) for event in events if event["event"] == "train"]
    assert [processes for processes, _ in begun] == [2, 1]
    assert begun[1][1] > 0
    with (folder.parent / "metrics.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(EPOCHS))


def test_a_network_that_delays_reorders_and_loses_slows_but_changes_nothing(network: None, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("near", "far")]
    for folder in runs:
        folder.mkdir()
    expected, started = train_on_two_nodes(runs[0], epochs=FEW), time.monotonic()
    with far_network() as told:
        found = train_on_two_nodes(runs[1], epochs=FEW)
    print(f"{time.monotonic() - started:.0f} s, {told}")
    assert min(told["lost"], told["overtaken"]) > 0
    assert_same(found, expected)


def train_on_two_nodes(
    runs: Path, harm: Callable[[list[subprocess.Popen[str]]], None] | None = None, epochs: int = EPOCHS
) -> dict[str, torch.Tensor]:
    """The weights of a run of two nodes; when there is a checkpoint, harm is done to them."""
    nodes = [start(node, runs, epochs) for node in range(2)]
    try:
        while harm and not list(runs.glob("*/checkpoint.pt")):
            assert all(node.poll() is None for node in nodes), _told(runs)
            time.sleep(0.05)
        if harm:
            harm(nodes)
        codes = [node.wait(timeout=400) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    assert codes == [0, 0], _told(runs)
    begun = _told(runs).count("Initializing distributed")
    assert begun > 2 if harm else begun == 2, _told(runs)
    (weights,) = runs.glob("*/model.safetensors")
    return load_file(weights)


def start(node: int, runs: Path, epochs: int = EPOCHS, nnodes: str = "2") -> subprocess.Popen[str]:
    """torchrun on one of the nodes, with what it tells in a file beside the runs."""
    command = ["ip", "netns", "exec", NAMES[node], sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes", nnodes, "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", ADDRESSES[node]]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29517", "--rdzv-id", "nodes"]
    command += ["--rdzv-conf", f"is_host={int(node == 0)},timeout=120"]
    command += ["-m", "holdfast", "train", "gaussian-digits-0.25", "--epochs", str(epochs), "--accelerator", "cpu"]
    variables = {OWN_STORE: "1", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": NAMES[node]}
    with (runs / f"node-{node}.txt").open("a") as told:
        return subprocess.Popen(
            [*command, "--runs", str(runs)], stdout=told, stderr=told, text=True, env=os.environ | variables
        )


def _child(parent: int) -> int:
    """The process that a process has started."""
    (found,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(found)


def _told(runs: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(runs.glob("node-*.txt")))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
