"""Attacks on smoothed classifiers: what must fall falls, nothing falls in a certified ball, foolbox can attack them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import HalfSpace, images
from formats import linear_onnx
from torch import Tensor

from holdfast import Gaussian, Margin, SmoothedClassifier, as_classifier
from holdfast.certification.attack import Smoothed, Strength
from holdfast.cli import main
from holdfast.core.registry import RECIPES
from holdfast.report.curve import Curve
from holdfast.report.facts import attacks_of
from holdfast.training.launch import Machine
from holdfast.training.loop import train

GAUSSIAN = Gaussian(0.25)


def labelled(count: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Images around the boundary of the half space, their classes, and how far they are from it."""
    x = images(count) * 0.6 + 0.2  # so that the range of pixels is far away
    return x, HalfSpace()(x).argmax(1), HalfSpace().score(x).abs()


def test_an_image_falls_where_the_boundary_is_within_the_radius_and_nowhere_else() -> None:
    """A half space smoothed by Gaussian noise is the same half space."""
    x, y, distance = labelled()
    smoothed = Smoothed(HalfSpace(), GAUSSIAN, Strength(steps=8, copies=8, n=2000))
    radius = float(distance.median())
    fallen = smoothed.fallen(x, y, radius, list(range(len(x))))
    near, far = distance < radius - 0.03, distance > radius
    assert near.any()
    assert far.any()
    assert fallen[near].all()
    assert not fallen[far].any()


def test_attacked_images_stay_in_the_ball_and_in_the_range_of_pixels() -> None:
    x, y, _ = labelled()
    smoothed = Smoothed(HalfSpace(), GAUSSIAN, Strength(steps=5, copies=4))
    found = smoothed.attacked(x, y, 0.3)
    assert ((found - x).flatten(1).norm(dim=1) <= 0.3 + 1e-5).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, smoothed.attacked(x, y, 0.3)), "the same seed, the same noise"


