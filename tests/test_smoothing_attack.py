"""The attack on the smoothed classifier: it does harm, keeps its limits, and leaves no trace."""

import math
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from holdfast.attacks import SMALLEST, attack, frozen, gradient, warm_up
from holdfast.core.registry import RECIPES
from holdfast.core.threat import l2
from holdfast.methods.smoothmix import SmoothMix
from holdfast.smoothing.copies import draw, predict
from holdfast.training import loop as training
from holdfast.training.launch import Machine
from holdfast.training.loop import train


class TestAttack:
    def images(self) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        x = torch.rand(16, 1, 8, 8)
        with frozen(model) as classifier:
            return model, x, classifier(x).argmax(1), draw(x, 0.25, 4)

    def risk(self, model: nn.Module, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """-log of the smoothed softmax of the label, per image."""
        with torch.no_grad(), frozen(model) as classifier:
            return -predict(classifier, x, noise).softmax(-1).mean(0)[torch.arange(len(y)), y].log()

    def test_raises_the_loss_of_every_image_and_stays_in_the_pixel_range(self) -> None:
        model, x, y, noise = self.images()
        adversary = attack(model, x, y, noise, steps=4, step_size=0.2)
        assert (self.risk(model, adversary, y, noise) > self.risk(model, x, y, noise)).all()
        assert adversary.min() >= 0
        assert adversary.max() <= 1

    def test_goes_as_far_as_its_steps_unless_told(self) -> None:
        """For two classes and a linear classifier the direction is w / |w|, whatever the image and the noise."""
        w = torch.randn(64, generator=torch.Generator().manual_seed(0))
        x, noise = torch.full((3, 1, 8, 8), 0.5), torch.randn(2, 3, 1, 8, 8)

        def linear(images: Tensor) -> Tensor:
            return torch.stack([images.flatten(1) @ w / 50, -images.flatten(1) @ w / 50], 1)

        def away(radius: float) -> Tensor:
            return attack(linear, x, torch.zeros(3, dtype=torch.int64), noise, 4, 0.25, radius) - x

        expected = -w / w.norm()
        assert torch.allclose(away(math.inf).flatten(1), expected.expand(3, -1), atol=1e-5)
        assert torch.allclose(away(0.3).flatten(1), 0.3 * expected.expand(3, -1), atol=1e-5)
        assert torch.equal(away(0.0), torch.zeros_like(x))

    def test_never_leaves_the_ball(self) -> None:
        model, x, y, noise = self.images()
        adversary = attack(model, x, y, noise, 10, 0.5, radius=0.7)
        assert (adversary - x).flatten(1).norm(dim=1).max() <= 0.7 + 1e-5

    def test_leaves_the_model_as_it_was(self) -> None:
        model, x, y, noise = self.images()
        model[1].eval()
        model[0].weight.requires_grad_(False)
        modes, wanted = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        attack(model, x, y, noise, 2, 0.5)
        with pytest.raises(RuntimeError), frozen(model):
            attack(model, x[:, :, :3], y, noise, 2, 0.5)
        assert [m.training for m in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == wanted
        assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())

    def test_wants_no_gradient_of_the_weights(self) -> None:
        model, x, y, noise = self.images()
        wanted = []
        model.register_forward_pre_hook(lambda *_: wanted.append([p.requires_grad for p in model.parameters()]))
        attack(model, x, y, noise, 3, 0.5)
        assert not any(flag for flags in wanted for flag in flags)
        assert all(p.grad is None for p in model.parameters())

    def test_steps_have_length_one_where_there_is_a_gradient(self) -> None:
        scale = torch.tensor([1.0, 1e-3, 0.0]).view(3, 1, 1, 1)
        found = l2.direction(gradient(lambda z: (scale * z).flatten(1).sum(1), torch.rand(3, 1, 4, 4)), SMALLEST)
        assert found.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1, 0], abs=1e-4)

    @pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
    def test_works_inside_of_fabric(self, precision: str) -> None:
        """Which allows no backward pass but that of the training loss in mixed precision."""
        model, x, y, _ = self.images()
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # pyright: ignore[reportArgumentType]
        wrapped = fabric.setup(model)
        fabric.backward(SmoothMix(0.25, 2, steps=2, one_step=True).loss(wrapped, x, y, 1.0))
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_training_attacks_in_the_precision_it_trains_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SmoothMix spends nearly all of its passes in the attack: in float32 they would save nothing."""
        seen: list[tuple[bool, torch.dtype]] = []
        forward = nn.Linear.forward

        def spy(layer: nn.Linear, x: Tensor) -> Tensor:
            out = forward(layer, x)
            seen.append((layer.training, out.dtype))
            return out

        monkeypatch.setattr(training, "_try", lambda *_: None)  # before Fabric, in float32
        monkeypatch.setattr(training, "store_program", lambda *_: None)  # after training, in float32
        monkeypatch.setattr(nn.Linear, "forward", spy)
        recipe = RECIPES["smoothmix-digits-0.25"].replace(epochs=1, batch_size=512)
        train(recipe, "spied", tmp_path, Machine(accelerator="cpu", precision="bf16-mixed"))
        assert {training for training, _ in seen} == {True, False}
        assert {dtype for _, dtype in seen} == {torch.bfloat16}


def test_warm_up_is_linear_and_may_be_left_out() -> None:
    assert [warm_up(t, 0.5) for t in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert warm_up(0.0, 0.0) == 1.0
