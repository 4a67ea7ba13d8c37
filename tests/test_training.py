"""The training loop: deterministic, resumable, alike on one process and on two."""

import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast import data
from holdfast.cli import main
from holdfast.core.recipe import Recipe
from holdfast.core.registry import RECIPES
from holdfast.formats.files import checksum
from holdfast.methods.cat_rs import CATRS
from holdfast.methods.gaussian import GaussianNoise
from holdfast.nn.split import SplitClassifier
from holdfast.opening import architecture, load, model_hash
from holdfast.optim import SGD
from holdfast.progress import Progress
from holdfast.runs.records import read_records
from holdfast.training import loop as training
from holdfast.training.feed import augment
from holdfast.training.launch import Machine
from holdfast.training.loop import train

SHORT = replace(RECIPES["gaussian-digits-0.25"], epochs=3)
CPU = Machine(accelerator="cpu")


def metrics(run: Path) -> list[dict[str, float]]:
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{name: float(value) for name, value in row.items()} for row in rows]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in metrics(run)]


def test_a_machine_takes_the_name_of_a_folder() -> None:
    assert Machine(data_dir="data").data_dir == Path("data")  # pyright: ignore[reportArgumentType]


def killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was killed after its first epoch."""
    real = training._epoch

    def dies(*args, **kwargs):
        if args[6]:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, "killed", folder, CPU)
    return next(folder.glob("killed-*"))


def test_a_training_goes_on_with_the_images_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = killed(tmp_path, monkeypatch), training.load

    def other(*args, **kwargs):
        found: Any = real(*args, **kwargs)
        return replace(found, images=found.images.roll(1, 0))

    monkeypatch.setattr(training, "load", other)
    with pytest.raises(ValueError, match=r"the training images or labels changed since .* was started; bring the old"):
        train(SHORT, "killed", tmp_path, CPU)
    assert (run / "checkpoint.pt").exists()
    monkeypatch.setattr(training, "load", real)
    assert train(SHORT, "killed", tmp_path, CPU) == run


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK half"])
def test_a_damaged_checkpoint_is_named_and_kept(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = killed(tmp_path, monkeypatch) / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint.pt is no checkpoint of this training .* remove it to train"):
        train(SHORT, "killed", tmp_path, CPU)
    assert path.read_bytes() == content


def test_killed_in_any_epoch_it_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(SHORT, "whole", tmp_path, CPU)
    real = training._epoch

    def dies_in_the_middle(*args, **kwargs):
        if args[6] == 2:
            real(*args, **kwargs)  # the weights have moved on, but the checkpoint has not
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(training, "_epoch", dies_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        train(SHORT, "killed", tmp_path, CPU)
    monkeypatch.setattr(training, "_epoch", real)
    killed = train(SHORT, "killed", tmp_path, CPU)
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert losses(killed) == losses(whole)
    assert not (killed / "checkpoint.pt").exists()


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training._epoch

    def begins_it_again(*args, **kwargs):
        with pytest.raises(ValueError, match=r"another process is training .*run-"):
            train(replace(SHORT, epochs=1), "run", tmp_path, CPU)
        return real(*args, **kwargs)

    monkeypatch.setattr(training, "_epoch", begins_it_again)
    assert len(metrics(train(replace(SHORT, epochs=1), "run", tmp_path, CPU))) == 1


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, other = (train(replace(SHORT, epochs=1, seed=seed), "run", tmp_path, CPU) for seed in (0, 1))
    assert one != other
    assert model_hash(load(one)) != model_hash(load(other))


def test_training_lowers_the_loss_and_leaves_an_eval_model(tmp_path: Path) -> None:
    run = train(replace(SHORT, epochs=12), "run", tmp_path, CPU)
    assert losses(run)[-1] < 0.5 * losses(run)[0]
    assert not load(run).training


def test_two_processes_train_and_certify(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = ["--runs", str(tmp_path)]
    main(["train", "gaussian-digits-0.25", "--epochs", "2", "--devices", "2", "--accelerator", "cpu", *runs])
    assert "deprecated" not in capfd.readouterr().err
    (run,) = tmp_path.glob("gaussian-digits-0.25-*")
    alone = train(replace(SHORT, epochs=2), "alone", tmp_path, CPU)
    assert metrics(run)[-1]["training_accuracy"] > 0.2  # told by one process alone
    two, one = load_file(run / "model.safetensors"), load_file(alone / "model.safetensors")
    assert two.keys() == one.keys()
    certify = ["certify", str(run), "--n", "100", "--limit", "20", "--device", "cpu"]
    main([*certify, "--devices", "2"])
    (folder,) = run.glob("certify-*")
    assert (folder / "probe.json").exists()  # handed out to two processes
    split = read_records(folder)
    assert [record.index for record in split] == list(range(20))
    for file in folder.glob("records-*"):
        file.unlink()
    main(certify)
    assert read_records(folder) == split


def test_the_log_tells_the_precision(tmp_path: Path) -> None:
    run = train(replace(SHORT, epochs=1), "half", tmp_path, Machine(accelerator="cpu", precision="bf16-mixed"))
    assert json.loads((run / "log.jsonl").read_text().splitlines()[0])["precision"] == "bf16-mixed"


def test_a_diverging_loss_stops_the_run_with_a_reason(tmp_path: Path) -> None:
    wild = replace(SHORT, optimizer=SGD(lr=1e9))
    with pytest.raises(ValueError, match="lower the learning rate"):
        train(wild, "wild", tmp_path, CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_model_is_not_returned_for_a_default_that_changed_since(tmp_path: Path) -> None:
    """A field at its default does not enter the name of the folder: only run.json tells what it was."""
    run = train(SHORT, "run", tmp_path, CPU)
    assert train(SHORT, "run", tmp_path, CPU) == run
    stored = json.loads((run / "run.json").read_text())
    stored["recipe"]["method"]["copies"] = 4
    del stored["recipe"]["extra_ratio"]  # added since it was trained
    (run / "run.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"other settings \(recipe\.method\.copies: 4 there, 1 now\)"):
        train(SHORT, "run", tmp_path, CPU)


def test_a_finished_run_says_what_it_was_trained_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = replace(SHORT, epochs=1)
    train(short, "run", tmp_path, CPU)
    assert "is finished" not in capsys.readouterr().err
    train(short, "run", tmp_path, CPU)
    said = capsys.readouterr().err
    assert "is finished; it was trained with precision 32-true, processes 1, device cpu" in said
    assert "asked for now" not in said
    train(short, "run", tmp_path, Machine(accelerator="cpu", precision="bf16-mixed", devices=2))
    assert "asked for now: precision bf16-mixed, processes 2. That trains nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gaussian-digits-0.25", "splitz-digits-0.25", "gloro-digits-0.3", "emma-digits"])
def test_accuracies_on_the_way_change_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    short = replace(RECIPES[name], epochs=2)
    seen = train(short, "seen", tmp_path, CPU)
    monkeypatch.setattr(training, "_accuracies", lambda *_: {})
    unseen = train(short, "unseen", tmp_path, CPU)
    assert (seen / "model.safetensors").read_bytes() == (unseen / "model.safetensors").read_bytes()


def test_accuracy_is_shown_on_training_images_or_on_those_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never_the_test_set(name: str, split: str, data_dir: Path | None, encoded: bool) -> data.Images:
        assert split == "train"
        return data.load(name, split, data_dir, encoded)

    monkeypatch.setattr(training, "load", never_the_test_set)
    run = train(replace(SHORT, held_out=5), "run", tmp_path, CPU)
    held = data.load("digits", "held-out-5")
    right = float((load(run)(held.pixels(slice(None))).argmax(1) == held.labels).float().mean())
    last = metrics(run)[-1]
    assert last["held_out_accuracy"] == pytest.approx(right)
    assert 0 < last["noisy_held_out_accuracy"] < 1
    assert "training_accuracy" not in last
    assert f"accuracy {100 * right:.1f} %" in capsys.readouterr().err.splitlines()[-1]
    run = train(replace(RECIPES["gloro-digits-0.3"], epochs=1), "run", tmp_path, CPU)
    assert {"training_accuracy"} == {name for name in metrics(run)[-1] if "accuracy" in name}  # it knows no noise
    assert "on 1,000 training images" in capsys.readouterr().err


def test_the_accuracy_under_noise_is_that_of_the_noise_that_is_certified(tmp_path: Path) -> None:
    run = load(train(replace(RECIPES["splitz-digits-0.25"], epochs=1), "run", tmp_path, CPU))
    assert isinstance(run, SplitClassifier)
    x = data.load("digits", "train").pixels(slice(0, 5))
    features = run.features(x)
    noise = torch.empty(features.shape).normal_(generator=torch.Generator().manual_seed(1))
    expected = run(features + 0.25 * noise, "right")
    generator = torch.Generator().manual_seed(1)
    found = RECIPES["splitz-digits-0.25"].method.noisy(run, x, generator)  # pyright: ignore
    assert torch.allclose(found, expected, atol=1e-5)
    assert RECIPES["gloro-digits-0.3"].method.noisy(run, x, generator) is None


def test_a_training_says_beforehand_what_it_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(replace(SHORT, held_out=5), "run", tmp_path, CPU)
    said = capsys.readouterr().err
    assert "digits: 1,143 training images of 1x8x8 in 10 classes, every 5th of each class held out" in said
    assert "cnn: 22,602 parameters" in said
    assert "epochs   3, of 18 steps with 64 images each" in said
    assert "cpu, processes: 1, precision 32-true" in said
    assert str(run) in said


def test_the_time_that_long_work_takes_is_foretold_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress("training", 1000, foretell=True) as progress:
        for seconds in [50, *[1] * 20]:  # the first step is slow
            now[0] += seconds
            progress.advance(1)
    assert capsys.readouterr().err.count("about 16:40 in all, by the pace of the first steps") == 1


def test_the_time_that_is_left_is_that_of_what_is_counted_not_of_the_proof_before_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress("certifying", 1000) as progress:
        for seconds, steps in ((100, 1), (40, 400), (59.9, 599)):
            now[0] += seconds
            progress.advance(steps)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "certifying: 1 of 1000, 1:40",
        "certifying: 401 of 1000, 2:20, 1:00 left",
        "certifying: 1000 of 1000, 3:20, 0 s left",
    ]


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (Machine(accelerator="cpu", precision="bf17"), "bf17"),
        (Machine(accelerator="nonsense"), "nonsense"),
        (Machine(accelerator="cpu", devices=0), "devices 0"),
        (Machine(accelerator="tpu", devices=2), "cannot train with accelerator tpu, devices 2"),
        (
            Machine(accelerator="cpu", devices=3),
            "the batch of 64 images is that of all .* and 3 cannot",
        ),
    ],
)
def test_nothing_is_written_for_a_machine_that_is_not_there(tmp_path: Path, machine: Machine, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(SHORT, "run", tmp_path, machine)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_by_a_first_step_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> dict[str, float]:
        raise RuntimeError("out of memory")

    real = training._epoch
    monkeypatch.setattr(training, "_epoch", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(SHORT, "run", tmp_path, CPU)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(training, "_epoch", lambda *args: fails() if args[6] else real(*args))
    with pytest.raises(RuntimeError, match="out of memory"):
        train(SHORT, "run", tmp_path, CPU)
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 1  # an epoch is worth keeping


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace(SHORT, arch="lenet"), "lenet needs images"),
        (replace(SHORT, arch="cn"), "did you mean cnn"),
        (replace(SHORT, dataset="digit"), "did you mean digits"),
        (replace(SHORT, method=CATRS(0.25, teacher="runs/nowhere")), "holds no finished model"),
        (replace(RECIPES["emma-digits"], arch="cnn"), "network with a Lipschitz constant"),
        (replace(RECIPES["linf-dist-digits-0.1"], arch="cnn"), "network of l-inf-distance neurons"),
        (replace(RECIPES["splitz-digits-0.25"], arch="cnn"), "classifier in two halves"),
    ],
)
def test_nothing_is_written_for_a_recipe_that_cannot_run(tmp_path: Path, wrong: Recipe, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(wrong, "wrong", tmp_path, CPU)
    assert list(tmp_path.iterdir()) == []


def test_the_rate_drops_by_ten_at_a_third_and_two_thirds() -> None:
    rates = [SGD(lr=0.1).rate(epoch / 90) for epoch in (0, 29, 30, 59, 60, 89)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_crops_are_shifts_over_a_black_border_and_flips_are_mirror_images() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 2, 5, 6)
    padded = torch.nn.functional.pad(x, (2,) * 4)
    for image, source in zip(augment(x, 2, False), padded, strict=True):
        windows = [source[:, i : i + 5, j : j + 6] for i in range(5) for j in range(5)]
        assert any(torch.equal(image, window) for window in windows)
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(augment(x, 0, True), x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(augment(x, 0, True), x, strict=True)]
    assert 16 < sum(flipped) < 48
    assert 16 < sum(kept) < 48
    assert augment(x, 0, False) is x


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": 0}, {"crop": -1}])
def test_impossible_recipes_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        replace(SHORT, **change)


def test_recipes_survive_json_and_new_options_leave_old_names_alone() -> None:
    assert Recipe.from_dict(SHORT.to_dict()) == SHORT
    assert GaussianNoise(0.25).fingerprint() == GaussianNoise(0.25, copies=1).fingerprint()
    assert GaussianNoise(0.25).fingerprint() != GaussianNoise(0.5).fingerprint()
    with pytest.raises(ValueError, match="did you mean GaussianNoise"):
        Recipe.from_dict({"kind": "GausianNoise"})
    with pytest.raises(ValueError, match="did you mean sigma"):
        GaussianNoise.from_dict({"kind": "GaussianNoise", "sgima": 1})


def test_images_that_are_held_out_are_a_share_of_each_class_and_have_a_split_of_their_own() -> None:
    whole, _ = training._training_set(SHORT, CPU)
    kept, shown = training._training_set(replace(SHORT, held_out=5), CPU)
    held = data.load("digits", "held-out-5")
    assert isinstance(whole, data.Dataset)
    assert isinstance(held, data.Dataset)
    assert isinstance(shown, data.Dataset)
    assert isinstance(kept, data.Dataset)
    assert torch.equal(shown.images, held.images)
    assert sorted(map(bytes, whole.images.numpy())) == sorted(map(bytes, torch.cat([kept.images, held.images]).numpy()))
    assert torch.equal(held.labels.bincount(), (whole.labels.bincount() + 4) // 5)
    assert len(kept) + len(held) == len(whole)
    with pytest.raises(ValueError, match="leaves no image"):
        replace(SHORT, held_out=1)


def test_extra_images_join_every_batch_in_the_ratio_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated images are white here, of class 3; the last batch of real images is smaller, and so is their number."""
    path = tmp_path / "generated.npz"
    np.savez(path, image=np.full((5, 8, 8, 1), 255, np.uint8), label=np.full(5, 3))
    seen, plain = [], GaussianNoise.loss

    def loss(self, model, x, y, t):
        white = x.flatten(1).amin(1) == 1
        seen.append((int((~white).sum()), int(white.sum())))
        assert (y[white] == 3).all()
        return plain(self, model, x, y, t)

    monkeypatch.setattr(GaussianNoise, "loss", loss)
    mixed = replace(SHORT, epochs=1, extra_data=f"npz:{path}", extra_ratio=1.5)
    one = train(mixed, "one", tmp_path, CPU)
    assert seen.pop(0) == (2, 3)  # the trial before anything is written
    assert {real for real, _ in seen} == {64, 1433 % 64}
    assert all(extra == round(1.5 * real) for real, extra in seen)
    assert sum(real for real, _ in seen) == 1433
    other = train(mixed, "other", tmp_path, CPU)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((5, 9, 9, 1), np.uint8), "label": np.zeros(5)}, "does not fit beside digits"),
        ({"image": np.zeros((5, 8, 8, 1), np.uint8), "label": np.full(5, 10)}, "of at most 10 classes, got .* of 11"),
        ({"image": np.zeros((5, 8, 8, 1)), "label": np.zeros(5)}, "image float64"),
        ({"x": np.zeros(5)}, "expected the arrays image"),
    ],
)
def test_extra_images_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "generated.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        train(replace(SHORT, extra_data=f"npz:{tmp_path / 'generated.npz'}"), "run", tmp_path, CPU)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        train(replace(SHORT, extra_data="npz:/nowhere.npz"), "run", tmp_path, CPU)


