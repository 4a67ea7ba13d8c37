"""What certification does to a model and to images: nothing; and what it refuses, in words that say what to do."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import CERTIFIERS, Case, Constant, HalfSpace, brighter_pixel, grey, images
from torch import Tensor, nn

from holdfast import Certifier, Gaussian, Margin, SmoothedClassifier, certify
from holdfast.certification.checks import check
from holdfast.certification.driver import certify_share
from holdfast.certification.task import Certification, open_certification
from holdfast.core.certifier import Seed
from holdfast.core.recipe import DataInfo
from holdfast.data import Dataset
from holdfast.runs.records import read_records

GAUSSIAN = Gaussian(0.5, n=300)


class Changing(nn.Module):
    """A model that leaves other pixels, in another shape, in the batch that it was given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x.clone())
        x.mul_(-7).sub_(3)
        x.transpose_(1, 3)
        return logits


class ChangingHalfSpace(HalfSpace):
    """The half space, in place."""

    def score(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).flatten(1) @ self.get_buffer("w").to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        return torch.stack([score, -score], 1) / 2


SAMPLING = [name for name in CERTIFIERS if not name.startswith(("margin", "linf", "split"))]


class TestWhatAModelDoesToItsInputItDoesToACopy:
    @pytest.mark.parametrize("case", [CERTIFIERS[name] for name in SAMPLING], ids=SAMPLING)
    def test_certificates_by_sampling_are_the_same_and_the_images_stay(self, case: Case) -> None:
        x = images(3)
        found = certify(Changing(case.classifier()), x, case.certifier, seed=0, batch_size=37)
        assert torch.equal(x, images(3))
        assert found == certify(case.classifier(), images(3), case.certifier, seed=0, batch_size=37)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_certificates_by_margin_are_the_same_and_the_images_stay(self, dtype: torch.dtype) -> None:
        model, plain, margin = ChangingHalfSpace(), HalfSpace(), CERTIFIERS["margin"].certifier
        x = images(5).to(dtype)
        found = certify(model.to(dtype), x, margin)
        assert torch.equal(x, images(5).to(dtype))
        assert found == certify(plain.to(dtype), images(5).to(dtype), margin)
        list(margin.certify_batch(model, x, [Seed(0, i) for i in range(5)], 2))
        assert torch.equal(x, images(5).to(dtype))

    def test_a_left_half_that_works_in_place_is_certified_for_the_images_as_they_were(self) -> None:
        from holdfast.nn.split import SplitClassifier

        def model(inplace: bool) -> nn.Module:
            left = nn.Sequential(nn.ReLU(inplace))
            return SplitClassifier(left, HalfSpace()).double().eval()

        split = CERTIFIERS["split"].certifier
        x = images(2).double()
        assert certify(model(True), x, split, seed=0) == certify(model(False), x, split, seed=0)
        assert torch.equal(x, images(2).double())

    def test_predictions_leave_the_images_alone(self) -> None:
        x = images(6)
        found = SmoothedClassifier(Changing(HalfSpace()), GAUSSIAN).predict(x, seed=0)
        assert torch.equal(x, images(6))
        assert torch.equal(found, SmoothedClassifier(HalfSpace(), GAUSSIAN).predict(x, seed=0))

    def test_the_first_image_of_a_data_set_is_certified_as_it_is(self, tmp_path) -> None:
        data = Dataset(
            DataInfo("toy", (3, 4, 4), 2, (0.5,) * 3, (0.5,) * 3), "test", (images(4) * 255).byte(), torch.ones(4)
        )
        task = Certification(GAUSSIAN, model="m", dataset="toy")
        for model in (Changing(HalfSpace()), HalfSpace()):
            folder = tmp_path / type(model).__name__
            open_certification(task, folder, data, "toy")
            certify_share(task, model, data, folder, visible=False, identity=task.model)
        assert read_records(tmp_path / "Changing") == read_records(tmp_path / "HalfSpace")


