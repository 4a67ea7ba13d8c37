"""A denoiser before a classifier: what it computes, how it is trained, and that both are named by what is proven."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import HalfSpace, images
from formats import linear_onnx
from PIL import Image
from torch import Tensor, nn

from holdfast import Denoised, Gaussian, Method, as_classifier, certify, certify_run
from holdfast.certification.identity import model_hash
from holdfast.cli import main
from holdfast.core.registry import RECIPES
from holdfast.formats.export import write_pt2
from holdfast.formats.opened import open_denoiser
from holdfast.methods.denoise import Denoise
from holdfast.nn.denoised import DiffusionDenoiser, DnCNN, Prediction
from holdfast.nn.stored import captured
from holdfast.opening import Source, load
from holdfast.program import capture
from holdfast.runs.certified import read
from holdfast.training.launch import Machine
from holdfast.training.loop import train


class Shift(nn.Module):
    """Darker by a number."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x - self.by


class TestDenoised:
    def test_the_noise_goes_through_the_denoiser_and_then_the_classifier(self) -> None:
        x, z = images(3), images(3) + 0.1
        assert torch.equal(Denoised(Shift(0.1), HalfSpace())(z), HalfSpace()(z - 0.1))
        shifted = certify(Denoised(Shift(0.1), HalfSpace()), x, Gaussian(0.5, n=300), seed=0)
        assert shifted == certify(lambda z: HalfSpace()(z - 0.1), x, Gaussian(0.5, n=300), seed=0)

    def test_its_identity_is_that_of_both_parts(self) -> None:
        hashes = {model_hash(Denoised(Shift(by), model)) for by in (0.1, 0.2) for model in (HalfSpace(), Shift(0))}
        assert len(hashes) == 4

    def test_a_run_of_both_names_both(self, tmp_path: Path) -> None:
        model = Denoised(Shift(0.1), Digits())
        certify_run(model, "digits", Gaussian(0.25, n=100), limit=1, runs=tmp_path, device="cpu")
        (path,) = tmp_path.glob("*/certify-*/run.json")
        told = json.loads(path.read_text())["model"]
        assert told == {
            "classifier": {"identity": model_hash(Digits())},
            "denoiser": {"identity": model_hash(Shift(0.1))},
        }

    def test_it_is_a_program(self) -> None:
        torch.manual_seed(0)
        model = Denoised(DnCNN(3, 4, 3).eval(), nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval())
        assert torch.allclose(capture(model, (3, 4, 4))(images(3)), model(images(3)), atol=1e-6)

    def test_what_makes_no_images_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"the denoiser made \(1, 2\) of images of shape \(1, 3, 4, 4\)"):
            Denoised(HalfSpace(), HalfSpace())(images(1))
        with pytest.raises(ValueError, match=r"that are torch\.nn\.Module, got function"):
            Denoised(lambda x: x, HalfSpace())  # pyright: ignore[reportArgumentType]


class TestDnCNN:
    def test_it_has_the_published_shape_and_begins_as_the_identity(self) -> None:
        network = DnCNN(3)
        kinds = [type(layer).__name__ for layer in network.noise]
        assert kinds == ["Conv2d", "ReLU", *["Conv2d", "BatchNorm2d", "ReLU"] * 15, "Conv2d"]
        assert sum(p.numel() for p in network.parameters()) == 3 * 64 * 9 + 64 + 15 * (64 * 64 * 9 + 128) + 64 * 3 * 9
        assert torch.equal(network(images(2)), images(2))


