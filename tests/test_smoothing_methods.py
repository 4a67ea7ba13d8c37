"""Losses of the methods for smoothed classifiers, against slow implementations of their formulas in plain Python."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.core.recipe import DataInfo, Method
from holdfast.core.registry import RECIPES
from holdfast.methods import smoothadv, smoothmix
from holdfast.methods._protocol import late_drops
from holdfast.methods.cat_rs import CATRS
from holdfast.methods.consistency import Consistency, inconsistency
from holdfast.methods.gaussian import GaussianNoise
from holdfast.methods.macer import MACER
from holdfast.methods.smoothadv import SmoothAdv, SmoothAdvConsistency
from holdfast.methods.smoothmix import SmoothMix
from holdfast.methods.stability import Stability
from holdfast.nn import zoo
from holdfast.opening import load
from holdfast.runs import store
from holdfast.smoothing.copies import draw, predict

Image = np.ndarray
"""(channel, height, width), float64."""

SIGMA, CLASSES, IMAGES = 0.3, 3, 5


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    for weight in layers.parameters():
        weight.data.mul_(2)
    return layers


@pytest.fixture
def x() -> Tensor:
    return torch.rand(IMAGES, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y(model: nn.Module, x: Tensor) -> Tensor:
    """Right labels but for one, so that terms that count right images only do count some and not others."""
    labels = model(x).argmax(1)
    labels[0] = model(x[:1]).argmin()
    return labels


class Slow:
    """The smoothed classifier of one image and its noise, by loops and math.exp."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def softmax(self, image: Image) -> list[float]:
        with torch.no_grad():
            logits = self.model(torch.from_numpy(image)[None])[0].tolist()
        total = sum(math.exp(z) for z in logits)
        return [math.exp(z) / total for z in logits]

    def smoothed(self, image: Image, noises: list[Image]) -> list[float]:
        each = [self.softmax(image + noise) for noise in noises]
        return [sum(p[c] for p in each) / len(each) for c in range(CLASSES)]

    def attacked(self, image: Image, label: int, noises: list[Image], steps: int, size: float, radius: float) -> Image:
        """Ascent on -log of the smoothed softmax, with gradients by central differences."""
        moved = image
        for _ in range(steps):
            gradient = differences(lambda at: -math.log(self.smoothed(at, noises)[label]), moved)
            shift = moved + size * gradient / np.linalg.norm(gradient) - image
            shift *= min(1.0, radius / max(float(np.linalg.norm(shift)), 1e-300))
            moved = np.clip(image + shift, 0, 1)
        return moved


def differences(function: Callable[[Image], float], at: Image, h: float = 1e-6) -> Image:
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (function(up) - function(down)) / (2 * h)
    return gradient


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def drawn(x: Tensor, copies: int) -> Tensor:
    """The noise that a method draws after `seeded`."""
    torch.manual_seed(3)
    return SIGMA * torch.randn(copies, *x.shape, dtype=x.dtype)


def rows(x: Tensor, y: Tensor, noise: Tensor) -> Iterator[tuple[Image, int, list[Image]]]:
    for i in range(len(x)):
        yield x[i].numpy(), int(y[i]), [copy[i].numpy() for copy in noise]


def seeded(method: Method, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, t: float = 1.0) -> Tensor:
    torch.manual_seed(3)
    return method.loss(model, x, y, t)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