class TestWeightsToStartFrom:
    def test_a_run_and_its_file_are_the_same_beginning(self, tmp_path: Path) -> None:
        first = train(replace(SHORT, epochs=1), "first", tmp_path, CPU)
        tuned = train(replace(SHORT, epochs=1, seed=1), "tuned", tmp_path, CPU, init=first)
        said = json.loads((tuned / "run.json").read_text())
        assert said["init"] == checksum(architecture(first).state_dict())
        assert train(replace(SHORT, epochs=1, seed=1), "tuned", tmp_path, CPU, first / "model.safetensors") == tuned
        plain = train(replace(SHORT, epochs=1, seed=1), "tuned", tmp_path, CPU)
        assert plain != tuned
        assert "init" not in json.loads((plain / "run.json").read_text())

    def test_training_begins_there(self, tmp_path: Path) -> None:
        first = train(replace(SHORT, epochs=12), "first", tmp_path, CPU)
        still = SGD(lr=1e-12)
        tuned = train(replace(SHORT, epochs=1, optimizer=still), "tuned", tmp_path, CPU, init=first)
        before, after = load(first).state_dict(), load(tuned).state_dict()
        assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)

    def test_killed_it_continues_to_the_same_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = train(replace(SHORT, epochs=1), "first", tmp_path, CPU)
        whole = train(SHORT, "whole", tmp_path, CPU, init=first)
        real, stop = training._save, KeyboardInterrupt()

        def save_and_stop(*args) -> None:
            real(*args)
            raise stop

        monkeypatch.setattr(training, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, "killed", tmp_path, CPU, init=first)
        monkeypatch.setattr(training, "_save", real)
        resumed = train(SHORT, "killed", tmp_path, CPU, init=first)
        assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    def test_other_weights_are_another_run(self, tmp_path: Path) -> None:
        one, other = (train(replace(SHORT, epochs=1, seed=seed), "first", tmp_path, CPU) for seed in (0, 1))
        tuned = {train(replace(SHORT, epochs=1, seed=2), "tuned", tmp_path, CPU, init=start) for start in (one, other)}
        assert len(tuned) == 2

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no file of weights"),
            ("folder", "not a run folder"),
            ({"0.weight": torch.zeros(3)}, "do not fit the model: the file lacks"),
            ("text", "is not a safetensors file"),
        ],
    )
    def test_what_does_not_fit_is_refused_and_nothing_is_written(
        self, content: object, message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "start.safetensors"
        if content == "folder":
            path.mkdir()
        elif content == "text":
            path.write_text("no weights")
        elif isinstance(content, dict):
            save_file(content, path)
        with pytest.raises(ValueError, match=message):
            train(SHORT, "run", tmp_path / "runs", CPU, init=path)
        assert not (tmp_path / "runs").exists()

    def test_the_command_fine_tunes_with_another_method(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = train(replace(SHORT, epochs=2), "first", tmp_path, CPU)
        rest = ["--epochs", "1", "--accelerator", "cpu", "--runs", str(tmp_path / "runs"), "--init", str(first)]
        main(["train", "smoothmix-digits-0.25", *rest])
        (run,) = (tmp_path / "runs").iterdir()
        assert json.loads((run / "run.json").read_text())["init_from"] == str(first / "model.safetensors")
        assert f"start    weights of {first}" in capsys.readouterr().err