class BatchMean(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)).flatten(1)[:, :3]


class BatchMaximum(nn.Module):
    """Looks at the batch by comparison, in which a NaN does not show."""

    def forward(self, x: Tensor) -> Tensor:
        dark = (x > 0.1).float().flatten(1).sum(1)
        return torch.stack([dark - dark.max(), x.flatten(1)[:, 0]], 1)


class Shifted(nn.Module):
    """Answers for the image before."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].roll(1, 0)


class InBytes(nn.Module):
    """Takes a batch for one of bytes where any pixel is above 1, as with noise some always is."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 255 if x.max() > 1 else x).flatten(1)[:, :3] + torch.tensor([0.0, 0.1, 0.2])


class InSigns(nn.Module):
    """Takes a batch for one in [-1, 1] where any pixel is below 0."""

    def forward(self, x: Tensor) -> Tensor:
        return ((x + 1) / 2 if x.min() < 0 else x).flatten(1)[:, :3] + torch.tensor([0.0, 0.1, 0.2])


class Drawn(nn.Module):
    """Answers at random."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.rand(len(x), 3)


class TestRowsThatInfluenceEachOther:
    @pytest.mark.parametrize(
        "model",
        [BatchMean(), BatchMaximum(), Shifted(), Drawn(), InBytes(), InSigns()],
        ids=lambda m: type(m).__name__,
    )
    @pytest.mark.parametrize("count", [1, 4])
    def test_are_refused(self, model: nn.Module, count: int) -> None:
        with pytest.raises(ValueError, match="changes with the images beside it in a batch, or from call to call"):
            certify(model.eval(), images(count), GAUSSIAN)

    @pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm])
    def test_batch_normalisation_without_running_statistics_is_refused_by_name(self, norm: type) -> None:
        model = nn.Sequential(nn.Identity(), norm(3, track_running_stats=False), nn.Flatten()).eval()
        with pytest.raises(ValueError, match=f"its part '1', a {norm.__name__} without running statistics"):
            check(model, images(2))

    @pytest.mark.parametrize(
        "norm",
        [nn.BatchNorm2d(3), nn.InstanceNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm([3, 4, 4]), nn.LocalResponseNorm(2)],
        ids=lambda norm: type(norm).__name__,
    )
    def test_other_normalisation_is_not(self, norm: nn.Module) -> None:
        check(nn.Sequential(norm, nn.Flatten()).eval(), images(2))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_rounding_is_none(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)]
        check(nn.Sequential(*layers).eval().to(dtype), images(2).to(dtype))

    def test_nor_is_an_answer_that_is_never_a_number(self) -> None:
        check(Constant((float("nan"), float("inf"))), grey(1))


@pytest.mark.parametrize(
    "asked",
    [lambda x: torch.is_grad_enabled(), lambda x: torch.is_inference_mode_enabled(), lambda x: x.requires_grad],
    ids=["grad-enabled", "inference-mode", "requires-grad"],
)
def test_a_model_that_answers_otherwise_outside_of_certification_is_refused(asked: Callable[[Tensor], bool]) -> None:
    class Aware(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) * (1 if asked(x) else -1)

    with pytest.raises(ValueError, match="answers otherwise where torch records gradients"):
        check(Aware().eval(), torch.rand(2, 1, 2, 2))


def test_a_model_without_weights_is_refused_before_it_draws_some() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3)).eval()
    with pytest.raises(ValueError, match="no weights yet: its part '1', a LazyLinear"):
        check(model, torch.rand(2, 1, 2, 2))


class Crowded(HalfSpace):
    """Changes its mind about some rows of large batches."""

    def __init__(self, rows: slice) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        sign = torch.ones(len(x), 1, dtype=x.dtype)
        sign[self.rows if len(x) >= 64 else slice(0)] = -1
        return sign * super().forward(x)


@pytest.mark.parametrize("rows", [slice(None), slice(40, None), slice(-1, None)], ids=["all", "late", "last"])
def test_a_model_that_answers_otherwise_in_the_batches_of_the_run_is_refused(rows: slice) -> None:
    with pytest.raises(ValueError, match="otherwise in batches of 64 than in batches of 3"):
        certify(Crowded(rows).eval(), images(1), GAUSSIAN, batch_size=64)
    certify(Crowded(rows).eval(), images(1), GAUSSIAN, batch_size=32)


class Alone(HalfSpace):
    """Changes its mind about an image that comes alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (-1 if len(x) == 1 else 1)


