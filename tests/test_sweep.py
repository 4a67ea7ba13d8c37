"""`holdfast sweep`: recipes, seeds and values; what is missing is done, what is there is left alone."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from holdfast import sweep
from holdfast.cli import main
from holdfast.cli import train as cli
from holdfast.core.recipe import with_batches_for_copies
from holdfast.core.registry import ARCHITECTURES, RECIPES
from holdfast.runs.records import read_records
from holdfast.sweep import Cell, cost, grid, named, run
from holdfast.training.launch import Machine

CPU = Machine(accelerator="cpu", workers=0)
QUICK = ["--epochs", "1", "--accelerator", "cpu", "--certify", "gaussian --n0 5 --n 20 --alpha 0.1 --limit 6"]


def cell(runs: Path, **changes) -> Cell:
    recipe = RECIPES["gaussian-digits-0.25"].replace(epochs=1, **changes)
    certifier = replace(recipe.method.certifier(), n0=5, n=20, alpha=0.1)
    return Cell("gaussian-digits-0.25", recipe, certifier, runs, {"limit": 6})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_word_stands_for_a_recipe_or_for_those_of_several_sigmas() -> None:
    assert named("smoothmix-mnist-0.25", []) == ["smoothmix-mnist-0.25"]
    assert named("smoothmix-mnist", [0.25, 1.0]) == ["smoothmix-mnist-0.25", "smoothmix-mnist-1.00"]
    assert named("smoothmix-mnist", []) == [f"smoothmix-mnist-{sigma}" for sigma in ("0.25", "0.50", "1.00")]
    assert named("emma-cifar10", []) == ["emma-cifar10"]
    for word, sigmas in (("smothmix-mnist", []), ("smoothmix-mnist", [0.3]), ("emma-cifar10", [0.5])):
        with pytest.raises(ValueError, match="unknown recipe"):
            named(word, sigmas)


def test_every_combination_of_values_is_a_run() -> None:
    values = {"--eta": ["1", "5"], "--seed": ["0", "1", "2"], "--drops": ["0.3,0.6"]}
    found = list(grid(values))
    assert len(found) == 6
    assert found[0] == ["--eta", "1", "--seed", "0", "--drops", "0.3", "0.6"]
    assert len({tuple(one) for one in found}) == 6
    assert list(grid({})) == [[]]


def test_a_sweep_does_what_is_missing_and_nothing_twice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "smoothmix-digits", "--eta", "1", "5", *QUICK]
    main([*words, "--dry-run"])
    assert not (here / "runs").exists()
    assert capsys.readouterr().out.count("train, certify") == 2
    main([*words, "--no-report"])
    folders = sorted((here / "runs").iterdir())
    assert len(folders) == 2
    records = [sorted(folder.glob("certify-*"))[0] for folder in folders]
    assert [len(list(read_records(folder))) for folder in records] == [6, 6]
    before = {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*") if path.is_file()}
    capsys.readouterr()
    main([*words, "--seeds", "2", "--dry-run"])
    told = capsys.readouterr().out
    assert (told.count("nothing"), told.count("train, certify")) == (2, 2)
    main([*words, "--no-report"])
    assert before == {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*") if path.is_file()}


def test_other_settings_of_the_certifier_are_missing_and_the_training_is_not(tmp_path: Path) -> None:
    first = cell(tmp_path)
    assert first.missing() == "train, certify"
    first.work(CPU)
    assert first.missing() == ""
    assert replace(first, settings={"limit": 7}).missing() == "certify"
    assert replace(first, certifier=replace(first.certifier, n=21)).missing() == "certify"
    assert cost(replace(first, settings={"limit": 7}), CPU).training == 0
    left = cost(cell(tmp_path, seed=1), CPU)
    assert left.training > 0
    assert left.certifying > 0
    (records,) = next(first.folder.glob("certify-*")).glob("records-*.jsonl")
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:3]))
    assert first.missing() == "certify"
    first.work(CPU)
    assert first.missing() == ""


def test_several_at_a_time_give_the_records_of_one_after_the_other(tmp_path: Path) -> None:
    alone, together = ([cell(tmp_path / name, seed=seed) for seed in (0, 1)] for name in ("alone", "together"))
    assert [error for _, error in run(alone, CPU, 1)] == [None, None]
    assert [error for _, error in run(together, CPU, 2)] == [None, None]
    for one, other in zip(alone, together, strict=True):
        found = [next(each.folder.glob("certify-*")) for each in (one, other)]
        assert [r.certificate for r in read_records(found[0])] == [r.certificate for r in read_records(found[1])]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_run_that_fails_leaves_the_others_alone(tmp_path: Path, at_once: int) -> None:
    cells = [cell(tmp_path, arch="nothing"), cell(tmp_path)]
    found = {one.recipe.arch: error for one, error in run(cells, CPU, at_once)}
    assert "unknown architecture" in str(found["nothing"])
    assert found["cnn"] is None
    assert cells[1].missing() == ""


def test_the_cost_of_what_cannot_be_told_is_said_to_be_unknown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "gaussian-digits-0.25", "--arch", "cnn", "nothing", *QUICK, "--dry-run"])
    told = capsys.readouterr().out
    assert "unknown: unknown architecture 'nothing'" in told
    assert "and what could not be told" in told


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("smothmix-digits", "did you mean smoothmix-digits"),
        ("--seeds 2", "expected the name of a recipe"),
        ("smoothmix-digits --eta", "one value or more after --eta"),
        ("smoothmix-digits --seeds 0", "1 or more"),
        ("smoothmix-digits --sigma many", "numbers after --sigma"),
        ("smoothmix-digits --certify nobody", "takes a certifier"),
    ],
)
def test_a_mistake_gets_one_line_and_nothing_is_begun(
    here: Path, args: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", *args.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_batches_follow_the_copies_unless_they_are_given() -> None:
    base = RECIPES["smoothmix-mnist-1.00"]
    assert (base.method.copies, base.batch_size) == (4, 64)
    for copies, size in ((1, 256), (2, 128), (8, 32), (3, 85)):
        other = base.replace(method=base.method.replace(copies=copies))
        assert with_batches_for_copies(other, base).batch_size == size
    nested = RECIPES["smoothadv-consistency-mnist-0.50"]
    inner = nested.method.smoothadv.replace(copies=2)
    found = with_batches_for_copies(nested.replace(method=nested.method.replace(smoothadv=inner)), nested)
    assert found.batch_size == 2 * nested.batch_size
    plain = RECIPES["gloro-mnist-0.3"]
    assert with_batches_for_copies(plain, plain) is plain


def test_the_command_line_derives_batches_from_copies(here: Path) -> None:
    from holdfast.cli.train import parse

    assert parse("smoothmix-mnist-1.00", ["--copies", "8"], "train").recipe.batch_size == 32
    assert parse("smoothmix-mnist-1.00", ["--copies", "8", "--batch-size", "7"], "train").recipe.batch_size == 7
    assert parse("smoothmix-mnist-1.00", [], "train").recipe == RECIPES["smoothmix-mnist-1.00"]


def test_one_run_at_a_time_on_a_cpu_and_on_each_gpu() -> None:
    assert sweep.devices_here(CPU) == 1
    assert sweep.gpus_for(2, None, 0) == ["", ""]
    assert sweep.gpus_for(3, None, 2) == ["0", "1", "0"]
    assert sweep.gpus_for(2, "3,GPU-5a", 2) == ["3", "GPU-5a"]


PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
COMMANDS = [line for line in re.findall(r"`holdfast (sweep [^`]+)`", PAGE.read_text()) if "--dry-run" not in line]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:60])
def test_every_experiment_of_the_docs_is_a_sweep_that_can_begin(command: str, tmp_path: Path) -> None:
    """Its recipes are there, their fields take the values, and no two runs are the same."""
    words, values, own = cli._split(shlex.split(command)[1:])
    options = tyro.cli(cli.SweepOptions, args=own, config=(tyro.conf.OmitArgPrefixes,))
    options.runs = tmp_path
    cells = cli._cells(words, values, options)
    assert len({one.folder for one in cells}) == len(cells) > 0
    assert all(one.recipe.arch.partition("@")[0] in ARCHITECTURES for one in cells)


def test_the_ablations_of_smoothmix_are_those_of_the_released_logs(tmp_path: Path) -> None:
    """`smix_ALPHA_T_m0[_maxMAXNORM]/tau_ETA/num_M`: but for eta itself, all at eta = 1; one run of each."""
    fields = ("sigma", "one_step", "step_size", "steps", "maxnorm", "eta", "copies")
    found = set()
    for command in COMMANDS:
        if re.search("--(eta|copies|step-size|maxnorm) ", command):
            words, given, own = cli._split(shlex.split(command)[1:])
            options = tyro.cli(cli.SweepOptions, args=own, config=(tyro.conf.OmitArgPrefixes,))
            recipes = [one.recipe for one in cli._cells(words, given, replace(options, runs=tmp_path))]
            found |= {(one.dataset, *(getattr(one.method, field) for field in fields)) for one in recipes}
    expected = {
        *((1, 8, 0, eta, 4) for eta in (1, 2, 4, 8, 16)),
        *((1, 8, 0, 1, copies) for copies in (1, 2, 4, 8)),
        *((8 / steps, steps, 0, 1, 4) for steps in (8, 4, 2, 1)),
        *((1, 8, maxnorm, 1, 4) for maxnorm in (0, 2, 4, 6, 8)),
    }
    assert found == {("mnist", 1.0, False, *one) for one in expected}
