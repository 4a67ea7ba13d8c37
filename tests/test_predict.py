"""`holdfast predict`: single images from files, with what is proven about each."""

import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast import Certificate, certify, data
from holdfast.certification.images import predict
from holdfast.certification.run import Given
from holdfast.certifiers.gaussian import Gaussian
from holdfast.certifiers.margin import Margin
from holdfast.cli import main
from holdfast.core.recipe import Recipe
from holdfast.core.registry import RECIPES
from holdfast.data.pictures import read_picture
from holdfast.opening import load
from holdfast.training.launch import Machine
from holdfast.training.loop import train

IMAGES = data.load("digits", "test").raw(slice(None))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe: Recipe = RECIPES["gaussian-digits-0.25"].replace(epochs=10)
    return train(recipe, "run", tmp_path_factory.mktemp("runs"), Machine(accelerator="cpu"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three digits as image files: grey, in color, and twice as large."""
    monkeypatch.chdir(tmp_path)
    grey = [Image.fromarray(image[0].numpy()) for image in IMAGES[:3]]
    paths = [Path("grey.png"), Path("color.png"), Path("large.png")]
    for image, path in zip([grey[0], grey[1].convert("RGB"), grey[2].resize((16, 16))], paths, strict=True):
        image.save(path)
    return paths


def test_the_certificate_of_a_file_is_that_of_its_pixels(
    run: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", str(run), *map(str, files), "--n", "500", "--seed", "3", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(path) for path in files]
    x = data.load("digits", "test").pixels(slice(0, 2))
    expected = certify(load(run), x, Gaussian(0.25, n=500), seed=3)
    for line, certificate in zip(lines, expected, strict=False):
        assert certificate.prediction is not None
        assert line.split(": ")[1].startswith(str(certificate))
        assert re.search(r", \d+\.\d s$", line)


def test_words_and_options_stand_in_any_order_behind_the_model(
    run: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for order in (
        "{run} {image} at-radius --r 0.1 --n-max 500 --seed 1",
        "--r 0.1 --n-max 500 {run} --seed 1 at-radius {image}",
    ):
        main(["predict", *order.format(run=run, image=files[0]).split(), "--device", "cpu"])
        said.append(capsys.readouterr().out.rpartition(",")[0])
    assert said[0] == said[1]
    assert "radius 0.1000 in l2 (pixels in [0, 1]), confidence 0.999" in said[0]


def test_a_model_of_ones_own_is_given_images_as_they_are(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    Path("classifier_here.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    main(["predict", "classifier_here:make", "grey.png", "--n", "100", "--device", "cpu"])
    assert "grey.png: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["predict", "classifier_here:make", "color.png", "--n", "100", "--device", "cpu"])
    assert "does not take images of shape (3, 8, 8)" in " ".join(capsys.readouterr().err.split())
    main(["predict", "classifier_here:make", "color.png", "--shape", "1", "8", "8", "--n", "100", "--device", "cpu"])
    assert "color.png: " in capsys.readouterr().out


def test_what_cannot_be_read_is_named_and_the_rest_is_done(
    run: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("no image")
    main(["predict", str(run), "text.png", "grey.png", "absent.png", "--n", "100", "--device", "cpu"])
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert "left out: text.png cannot be read as an image" in said.err
    assert "left out: there is no image absent.png" in said.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["predict"], "expected the folder of a run"),
        (["predict", "RUN"], "expected at least one image"),
        (["predict", "RUN", "absent.png"], "there is no image absent.png"),
        (["predict", "nowhere", "grey.png"], "not a run folder"),
        (["predict", "RUN", "gaussian", "adaptive", "grey.png"], "expected one certifier"),
        (["predict", "RUN", "grey.png", "--weights", "w.pt"], "a run folder has its own weights"),
        (["predict", "RUN", "grey.png", "--precision", "8"], "unknown precision"),
        (["predict", "RUN", "grey.png", "--shape", "2", "8", "8"], "1 or 3 channels"),
    ],
)
@pytest.mark.usefixtures("files")
def test_a_mistake_gets_one_clear_line(
    args: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(run) if arg == "RUN" else arg for arg in args])
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_deterministic_proof_is_shared_by_images_and_equals_that_of_a_batch(tmp_path: Path) -> None:
    recipe = RECIPES["gloro-digits-0.3"].replace(epochs=1)
    model = load(train(recipe, "run", tmp_path, Machine(accelerator="cpu")))
    x = data.load("digits", "test").pixels(slice(0, 4))
    found = list(predict(Given(model), list(x), Margin(), device="cpu"))
    assert [one.certificate for one in found] == certify(model, x, Margin())
    assert len({one.seconds for one in found}) == 1


class TestPictures:
    def test_grey_and_color_become_what_is_asked_for(self, files: list[Path]) -> None:
        grey = read_picture(files[0])
        assert torch.equal(grey, IMAGES[0].float() / 255)
        assert torch.equal(read_picture(files[0], (3, 8, 8)), grey.expand(3, 8, 8))
        assert read_picture(files[1]).shape == (3, 8, 8)
        assert torch.equal(read_picture(files[1], (1, 8, 8)), IMAGES[1].float() / 255)

    def test_sixteen_bits_keep_their_values(self, tmp_path: Path) -> None:
        values = np.array([[0, 1], [257, 65535]], dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / "deep.png")
        found = read_picture(tmp_path / "deep.png", (1, 2, 2))
        assert torch.equal(found[0], torch.from_numpy(values.astype(np.float32) / 65535))

    def test_the_right_proportions_are_scaled_and_others_refused(self, files: list[Path], tmp_path: Path) -> None:
        found = read_picture(files[2], (1, 8, 8))
        assert found.shape == (1, 8, 8)
        assert found.min() >= 0
        assert found.max() <= 1
        Image.new("L", (16, 9)).save(tmp_path / "wide.png")
        with pytest.raises(ValueError, match="9 pixels high and 16 wide, and the model takes 8 by 8"):
            read_picture(tmp_path / "wide.png", (1, 8, 8))

    def test_transparent_parts_are_refused_and_opaque_ones_are_not(self, tmp_path: Path) -> None:
        Image.new("RGBA", (2, 2), (255, 0, 0, 255)).save(tmp_path / "opaque.png")
        assert read_picture(tmp_path / "opaque.png").tolist()[0] == [[1, 1], [1, 1]]
        Image.new("RGBA", (2, 2), (255, 0, 0, 254)).save(tmp_path / "glass.png")
        with pytest.raises(ValueError, match="transparent parts"):
            read_picture(tmp_path / "glass.png")


@pytest.mark.parametrize("radius", [0.1234999999999, 0.5, 1 / 3, 1e-7, 12345.678, 0.12340000000000001, 2 / 3])
def test_a_radius_in_words_is_never_above_the_proven_one(radius: float) -> None:
    words = str(Certificate(3, radius, "l2", 0.999))
    shown = Decimal(words.split("radius ")[1].split()[0])
    assert Decimal(radius) * Decimal("0.999") < shown <= Decimal(radius)


def test_a_statement_that_may_be_wrong_is_never_told_as_certain() -> None:
    assert str(Certificate(3, 1.0, "linf", 1 - 1e-15)).endswith("confidence 0.999999999999999")
    assert str(Certificate(None, 0.0, "linf", 0.9)) == "abstains"