@pytest.mark.parametrize("certifier", [GAUSSIAN, Margin()])
def test_a_model_that_answers_otherwise_to_one_image_alone_is_refused(certifier: Certifier) -> None:
    with pytest.raises(ValueError, match="otherwise in batches of 1 than in batches of 3"):
        certify(Alone().eval(), images(2), certifier)


class Drifting(HalfSpace):
    """Changes its mind after some calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Drifting.calls += 1
        return super().forward(x) * (-1 if Drifting.calls > 20 else 1)


def test_a_model_that_changes_while_its_votes_are_counted_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Drifting, "calls", 0)
    with pytest.raises(ValueError, match="answers otherwise than before it was certified"):
        certify(Drifting().eval(), images(4), GAUSSIAN, batch_size=32)
    monkeypatch.setattr(Drifting, "calls", 0)
    info = DataInfo("drift", (3, 4, 4), 2, (0.5,) * 3, (0.5,) * 3)
    data = Dataset(info, "test", (images(4) * 255).byte(), torch.ones(4))
    task, model = Certification(GAUSSIAN, "drift", "drift"), Drifting().eval()
    open_certification(task, tmp_path / "run", data, "drift")
    with pytest.raises(ValueError, match="answers otherwise than before it was certified"):
        certify_share(task, model, data, tmp_path / "run", identity="drift", batch_size=32, visible=False)


@pytest.mark.parametrize("certifier", [GAUSSIAN, Margin()])
def test_no_function_is_certified_inside_of_autocast(certifier: Certifier) -> None:
    with torch.autocast("cpu"), pytest.raises(ValueError, match=r"torch\.autocast is on"):
        certify(HalfSpace().eval(), images(2), certifier)


class Eight(nn.Module):
    """Takes batches of eight images alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(8, 48)[:, :3] + 0 * x.flatten(1)[:, :3]


def test_a_model_for_batches_of_one_size_is_certified_at_that_size() -> None:
    (found,) = certify(Eight().eval(), images(1), GAUSSIAN, seed=0, batch_size=8)
    assert sum(found.evidence["votes"].values()) == 300
    with pytest.raises(ValueError, match="does not take images"):
        certify(Eight().eval(), images(1), GAUSSIAN, batch_size=16)


class Viewing(nn.Module):
    """Flattens by `view`, which a batch in channels-last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(len(x), -1)


class ViewingFirst(Viewing):
    """The same, of the image itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


@pytest.mark.parametrize("kind", [Viewing, ViewingFirst])
def test_a_model_that_flattens_by_view_is_certified(kind: Callable[[], nn.Module], tmp_path) -> None:
    model = kind()
    found = certify(model, images(2), GAUSSIAN, seed=0)
    assert found == certify(lambda x: model(x.contiguous()), images(2), GAUSSIAN, seed=0)
    assert (SmoothedClassifier(model, GAUSSIAN).predict(images(2), n=20) >= -1).all()
    data = Dataset(
        DataInfo("toy", (3, 4, 4), 2, (0.5,) * 3, (0.5,) * 3), "test", (images(4) * 255).byte(), torch.ones(4)
    )
    task = Certification(GAUSSIAN, model="m", dataset="toy")
    open_certification(task, tmp_path / "run", data, "toy")
    certify_share(task, model, data, tmp_path / "run", visible=False, identity=task.model)
    assert len(read_records(tmp_path / "run")) == 4


