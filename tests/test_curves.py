"""The figures of Seferis et al.: eq. (1), certified accuracy at several n, the laws beside what is exact."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri

from holdfast.cli import main
from holdfast.report import plan
from holdfast.report.plan import Pilot, Plan
from holdfast.smoothing.statistics import planning

SHARES = np.linspace(0.5, 1.0, 101)
PILOT = Pilot(0.5, SHARES, np.arange(101) % 2 == 0)
PLAN = Plan(0.5, 0.001, 10_000, pilot=PILOT)


def test_shores_radius_is_near_the_quantile_less_what_the_bound_costs() -> None:
    """With ever more samples Shore's approximation of the quantile remains, which is good to two digits."""
    shares = np.array([0.55, 0.7, 0.9, 0.99])
    assert planning.shore_radius(shares, 10**12, 0.001) == pytest.approx(ndtri(shares), abs=0.02)
    n, z = 10_000, 3.2905
    for share, found in zip(shares, planning.shore_radius(shares, n, 0.001), strict=True):
        density = np.exp(-(ndtri(share) ** 2) / 2) / np.sqrt(2 * np.pi)
        first_order = ndtri(share) - z * np.sqrt(share * (1 - share) / n) / density
        assert found == pytest.approx(max(0, first_order), abs=0.03)
    assert planning.shore_radius(np.array([0.0, 0.3, 0.5, 1.0]), n, 0.001).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="share"):
        planning.shore_radius(np.array([1.5]), n, 0.001)


def test_its_last_exponent_is_that_of_the_derivative() -> None:
    """d/dp of 5.063 (p^.135 - q^.135) is 5.063 * .135 (p^-.865 + q^-.865), times sqrt(pq): the two terms of eq. (1)."""
    p = np.array([0.8])
    step = 1e-6
    free = 10**14
    slope = (planning.shore_radius(p + step, free, 0.5) - planning.shore_radius(p - step, free, 0.5)) / (2 * step)
    n, alpha = 400, 0.001
    cost = planning.shore_radius(p, 10**14, alpha) - planning.shore_radius(p, n, alpha)
    z = -ndtri(alpha / 2)
    assert cost == pytest.approx(slope * z * np.sqrt(p * (1 - p) / n), rel=1e-3)


def test_curves_of_accuracy_fall_with_the_radius_and_grow_with_n() -> None:
    rows = plan.certified_accuracy(PLAN, PILOT)
    by_n = {n: [row["accuracy"] for row in rows if row["n"] == n] for n in {row["n"] for row in rows}}
    assert sorted(by_n) == [100, 1000, 10_000]
    for values in by_n.values():
        assert all(a >= b for a, b in pairwise(values))
    assert np.all(np.array(by_n[10_000][5:]) >= np.array(by_n[100][5:]) - 1e-9)
    exact = (planning.certified_probability(SHARES, 0.0, 100, 0.001) * PILOT.correct).mean()
    assert by_n[100][0] == pytest.approx(exact)


def test_the_laws_stand_beside_what_is_exact_and_meet_at_n_max() -> None:
    rows = plan.laws(PLAN, PILOT)
    assert rows[-1]["n"] == 10_000
    assert (rows[-1]["kept, exact"], rows[-1]["drop, exact"]) == (1.0, 0.0)
    kept = [row["kept, exact"] for row in rows]
    assert kept == sorted(kept)
    for row in rows:
        assert row["kept, formula"] == planning.radius_ratio(int(row["n"]), 0.001)
        assert row["drop, exact"] <= row["drop, formula"] + 1e-9


def test_the_command_writes_the_figure_and_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.tsv"
    lines = [f"{i}\t1\t1\t{radius}\t1\t0:00:01" for i, radius in enumerate((0.1, 0.2, 0.5, 0.9))]
    log.write_text("\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *lines]) + "\n")
    out = tmp_path / "figures"
    main(["plan", "--sigma", "0.25", "--from", str(log), "--alpha", "0.05", "--n-max", "100000", "--curves", str(out)])
    assert {path.name for path in out.iterdir()} == {
        "point-radii.csv",
        "certified-accuracy.csv",
        "laws.csv",
        "curves.png",
    }
    assert len(list(csv.DictReader((out / "laws.csv").read_text().splitlines()))) == len(plan.N_LAWS)
    assert "written to" in capsys.readouterr().out
    main(["plan", "--curves", str(tmp_path / "without")])
    assert {path.name for path in (tmp_path / "without").iterdir()} == {"point-radii.csv", "curves.png"}


def test_a_log_is_inverted_by_its_own_alpha_and_predicted_at_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At alpha 1e-6 no log of alpha 0.001 with a radius at its cap could be inverted."""
    cap = 0.25 * float(planning.radii_of_counts(1000, 0.001)[-1])
    log = tmp_path / "log.tsv"
    log.write_text(f"idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t{cap:.6f}\t1\t0\n")
    told = ["plan", "--sigma", "0.25", "--from", str(log), "--n-max", "1000"]
    main([*told, "--alpha", "0.000001"])
    last = capsys.readouterr().out.split("- ")[0].strip().splitlines()[-1].split()
    assert float(last[-3]) == pytest.approx(0.25 * float(planning.radii_of_counts(1000, 1e-6)[-1]), abs=1e-4)
    with pytest.raises(SystemExit):
        main([*told, "--log-alpha", "0.000001"])
    assert "give the values that the log was made with" in capsys.readouterr().err