class TestTraining:
    def test_mse_is_the_error_of_the_denoised_image(self) -> None:
        x = images(64)
        assert float(Denoise(0.1).loss(nn.Identity(), x, torch.zeros(64), 0)) == pytest.approx(0.01, rel=0.1)
        assert float(Denoise(1e-9).loss(Shift(0.5), x, torch.zeros(64), 0)) == pytest.approx(0.25, rel=1e-4)

    def test_stability_is_the_cross_entropy_with_the_class_of_the_clean_image(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        classifier = HalfSpace()
        monkeypatch.setattr("holdfast.methods.denoise.open_model", lambda name, allow_pickle: classifier)
        method, x = Denoise(1e-9, "stability", "mine"), images(32)
        logits = classifier(x - 0.05)
        expected = F.cross_entropy(logits, classifier(x).argmax(1))
        found = method.loss(Shift(0.05), x, torch.zeros(32, dtype=torch.int64), 0)  # whatever the labels are
        assert float(found) == pytest.approx(float(expected), rel=1e-4)

    def test_the_classifier_stays_frozen_and_the_denoiser_learns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        classifier = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
        before = [p.clone() for p in classifier.parameters()]
        monkeypatch.setattr("holdfast.methods.denoise.open_model", lambda name, allow_pickle: classifier)
        for method in (Denoise(0.5), Denoise(0.5, "stability", "mine")):
            network = DnCNN(3, 8, 4)
            optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
            losses = []
            for _ in range(60):
                loss = method.loss(network, images(64), torch.zeros(64), 0)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            assert sum(losses[-10:]) < 0.8 * sum(losses[:10]), method
        assert all(torch.equal(one, other) for one, other in zip(before, classifier.parameters(), strict=True))
        assert not any(p.requires_grad for p in classifier.parameters())

    def test_a_pt2_file_is_a_frozen_classifier_where_pickles_are_allowed(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        classifier, file = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval(), tmp_path / "m.pt2"
        write_pt2(classifier, (3, 4, 4), file)
        x, network = images(32), DnCNN(3, 4, 3)
        found = Denoise(1e-9, "stability", str(file), allow_pickle=True).loss(network, x, torch.zeros(32), 0)
        expected = F.cross_entropy(classifier(x), classifier(x).argmax(1))
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
        found.backward()
        assert any(p.grad is not None and p.grad.any() for p in network.parameters())
        with pytest.raises(ValueError, match="if you trust it, add --allow-pickle"):
            Denoise(1e-9, "stability", str(file)).loss(network, x, torch.zeros(32), 0)

    def test_what_cannot_be_trained_is_refused(self, tmp_path: Path) -> None:
        linear_onnx(tmp_path / "m.onnx")
        network, y = DnCNN(3, 4, 3), torch.zeros(2)
        with pytest.raises(ValueError, match="has no gradients; train its denoiser with --objective mse"):
            Denoise(0.25, "stability", str(tmp_path / "m.onnx")).loss(network, images(2), y, 0)
        with pytest.raises(ValueError, match="needs the classifier that it is for"):
            Denoise(0.25, "stability").loss(network, images(2), y, 0)
        with pytest.raises(ValueError, match="mse asks no classifier; it goes with --objective stability"):
            Denoise(0.25, classifier="mine").loss(network, images(2), y, 0)
        with pytest.raises(ValueError, match="objective to be one of mse, stability, got 'l1'"):
            Denoise(0.25, "l1")  # pyright: ignore[reportArgumentType]
        assert Method.from_dict(Denoise(0.5, "stability", "x").to_dict()) == Denoise(0.5, "stability", "x")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, cpu = tmp_path_factory.mktemp("runs"), Machine(accelerator="cpu")
    names = {"classifier": "gaussian-digits-0.25", "denoiser": "denoise-digits-0.25"}
    return {part: train(replace(RECIPES[name], epochs=3), name, folder, cpu) for part, name in names.items()}


class TestCommands:
    ASKED = ("--dataset", "digits", "--limit", "3", "--n", "100", "--device", "cpu")

    @pytest.mark.parametrize("own", [True, False], ids=["model", "run"])
    def test_a_denoiser_is_certified_with_its_classifier_and_both_are_named(
        self, runs: dict[str, Path], own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        named = ["--model", str(runs["classifier"])] if own else [str(runs["classifier"])]
        main(["certify", *named, "--denoiser", str(runs["denoiser"]), *self.ASKED])
        (folder,) = Path("runs").glob("*/certify-*")
        assert runs["denoiser"].name + "+" + runs["classifier"].name in folder.parent.name
        told = json.loads((folder / "run.json").read_text())
        model = Denoised(load(runs["denoiser"]), load(runs["classifier"]))
        assert told["certification"]["model"] == captured(model, (1, 8, 8)).identity[:16]
        assert told["model"] == {
            "classifier": {"from": str(runs["classifier"]), "identity": model_hash(model.classifier)},
            "denoiser": {"from": str(runs["denoiser"]), "identity": model_hash(model.denoiser)},
        }

    def test_a_denoiser_alone_is_no_classifier_and_a_classifier_no_denoiser(
        self, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        classifier, denoiser = str(runs["classifier"]), str(runs["denoiser"])
        for args, message in (
            ([denoiser], f"--denoiser {denoiser}"),
            (["--model", classifier, "--denoiser", classifier], "is a classifier; expected a denoiser"),
            (["--model", classifier, "--denoiser", "diffusers:./none"], "cannot be had"),
            (["--model", classifier, "--denoiser", "m.onnx"], "there is no denoiser m.onnx; expected a run folder"),
        ):
            with pytest.raises(SystemExit):
                main(["certify", *args, *self.ASKED])
            assert message in " ".join(capsys.readouterr().err.split())
        assert not Path("runs").exists()
        with pytest.raises(SystemExit):
            main(["attack", denoiser, "--epsilon", "0.2"])
        assert f"{denoiser} is no classifier" in " ".join(capsys.readouterr().err.split())

    def test_noise_that_the_denoiser_was_not_trained_for_is_told(
        self, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        classifier, denoiser = str(runs["classifier"]), str(runs["denoiser"])
        for sigma, told in (("0.25", False), ("0.5", True)):
            main(["certify", classifier, "--denoiser", denoiser, "gaussian", "--sigma", sigma, *self.ASKED])
            said = " ".join(capsys.readouterr().err.split())
            words = f"The denoiser {denoiser} was trained with noise of sigma 0.25 and is certified at {sigma}."
            assert (words in said) == told, said

    def test_predict_and_inspect_take_a_denoiser_too(
        self, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        picture = Image.new("L", (8, 8), 128)
        picture.save("grey.png")
        both = Denoised(load(runs["denoiser"]), load(runs["classifier"]))
        named = [str(runs["classifier"]), "--denoiser", str(runs["denoiser"])]
        main(["predict", *named, "gaussian", "grey.png", "--n", "100", "--seed", "3", "--device", "cpu"])
        certificate = str(certify(both, picture, Gaussian(0.25, n=100), seed=3)[0])
        assert f"grey.png: {certificate.replace(chr(10), ' ')}" in " ".join(capsys.readouterr().out.split())
        main(["inspect", *named, "--dataset", "digits", "--no-constants"])
        shown = capsys.readouterr().out
        assert captured(both, (1, 8, 8)).identity in shown
        assert "eval_with_key" not in shown
        assert re.search(r"denoiser\.noise\.0 +denoised\.py:\d+: return x - self\.noise\(x\)", shown)

    def test_an_attack_goes_through_the_denoiser_to_the_certificates_of_both(
        self, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        named = [str(runs["classifier"]), "--denoiser", str(runs["denoiser"])]
        asked = ["--epsilon", "0.2", "--limit", "40", "--steps", "2", "--copies", "2", "--n", "100", "--device", "cpu"]
        main(["attack", *named, *asked])
        assert f"first: holdfast certify {' '.join(named)}" in " ".join(capsys.readouterr().out.split())
        main(["certify", *named, "--limit", "40", "--n", "100", "--runs", str(runs["classifier"].parent)])
        main(["attack", *named, *asked])
        said = " ".join(capsys.readouterr().out.split())
        (written,) = runs["classifier"].parent.glob("*+*/attack-*.json")
        told = json.loads(written.read_text())
        both = captured(Denoised(load(runs["denoiser"]), load(runs["classifier"])), (1, 8, 8)).identity[:16]
        assert told["attack"]["model"] == both
        assert written.parent.name.endswith(both)
        (folder,) = written.parent.glob("certify-*")
        certified = sum(record.certificate.prediction is not None for record in read(folder))
        assert told["found"]["certified"] == certified > 0
        assert f"{certified} of 40 images certified; inside their radii 0 were broken" in said

    def test_training_shows_a_loss_and_says_what_comes_next(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = ["--epochs", "1", "--runs", str(tmp_path), "--accelerator", "cpu"]
        main(["train", "denoise-digits-0.25", *asked])
        said = capsys.readouterr().out
        assert "next:    holdfast certify --model NAME --denoiser" in said
        assert "accuracy" not in said


class Unet(nn.Module):
    """Answers what it was made to, and notes what it was asked."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer, self.asked = answer, []
        self.eval()

    def forward(self, x: Tensor, steps: Tensor) -> SimpleNamespace:
        self.asked.append((x, steps))
        return SimpleNamespace(sample=self.answer(x))


ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


class TestDiffusion:
    @pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
    def test_the_step_is_the_one_with_that_noise(self, sigma: float) -> None:
        denoiser = DiffusionDenoiser(Unet(torch.zeros_like), ALPHAS, sigma)
        levels = ((1 - ALPHAS) / ALPHAS).sqrt()
        assert denoiser.kept == ALPHAS[denoiser.step]
        assert abs(float(levels[denoiser.step]) / (2 * sigma) - 1) < 0.02
        beside = levels[[denoiser.step - 1, denoiser.step + 1]]
        assert ((beside / (2 * sigma)).log().abs() >= abs(math.log(float(levels[denoiser.step]) / (2 * sigma)))).all()

    @pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
    @pytest.mark.parametrize("learned_variance", [False, True])
    def test_a_model_that_knows_the_noise_gives_back_the_image(
        self, prediction: Prediction, learned_variance: bool
    ) -> None:
        """With the noise that its step has, exactly: 2 sigma = sqrt((1 - a) / a)."""
        generator = torch.Generator().manual_seed(0)
        clean, noise = images(4), torch.randn(4, 3, 4, 4, generator=generator)
        step = 300
        signal, rest = ALPHAS[step].sqrt().float(), (1 - ALPHAS[step]).sqrt().float()
        sigma = float(rest / signal) / 2
        truth = {"epsilon": noise, "v_prediction": signal * noise - rest * (2 * clean - 1), "sample": 2 * clean - 1}
        answer = truth[prediction]
        unet = Unet(lambda x: torch.cat([answer, 7 * answer], 1) if learned_variance else answer)
        denoiser = DiffusionDenoiser(unet, ALPHAS, sigma, prediction)
        assert torch.allclose(denoiser(clean + sigma * noise), clean, atol=1e-4)
        ((seen, steps),) = unet.asked
        assert steps.tolist() == [step] * 4
        assert torch.allclose(seen, signal * (2 * clean - 1) + rest * noise, atol=1e-5)

    def test_noise_that_no_step_has_is_refused(self) -> None:
        for sigma in (1e-5, 1e9):
            with pytest.raises(ValueError, match="knows noise of sigma"):
                DiffusionDenoiser(Unet(torch.zeros_like), ALPHAS, sigma)
        with pytest.raises(ValueError, match="predicts one of"):
            DiffusionDenoiser(Unet(torch.zeros_like), ALPHAS, 0.25, "flow")  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(("prediction", "out"), [("epsilon", 2), ("v_prediction", 1)])
    def test_a_folder_of_diffusers_is_a_denoiser_and_its_schedule_part_of_what_it_is(
        self, prediction: str, out: int, tmp_path: Path
    ) -> None:
        import diffusers

        library: Any = diffusers
        DDPMScheduler, UNet2DModel = library.DDPMScheduler, library.UNet2DModel
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=out, block_out_channels=(8,), norm_num_groups=2,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), layers_per_block=1,
        ).eval()  # fmt: skip
        unet.save_pretrained(tmp_path / "unet")
        schedule = DDPMScheduler(prediction_type=prediction)
        schedule.save_pretrained(tmp_path / "scheduler")
        x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        found = open_denoiser(f"diffusers:{tmp_path}", 0.25)
        assert isinstance(found, DiffusionDenoiser)
        by_hand = DiffusionDenoiser(unet, schedule.alphas_cumprod, 0.25, prediction)  # pyright: ignore[reportArgumentType]
        assert torch.allclose(found(x), by_hand(x), atol=1e-6)
        kept = schedule.alphas_cumprod[found.step]
        noisy = kept.sqrt() * (2 * x - 1)
        answer = unet(noisy, torch.full((2,), found.step)).sample[:, :1]
        step = DDPMScheduler(prediction_type=prediction, variance_type="fixed_small")
        expected = step.step(answer, found.step, noisy).pred_original_sample
        assert torch.allclose(found(x), (expected + 1) / 2, atol=1e-4)
        assert model_hash(open_denoiser(f"diffusers:{tmp_path}", 0.5)) != model_hash(found)
        assert certify(Denoised(found, Digits()), x, Gaussian(0.25, n=100))

    def test_a_folder_without_a_schedule_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no UNet2DModel that can be read"):
            open_denoiser(f"diffusers:{tmp_path}", 0.25)
        with pytest.raises(ValueError, match="expected a certifier that samples"):
            open_denoiser(f"diffusers:{tmp_path}")


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]


def test_a_source_with_a_denoiser_can_be_sent_to_another_process() -> None:
    import pickle

    source = Source("m.onnx", denoiser="runs/d", sigma=0.25)
    assert pickle.loads(pickle.dumps(source)) == source
    assert as_classifier(Denoised(Shift(0), HalfSpace()))