class TestNoise:
    def test_without_a_seed_every_call_draws_afresh_and_says_so(self) -> None:
        one, other = (certify(HalfSpace(), grey(1), GAUSSIAN)[0] for _ in range(2))
        assert one.evidence["seed"] != other.evidence["seed"]
        many, others = (certify(HalfSpace(), grey(9), GAUSSIAN) for _ in range(2))
        assert [c.evidence["votes"] for c in many] != [c.evidence["votes"] for c in others]
        assert certify(HalfSpace(), grey(1), GAUSSIAN, seed=one.evidence["seed"]) == [one]

    def test_images_named_by_their_indices_get_the_noise_of_these(self) -> None:
        together = certify(HalfSpace(), images(3), GAUSSIAN, seed=5)
        alone = [certify(HalfSpace(), images(3)[[i]], GAUSSIAN, seed=5, indices=[i])[0] for i in range(3)]
        assert together == alone
        assert [c.evidence["index"] for c in together] == [0, 1, 2]
        with pytest.raises(ValueError, match="one index for each of 3 images"):
            certify(HalfSpace(), images(3), GAUSSIAN, indices=[1, 2])

    def test_predictions_draw_afresh_too(self) -> None:
        smoothed = SmoothedClassifier(HalfSpace(), Gaussian(0.5))
        found = torch.stack([smoothed.predict(grey(1).expand(20, -1, -1, -1), n=20, alpha=0.3) for _ in range(20)])
        assert len(found.unique(dim=0)) > 1
        assert torch.equal(*(smoothed.predict(images(5), n=20, seed=3) for _ in range(2)))

    def test_a_deterministic_certificate_names_no_noise(self) -> None:
        (found,) = certify(brighter_pixel(), images(1), CERTIFIERS["linf-box"].certifier)
        assert "seed" not in found.evidence


class Holding(nn.Module):
    """Returns an object that holds logits."""

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=x.flatten(1))


@pytest.mark.parametrize(
    ("model", "x", "certifier", "message"),
    [
        (HalfSpace(), images(2).tolist(), GAUSSIAN, "expected a torch.Tensor, an array or PIL images, got list"),
        (HalfSpace(), 2 * np.ones((1, 3, 4, 4)), GAUSSIAN, "divide by the largest value"),
        (HalfSpace(), images(0), GAUSSIAN, "empty batch"),
        (HalfSpace(), images(1), Gaussian, r"got the class Gaussian; write Gaussian\(\)"),
        (HalfSpace(), images(1), 0.5, "expected a certifier, such as"),
        (HalfSpace, images(1), GAUSSIAN, r"got the class HalfSpace; write HalfSpace\("),
        (None, images(1), GAUSSIAN, "expected a model that maps images to logits, got NoneType"),
        (Holding().eval(), images(1), GAUSSIAN, r"returns model\(x\).logits"),
        (
            Viewing().bfloat16(),
            images(1),
            GAUSSIAN,
            r"computes in bfloat16 and the images are float32: call model.float",
        ),
        (Viewing().half(), images(1), GAUSSIAN, "computes in float16"),
        (Viewing().double(), images(1), GAUSSIAN, "computes in float64"),
    ],
)
def test_a_mistake_in_python_is_named_with_its_cure(model, x, certifier, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(model, x, certifier)


def test_a_plain_function_is_certified_by_sampling() -> None:
    model = HalfSpace()
    assert certify(lambda x: model(x), images(2), GAUSSIAN, seed=0) == certify(model, images(2), GAUSSIAN, seed=0)


def test_a_plain_function_that_can_be_captured_has_a_margin() -> None:
    model, margin = HalfSpace(), CERTIFIERS["margin"].certifier
    assert certify(lambda x: model(x), images(2), margin) == certify(model, images(2), margin)
    with pytest.raises(ValueError, match="cannot be captured as a program"):
        certify(lambda x: torch.from_numpy(model(x).numpy()), images(2), margin)