def test_what_cannot_be_attacked_is_refused(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    x, y, _ = labelled(2)
    with pytest.raises(ValueError, match="has no gradients"):
        Smoothed(as_classifier(tmp_path / "m.onnx"), GAUSSIAN, Strength(steps=2)).attacked(x, y, 0.1)
    with pytest.raises(ValueError, match="expected a certifier that samples"):
        Smoothed(HalfSpace(), Margin(), Strength())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = replace(RECIPES["gaussian-digits-0.25"], epochs=6)
    return train(recipe, "smoothed", tmp_path_factory.mktemp("runs"), Machine(accelerator="cpu"))


def test_the_command_attacks_a_smoothed_run_and_keeps_what_it_found(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--epsilon", "0.3", "--limit", "30", "--steps", "3", "--copies", "4", "--n", "100", "--device", "cpu"]
    main(["attack", str(run), *asked])
    assert "None of these images is certified" in capsys.readouterr().out
    for path in run.glob("attack-*.json"):
        path.unlink()
    main(["certify", str(run), "--limit", "30", "--n", "200", "--device", "cpu"])
    main(["attack", str(run), *asked])
    assert "inside their radii 0 were broken" in capsys.readouterr().out
    (path,) = run.glob("attack-*.json")
    kept = json.loads(path.read_text())
    assert (kept["attack"]["copies"], kept["attack"]["n"], kept["attack"]["epsilon"]) == (4, 100, 0.3)
    found = kept["found"]
    assert found["total"] == len(kept["images"]) == 30
    assert 0 < found["proven"] <= found["standing"]
    assert found["certified"] == sum(image["prediction"] is not None for image in kept["images"]) > 10
    proven = [image for image in kept["images"] if image["prediction"] == image["label"] and image["radius"] >= 0.3]
    assert len(proven) == found["proven"]
    assert all(image["standing"] for image in proven), "proven and fallen is a contradiction"
    (certified,) = run.glob("certify-*")
    (shown,) = attacks_of(Curve.open(certified))
    assert (shown.epsilon, shown.examples, shown.accuracy.value) == (0.3, 30, found["standing"] / 30)


def test_of_a_run_that_is_certified_in_part_that_part_is_attacked(run: Path, tmp_path: Path) -> None:
    part = shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns("certify-*", "attack-*"))
    main(["certify", str(part), "--every", "20", "--n", "100", "--device", "cpu"])
    asked = ["--epsilon", "0.3", "--limit", "12", "--steps", "2", "--copies", "2", "--n", "100", "--device", "cpu"]
    main(["attack", str(part), *asked])
    (path,) = part.glob("attack-*.json")
    kept = json.loads(path.read_text())
    assert [image["index"] for image in kept["images"]] == list(range(0, 240, 20))
    assert kept["found"]["total"] == 12


def crosses_where_it_can(attacked: Callable[[float], tuple[Tensor, Tensor, Tensor]]) -> None:
    """An attack changes the answer to images that are near the boundary, and to none that is out of its reach."""
    radius = float(labelled()[2].median())
    distance, answers, y = attacked(radius)
    near, far = distance < 0.9 * radius - 0.03, distance > radius
    assert near.any()
    assert (answers[near] == 1 - y[near]).all()
    assert not (answers[far] == 1 - y[far]).any()


class TestFoolbox:
    def attacked(self, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        foolbox = pytest.importorskip("foolbox")
        attacks: Any = foolbox.attacks
        x, y, distance = labelled()
        model = SmoothedClassifier(HalfSpace(), GAUSSIAN, samples=32)
        torch.manual_seed(0)
        attack = attacks.L2ProjectedGradientDescentAttack(steps=10, rel_stepsize=0.2)
        found = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=epsilon)[1]
        assert ((found - x).flatten(1).norm(dim=1) <= epsilon * (1 + 1e-5)).all()
        answers = model.predict(found, n=2000, seed=0)
        return distance, answers, y

    def test_its_attack_follows_the_gradient_of_the_smoothed_classifier(self) -> None:
        crosses_where_it_can(self.attacked)

    def test_a_smoothed_classifier_has_the_mode_of_its_model(self) -> None:
        assert not SmoothedClassifier(HalfSpace(), GAUSSIAN).training
        assert SmoothedClassifier(HalfSpace().train(), GAUSSIAN).training


class TestART:
    """The adversarial-robustness-toolbox."""

    def attacked(self, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        evasion: Any = pytest.importorskip("art.attacks.evasion", reason="adversarial-robustness-toolbox is missing")
        classification: Any = pytest.importorskip("art.estimators.classification")
        x, y, distance = labelled()
        model = SmoothedClassifier(HalfSpace(), GAUSSIAN, samples=32)

        def loss(shares: Tensor, labels: Tensor) -> Tensor:
            return -(labels * shares.log()).sum()

        shape = tuple(x.shape[1:])
        estimator = classification.PyTorchClassifier(model, loss, shape, 2, clip_values=(0, 1), device_type="cpu")
        torch.manual_seed(0)
        attack = evasion.ProjectedGradientDescentPyTorch(
            estimator, norm=2, eps=epsilon, eps_step=0.2 * epsilon, max_iter=10, batch_size=len(x), verbose=False
        )
        found = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
        assert ((found - x).flatten(1).norm(dim=1) <= epsilon * (1 + 1e-5)).all()
        return distance, model.predict(found, n=2000, seed=0), y

    def test_its_attack_follows_the_gradient_of_the_smoothed_classifier(self) -> None:
        crosses_where_it_can(self.attacked)


def test_a_model_of_ones_own_is_attacked_in_the_words_of_certify(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own.py").write_text(f"from holdfast import load\n\ndef make():\n    return load({str(run)!r})\n")
    own = ["--model", "my_own:make", "--dataset", "digits", "gaussian", "--sigma", "0.25", "--device", "cpu"]
    asked = ["--epsilon", "0.3", "--limit", "10", "--steps", "2", "--copies", "2", "--n", "100"]
    main(["attack", *own, *asked])
    said = " ".join(capsys.readouterr().out.split())
    assert "first: holdfast certify --model my_own:make --dataset digits gaussian --sigma 0.25 written" in said
    main(["certify", *own, "--limit", "10", "--n", "200"])
    main(["attack", *own, *asked])
    (written,) = Path("runs").glob("my_own-make-*/attack-*.json")
    kept = json.loads(written.read_text())
    assert kept["found"]["certified"] > 3
    assert kept["found"]["broken"] == 0
    for args, message in (
        (["--model", "my_own:make"], "needs --dataset"),
        (["--model", "my_own:make", str(run)], "not both"),
        ([str(run), "--sigma", "0.5"], "--sigma goes with --model"),
        ([], "expected run folders"),
    ):
        with pytest.raises(SystemExit):
            main(["attack", *args, "--epsilon", "0.3"])
        assert message in " ".join(capsys.readouterr().err.split())