class TestFormula:
    """Each loss is its formula."""

    def test_gaussian(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        slow = Slow(model)
        terms = [-math.log(slow.softmax(a + n)[c]) for a, c, noises in rows(x, y, drawn(x, 3)) for n in noises]
        assert seeded(GaussianNoise(SIGMA, 3), model, x, y).item() == pytest.approx(mean(terms), rel=1e-12)

    def test_stability(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        slow, terms = Slow(model), []
        for image, label, (noise,) in rows(x, y, drawn(x, 1)):
            clean, noisy = slow.softmax(image), slow.softmax(image + noise)
            terms.append(-math.log(clean[label]) - 2 * sum(p * math.log(q) for p, q in zip(clean, noisy, strict=True)))
        assert seeded(Stability(SIGMA), model, x, y).item() == pytest.approx(mean(terms), rel=1e-12)

    def test_consistency(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        terms = [consistent(Slow(model), a, c, noises, 7.0, 0.5) for a, c, noises in rows(x, y, drawn(x, 3))]
        assert seeded(Consistency(SIGMA, 3, 7.0, 0.5), model, x, y).item() == pytest.approx(mean(terms), rel=1e-12)

    def test_macer(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        slow, terms, counted = Slow(model), [], 0
        for image, label, noises in rows(x, y, drawn(x, 8)):
            hot = Slow(nn.Sequential(model, Scale(2.0)))
            second, first = sorted(hot.smoothed(image, noises))[-2:]
            xi = NormalDist().inv_cdf(first) - NormalDist().inv_cdf(second)
            counts = hot.smoothed(image, noises)[label] == first and xi <= 0.5
            counted += counts
            hinge = 4.0 * SIGMA / 2 * (0.5 - xi) if counts else 0.0
            terms.append(-math.log(slow.smoothed(image, noises)[label] + 1e-10) + hinge)
        assert counted == IMAGES - 2, "one image is wrong, and one is beyond the hinge"
        method = MACER(SIGMA, 8, weight=4.0, beta=2.0, margin=0.5)
        assert seeded(method, model, x, y).item() == pytest.approx(mean(terms), rel=1e-9)

    def test_smoothadv(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        slow, terms = Slow(model), []
        for image, label, noises in rows(x, y, drawn(x, 3)):
            adversary = slow.attacked(image, label, noises, 4, 2 * 0.2 / 4, 0.2)
            terms += [-math.log(slow.softmax(adversary + noise)[label]) for noise in noises]
        method = SmoothAdv(SIGMA, 3, epsilon=0.4, steps=4, warmup=0.5)  # half-way through the warm-up at t = 1/4
        assert seeded(method, model, x, y, 0.25).item() == pytest.approx(mean(terms), rel=1e-6)

    def test_smoothadv_with_consistency(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        slow, terms = Slow(model), []
        for image, label, noises in rows(x, y, drawn(x, 3)):
            adversary = slow.attacked(image, label, noises, 3, 2 * 0.4 / 3, 0.4)
            terms.append(consistent(slow, adversary, label, noises, 7.0, 0.5))
        method = SmoothAdvConsistency(SmoothAdv(SIGMA, 3, epsilon=0.4, steps=3), 7.0, 0.5)
        assert seeded(method, model, x, y).item() == pytest.approx(mean(terms), rel=1e-6)

    @pytest.mark.parametrize("one_step", [False, True])
    def test_smoothmix(self, model: nn.Module, x: Tensor, y: Tensor, one_step: bool) -> None:
        slow, terms, noise = Slow(model), [], drawn(x, 3)
        shares = (torch.rand(IMAGES, dtype=torch.float64) / 2).tolist()
        for share, (image, label, noises) in zip(shares, rows(x, y, noise), strict=True):
            adversary = slow.attacked(image, label, noises, 3, 0.3, math.inf)
            clean = image
            if one_step:  # half of the first step, because the warm-up is half over
                shift = slow.attacked(image, label, noises, 1, 0.3, math.inf) - image
                clean = image + shift * min(1.0, 0.5 * 0.3 / float(np.linalg.norm(shift)))
            smoothed = slow.smoothed(clean, noises)
            target = [(1 - share) * p + share / CLASSES for p in smoothed]
            mixed = (1 - share) * clean + share * adversary
            right = max(smoothed) == smoothed[label]
            for n in noises:
                calibrated = kl(target, slow.softmax(mixed + n))
                terms.append(-math.log(slow.softmax(clean + n)[label]) + 5.0 * 0.5 * right * calibrated)
        method = SmoothMix(SIGMA, 3, eta=5.0, steps=3, step_size=0.3, one_step=one_step, warmup=0.5)
        assert seeded(method, model, x, y, 0.25).item() == pytest.approx(mean(terms), rel=1e-6)

    def test_cat_rs(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        copies, slow, terms, noise = 3, Slow(model), [], drawn(x, 3)
        right = (predict(model, x, noise).argmax(-1) == y).double().mean(0)
        kept = torch.binomial(torch.full_like(right, copies), right).clamp(min=1)
        assert len(set(kept.tolist())) > 1
        for k, (image, label, noises) in zip(kept.int().tolist(), rows(x, y, noise), strict=True):
            losses = sorted(-math.log(slow.softmax(image + n)[label]) for n in noises)
            label_only = [float(c == label) for c in range(CLASSES)]
            worst = max(kl(label_only, slow.softmax(image + worst_noise(slow, image, label, n))) for n in noises)
            terms.append(sum(losses[:k]) / copies + 2.0 * (k == copies) * worst)
        method = CATRS(SIGMA, copies, weight=2.0, epsilon=0.4, steps=3)
        assert seeded(method, model, x, y).item() == pytest.approx(mean(terms), rel=1e-6)


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def consistent(slow: Slow, image: Image, label: int, noises: list[Image], weight: float, entropy: float) -> float:
    each, smoothed = [slow.softmax(image + n) for n in noises], slow.smoothed(image, noises)
    plain = mean([-math.log(p[label]) for p in each])
    unlike = mean([kl(smoothed, p) for p in each])
    return plain + weight * unlike - entropy * sum(p * math.log(p) for p in smoothed)


def worst_noise(slow: Slow, image: Image, label: int, noise: Image) -> Image:
    moved, rms = noise, lambda n: math.sqrt(np.mean(n**2))
    for _ in range(3):
        gradient = differences(lambda at: -math.log(slow.softmax(image + at)[label]), moved)
        shift = moved + 2 * 0.4 / 3 * gradient / np.linalg.norm(gradient) - noise
        shift *= min(1.0, 0.4 / float(np.linalg.norm(shift)))
        moved = noise + shift
        moved = noise.mean() + (moved - moved.mean()) / rms(moved) * rms(noise)
    return moved


GRADIENTS = [
    GaussianNoise(SIGMA, 2),
    Stability(SIGMA),
    Consistency(SIGMA),
    MACER(SIGMA, 4, weight=1.0, beta=2.0),
    SmoothAdv(SIGMA, 2),
    SmoothAdvConsistency(SmoothAdv(SIGMA, 2)),
    SmoothMix(SIGMA, 2, one_step=True),
    CATRS(SIGMA, 3),
]


@pytest.mark.parametrize("method", GRADIENTS, ids=lambda method: type(method).__name__)
def test_gradient_is_that_of_finite_differences(
    method: Method, model: nn.Module, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adversarial images and noise are constants of the loss; everything else, targets included, is not."""
    moved = x + 0.1 * (1 - 2 * x)
    monkeypatch.setattr(smoothadv, "attack", lambda *_: moved)
    monkeypatch.setattr(smoothmix, "attack", lambda *_: moved)
    monkeypatch.setattr(CATRS, "_worst_noise", lambda self, model, x, target, noise: 1.2 * noise)
    names = list(dict(model.named_parameters()))

    def loss(*weights: Tensor) -> Tensor:
        named = dict(zip(names, weights, strict=True))
        return seeded(method, lambda images: functional_call(model, named, (images,)), x, y)

    weights = tuple(weight.detach().requires_grad_() for weight in model.parameters())
    assert torch.autograd.gradcheck(loss, weights, fast_mode=True)


class TestLimits:
    def test_smoothmix_without_eta_is_gaussian_training(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        gaussian = seeded(GaussianNoise(SIGMA, 4), model, x, y)
        assert seeded(SmoothMix(SIGMA, 4, eta=0), model, x, y) == gaussian
        assert seeded(SmoothMix(SIGMA, 4), model, x, y, t=0.0) == gaussian

    def test_smoothmix_without_a_share_mixes_nothing(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        noise = drawn(x, 4)
        clean, mixed = seen(SmoothMix(SIGMA, 4, mix=0), model, x, y)
        assert torch.equal(clean, mixed)
        smoothed = predict(model, x, noise).softmax(-1).mean(0)
        unlike = [
            kl(p, q)
            for copy in predict(model, x, noise).softmax(-1).tolist()
            for p, q in zip(smoothed.tolist(), copy, strict=True)
        ]
        right = (smoothed.argmax(1) == y).repeat(4).tolist()
        expected = seeded(GaussianNoise(SIGMA, 4), model, x, y).item() + 5 * mean(np.multiply(right, unlike).tolist())
        assert seeded(SmoothMix(SIGMA, 4, mix=0), model, x, y).item() == pytest.approx(expected, rel=1e-9)

    def test_smoothmix_without_steps_attacks_nothing(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        clean, mixed = seen(SmoothMix(SIGMA, 4, steps=0, one_step=True), model, x, y)
        assert torch.allclose(clean, mixed, atol=1e-15)

    def test_smoothadv_without_steps_is_gaussian_training(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        assert seeded(SmoothAdv(SIGMA, 4, steps=0), model, x, y) == seeded(GaussianNoise(SIGMA, 4), model, x, y)

    def test_identical_predictions_are_consistent(self) -> None:
        logits = torch.randn(IMAGES, CLASSES, dtype=torch.float64).expand(4, -1, -1)
        assert inconsistency(logits, 1.0, 0.0).item() == pytest.approx(0, abs=1e-15)
        logits = torch.randn(4, IMAGES, CLASSES, dtype=torch.float64)
        assert inconsistency(logits, 1.0, 0.0).item() > 0.01

    def test_macer_is_deferred_to_its_start(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        early, late, never = (
            seeded(MACER(SIGMA, weight=weight, start=1 / 3), model, x, y, t)
            for weight, t in ((9.0, 0.33), (9.0, 1 / 3), (0.0, 1.0))
        )
        assert early == never
        assert late > never


def seen(method: Method, model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """The batches that go through the network in training mode, that is, outside of the attack."""
    batches: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda module, args: batches.append(args[0]) if module.training else None)
    seeded(method, model, x, y)
    hook.remove()
    return batches


class TestMask:
    """MACER counts right images with a finite margin inside of the hinge, and the others do not spoil the gradient."""

    def weighted(self, logits: list[float], label: int) -> tuple[float, Tensor]:
        row = torch.tensor([logits], requires_grad=True)
        method, y = MACER(SIGMA, copies=1, weight=1.0, beta=1.0, margin=3.0), torch.tensor([label])
        hinge = method._hinge(row[None], y).sum()
        return hinge.item(), torch.autograd.grad(hinge, row)[0]

    def test_inside_of_the_hinge(self) -> None:
        value, gradient = self.weighted([1.0, 0.0], 0)
        p = 1 / (1 + math.exp(-1))
        assert value == pytest.approx(3.0 - 2 * NormalDist().inv_cdf(p), rel=1e-5)
        assert gradient[0, 0] < 0 < gradient[0, 1]

    @pytest.mark.parametrize(
        ("logits", "label"),
        [([1.0, 0.0], 1), ([4.0, 0.0], 0), ([200.0, 0.0], 0), ([30.0, 0.0], 0)],
        ids=["wrong", "beyond the hinge", "infinite", "infinite by rounding"],
    )
    def test_outside(self, logits: list[float], label: int) -> None:
        value, gradient = self.weighted(logits, label)
        assert value == 0
        assert torch.equal(gradient, torch.zeros(1, 2))


PASSES = [
    (GaussianNoise(0.25, 4), 1, 4),
    (Stability(0.25), 2, 2),
    (Consistency(0.25, 3), 1, 3),
    (MACER(0.25, 16), 1, 16),
    (SmoothAdv(0.25, 4, steps=10), 11, 44),
    (SmoothAdvConsistency(SmoothAdv(0.25, 2, steps=3)), 4, 8),
    (SmoothMix(0.25, 4, steps=8), 10, 40),
    (CATRS(0.25, 4, steps=4), 6, 24),
]


@pytest.mark.parametrize(("method", "calls", "copies"), PASSES, ids=lambda value: type(value).__name__)
def test_the_noises_of_an_image_go_through_as_one_batch(
    method: Method, calls: int, copies: int, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    batches: list[int] = []
    model.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    seeded(method, model, x, y)
    assert len(batches) == calls
    assert sum(batches) == copies * IMAGES


def test_cat_rs_takes_its_target_from_the_votes_of_its_teacher(tmp_path: Path) -> None:
    info = DataInfo("small", (1, 8, 8), 10, (0.5,), (0.25,))
    run, recipe = tmp_path / "run", RECIPES["gaussian-digits-0.25"]
    store.open_run(run, {"recipe": recipe.to_dict()}, {"data": dataclasses.asdict(info)})
    save_file(zoo.build(recipe.arch, info).state_dict(), run / "model.safetensors")
    x, y = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
    torch.manual_seed(4)
    target = CATRS(1.0, teacher=str(run), votes=20)._target(x, y, 10)
    torch.manual_seed(4)
    votes = predict(load(run), x, draw(x, 0.25, 20)).argmax(-1)
    assert [[round(20 * p) for p in row] for row in target.tolist()] == [
        [int((votes[:, i] == c).sum()) for c in range(10)] for i in range(6)
    ]


def test_cat_rs_says_which_teacher_is_missing(model: nn.Module, x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match="the teacher runs/nowhere holds no finished model; train"):
        seeded(CATRS(SIGMA, teacher="runs/nowhere"), model, x, y)


class TestBadInput:
    @pytest.mark.parametrize(
        ("kind", "options", "message"),
        [
            *((kind, {"sigma": 0.0}, "sigma must be positive, got 0.0") for kind in (SmoothMix, MACER, CATRS)),
            (Stability, {"sigma": math.nan}, "sigma must be positive, got nan"),
            (Consistency, {"copies": 0}, "copies must be at least 1, got 0"),
            (SmoothMix, {"steps": -1}, "steps must be at least 0, got -1"),
            (SmoothAdv, {"epsilon": -0.5}, "epsilon must be at least 0, got -0.5"),
            (SmoothMix, {"mix": 1.5}, "mix must be at most 1, got 1.5"),
            (MACER, {"weight": math.inf}, "weight must be at least 0, got inf"),
        ],
    )
    def test_a_field_out_of_range_is_named(self, kind: type, options: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            kind(**options)

    @pytest.mark.parametrize("method", GRADIENTS, ids=lambda method: type(method).__name__)
    @pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
    def test_images_outside_of_the_pixel_range_are_refused(
        self, method: Method, value: float, model: nn.Module, x: Tensor, y: Tensor
    ) -> None:
        x[2, 0, 1, 1] = value
        with pytest.raises(ValueError, match="expected images in \\[0, 1\\]"):
            method.loss(model, x, y, 1.0)


class TestRecipes:
    @pytest.mark.parametrize("kind", [SmoothAdv, Consistency, SmoothMix, CATRS])
    def test_a_step_sees_the_images_of_one_part_of_the_published_batch(self, kind: type) -> None:
        found = [recipe for recipe in RECIPES.values() if recipe.method.to_dict()["kind"] == kind.__name__]
        published = [recipe for recipe in found if recipe.dataset != "digits"]
        assert published
        assert all(recipe.batch_size == 256 // recipe.method.to_dict()["copies"] for recipe in published)

    def test_rates_drop_one_epoch_late(self) -> None:
        recipe = RECIPES["smoothmix-mnist-1.00"]
        rates = [recipe.optimizer.rate(epoch / recipe.epochs) for epoch in (0, 30, 31, 60, 61, 89)]
        assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
        assert late_drops(150) == (51 / 150, 101 / 150)

    def test_warm_up_takes_ten_epochs(self) -> None:
        ours = ("-short", "digits-0.25")
        published = [recipe for name, recipe in RECIPES.items() if not name.endswith(ours)]
        warm = [(r.method.warmup, r.epochs) for r in published if isinstance(r.method, SmoothAdv | SmoothMix)]
        assert warm
        assert all(part * epochs == pytest.approx(10) for part, epochs in warm)
