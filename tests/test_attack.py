"""`holdfast attack`: true certificates stand, false ones are found, and the numbers are ordered as they must be."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from holdfast.certification.attack import Outcome, attack
from holdfast.certification.images import certify
from holdfast.certifiers.margin import Margin
from holdfast.cli import main
from holdfast.core.certificate import Certificate
from holdfast.core.certifier import Certifier, Classifier, Seed
from holdfast.core.registry import RECIPES
from holdfast.data import load as load_data
from holdfast.opening import load, model_hash
from holdfast.training.launch import Machine
from holdfast.training.loop import train


@dataclass(frozen=True)
class Exaggerated(Certifier):
    """Proves eight times too much."""

    def certify_batch(
        self, classifier: Classifier, x: Tensor, seeds: Sequence[Seed], batch_size: int
    ) -> Iterator[tuple[int, Certificate]]:
        for row, found in Margin().certify_batch(classifier, x, seeds, batch_size):
            yield row, replace(found, radius=8 * found.radius)

    def cap(self) -> float:
        return Margin().cap()

    def samples(self) -> int:
        return Margin().samples()


@pytest.fixture(scope="module", params=["gloro-digits-0.3", "linf-dist-digits-0.1"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = replace(RECIPES[request.param], epochs=6)
    return train(recipe, request.param, tmp_path_factory.mktemp("runs"), Machine(accelerator="cpu"))


def outcome(run: Path, certifier: Certifier, epsilon: float) -> Outcome:
    return attack(load(run), load_data("digits", "test"), certifier, epsilon, limit=100, steps=10, batch_size=60)


def test_no_certificate_is_broken_and_proof_attack_and_accuracy_are_ordered(run: Path) -> None:
    found = outcome(run, Margin(), 0.02)
    assert (found.total, found.broken) == (100, 0)
    assert found.certified > 90
    assert 0 < found.proven <= found.standing


def test_certificates_that_prove_too_much_are_broken(run: Path) -> None:
    assert outcome(run, Exaggerated(), 0.02).broken > 10


def test_the_command_prints_the_counts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["attack", str(run), "--epsilon", "0.02", "--limit", "50", "--steps", "3", "--device", "cpu"])
    assert "inside their radii 0 were broken" in capsys.readouterr().out


def test_the_command_keeps_what_it_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in run.glob("attack-*.json"):
        file.unlink()
    asked = ["attack", str(run), "--epsilon", "0.03", "--limit", "40", "--steps", "3", "--device", "cpu"]
    main([*asked, str(run.parent / "nothing")])
    assert "nothing is not a run folder" in " ".join(capsys.readouterr().err.split())
    (path,) = run.glob("attack-*.json")
    kept = json.loads(path.read_text())
    assert kept["attack"]["epsilon"] == 0.03
    assert kept["attack"]["seed"] == 0
    assert kept["attack"]["model"] == model_hash(load(run))
    assert kept["found"]["total"] == len(kept["images"]) == 40
    assert [image["index"] for image in kept["images"]] == list(range(40))
    assert sum(image["standing"] for image in kept["images"]) == kept["found"]["standing"]
    assert sum(not image["kept"] for image in kept["images"]) == kept["found"]["broken"] == 0
    certificates = certify(load(run), load_data("digits", "test").pixels(slice(0, 40)), Margin())
    if kept["attack"]["certifier"]["kind"] == "Margin":
        assert [image["radius"] for image in kept["images"]] == [proof.radius for proof in certificates]
    main(asked)
    main([*asked, "--seed", "1"])
    assert len(list(run.glob("attack-*.json"))) == 2


def test_what_cannot_be_attacked_is_refused(run: Path) -> None:
    data = load_data("digits", "test")
    with pytest.raises(ValueError, match="epsilon must be positive"):
        attack(load(run), data, Margin(), 0.0)
    with pytest.raises(ValueError, match="no proof for aten"):
        attack(nn.Sequential(nn.Flatten(), nn.LayerNorm(64)).eval(), data, Margin(), 0.1)
