"""The first look: what is wrong with a classifier is told in plain words, and nothing is told of one that is right."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast import Denoised, Gaussian, Margin
from holdfast.certification.look import first_look
from holdfast.cli import main
from holdfast.core.recipe import DataInfo
from holdfast.data import Dataset

MEAN, STD = (0.3, 0.6, 0.5), (0.1, 0.2, 0.3)
CENTERS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
CENTERS[:, 0] *= 0.5


def data(count: int = 200) -> Dataset:
    """Noisy copies of four pictures."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 4
    images = CENTERS[labels] + 0.03 * torch.randn(count, 3, 8, 8, generator=generator)
    return Dataset(DataInfo("toy", (3, 8, 8), 4, MEAN, STD), "test", (255 * images.clamp(0, 1)).byte(), labels)


class Nearest(nn.Module):
    """The class of the nearest of the four pictures, after what is done to the image first."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.before = before
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return -(self.before(x)[:, None] - CENTERS).flatten(2).norm(dim=2)


def narrow(model: nn.Module) -> nn.Module:
    """Only logits of a user's model: it saturates, so that images far from its own are all of one class."""

    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = model(x)
            far = logits.amax(1, keepdim=True) < -2.5
            return torch.where(far, torch.tensor([1.0, 0.0, 0.0, 0.0]), logits)

    return Narrow().eval()


def scaled(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)


M, S = scaled(MEAN, STD)
IMAGENET = scaled((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_of_a_classifier_that_is_right_nothing_is_told_but_numbers() -> None:
    found = first_look(Nearest(), data(), Gaussian(0.1))
    assert (found.images, found.accuracy, found.noisy, found.stable, found.found) == (200, 1.0, 1.0, 1.0, ())
    assert list(found.words()) == [
        "First look, on 200 images: 100.0 % right; 100.0 % under noise of sigma 0.1, which leaves the class of 100.0 % "
        "as it was."
    ]
    assert first_look(Nearest(), data(50), Margin()).noisy is None


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (lambda x: x / 255, "seems to take pixels from 0 to 255"),
        (lambda x: x * S + M, "seems to take normalized images, by the mean and deviation of toy"),
        (lambda x: x * IMAGENET[1] + IMAGENET[0], "seems to take normalized images"),
        (lambda x: (x - M) / S, "seems to normalize twice, by the mean and deviation of toy"),
        (lambda x: 255 * x, "seems to divide by 255 once more"),
        (lambda x: x.flip(1), "seems to take blue, green, red"),
        (lambda x: 1 - x, "seems to take inverted images"),
    ],
)
def test_images_that_it_does_not_take_so_are_named(before: Callable[[Tensor], Tensor], words: str) -> None:
    inverse = {"divide": lambda x: 255 * x}
    model = narrow(Nearest(inverse.get(words.split()[2], before)))
    found = first_look(model, data())
    assert len(found.found) == 1, found.found
    assert list(found.words())[1] == found.found[0]
    assert re.search(words, found.found[0])
    assert found.found[0].endswith("then 100.0 % would be right.")


def test_another_size_is_named() -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] < 32:
                return x.mean((2, 3))[:, [0, 1, 2, 0]] * torch.tensor([1.0, 0, 0, 0])
            return Nearest()(nn.functional.interpolate(x, (8, 8), mode="bilinear", antialias=True))

    (found,) = first_look(Large().eval(), data()).found
    assert "seems to take images of 32x32 pixels" in found


def test_labels_in_another_order_are_named_with_the_order_that_fits() -> None:
    class Permuted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Nearest()(x)[:, [0, 2, 3, 1]]

    (found,) = first_look(Permuted().eval(), data()).found
    assert found == (
        "Its classes seem to be in another order: 100.0 % would be right if of its classes 1 is 2, 2 is 3, 3 is 1."
    )


def test_a_model_without_weights_is_named_and_no_order_is_read_into_chance() -> None:
    wrong = 0
    for seed in range(8):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
        noise = Dataset(data().info, "test", torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8), data().labels)
        found = first_look(model, noise).found
        wrong += not (len(found) == 1 and "about chance for 4 classes" in found[0])
    assert wrong <= 1, "1 in 100 is right by more than chance, by chance"


def test_noise_that_it_never_saw_is_named() -> None:
    found = first_look(narrow(Nearest()), data(), Gaussian(0.5))
    assert found.noisy is not None
    assert found.noisy < 0.4
    assert "Noise of sigma 0.5 is more than it learned to see through" in found.found[0]
    assert "put a denoiser in front: --denoiser" in found.found[0]
    found = first_look(Denoised(nn.Identity().eval(), narrow(Nearest())), data(), Gaussian(0.5))
    assert found.found[0].endswith("Use a smaller sigma, or train its denoiser for that")


SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10)).eval()

def softplus():
    class Sorted(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10].sort(1).values
    return Sorted().eval()
"""


def test_inspect_and_certify_begin_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"looked_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    main(["inspect", "--model", f"{name}:make", "--dataset", "digits"])
    said = capsys.readouterr().out
    assert said.startswith("First look, on 200 images: ")
    assert "about chance for 10 classes" in said
    assert "aten" not in said.split("identity")[0]
    assert "largest difference of two logits" in said
    main(["inspect", "--model", f"{name}:softplus", "--dataset", "digits", "--sigma", "0.5"])
    said = capsys.readouterr().out
    assert "noise of sigma 0.5" in said
    assert "It can be certified by sampling, not by margin or linf-box: aten.sort" in said
    main(["certify", "--model", f"{name}:make", "--dataset", "digits", "--limit", "2", "--n", "100", "--device", "cpu"])
    assert "First look, on 200 images" in " ".join(capsys.readouterr().err.split())
