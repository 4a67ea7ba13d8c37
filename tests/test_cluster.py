"""What a certification costs on a cluster, simulated with the code that hands examples out."""

from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast import Gaussian, certify_run
from holdfast.certification.cluster import Cluster, measured, simulate
from holdfast.cli import main

EXACT = Cluster(1, start=0.0, latency=0.0, writer=(0.0, 0.0))


def cluster(workers: int, **settings: float) -> Cluster:
    return Cluster(**{**vars(EXACT), "workers": workers, **settings})


def test_one_worker_takes_as_long_as_its_work() -> None:
    found = simulate(EXACT, [0.5] * 200)
    assert found.wall == pytest.approx(100)
    assert found.efficiency == pytest.approx(1)


def test_many_workers_share_the_work() -> None:
    found = simulate(cluster(10), [0.5] * 20_000)
    assert found.wall == pytest.approx(1000, rel=0.02)


def test_no_number_of_workers_is_faster_than_the_longest_example() -> None:
    seconds = [0.1] * 500 + [60.0]
    found = simulate(cluster(100, start=5.0), seconds)
    assert 65 <= found.wall < 65 + 2
    assert found.efficiency < 0.05


def test_slow_workers_cost_what_they_do_less_and_hold_nobody_up() -> None:
    found = simulate(cluster(20, stragglers=0.5, slowness=4.0), [0.5] * 20_000)
    slow = sum(simulated_slow(20))
    assert found.wall == pytest.approx(10_000 / (20 - slow + slow / 4), rel=0.05)


def simulated_slow(workers: int) -> list[bool]:
    from holdfast.certification.cluster import Simulated

    return [factor > 1 for factor in Simulated(cluster(workers, stragglers=0.5), [])._factor.values()]


def test_what_is_taken_away_is_done_again() -> None:
    found = simulate(cluster(10, preemptions=20.0, start=30.0), [0.5] * 20_000)
    lost = 10 / 2 + 30  # seconds of a preemption: half a batch or two, and the start of another worker
    assert found.wall > 1000 * (1 + 20 / 3600 * lost)
    assert found.efficiency > 0.6


def test_a_plan_for_a_cluster_is_made_of_a_pilot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    certify_run(model, "digits", Gaussian(0.25, n=200_000), limit=2, runs=tmp_path, device="cpu", batch_size=1000)
    (folder,) = tmp_path.glob("*/certify-*")
    taken, second = measured(folder)
    assert taken == [200_100, 200_100]
    assert 0 < second < 1e-3
    capsys.readouterr()
    main(["plan", "--cluster", "--from", str(folder), "--images", "1000", "--workers", "1", "8"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line[:2] for line in lines[1:]] == [["1", "200,100,000"], ["8", "200,100,000"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "--cluster needs --from"), (["--from", "x", "--images", "0"], "images and workers of at least 1")],
)
def test_a_plan_that_cannot_be_made_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--cluster", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
