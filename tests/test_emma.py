"""GloRo, EMMA and their schedules, against formulas written out in numpy."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.methods.emma import AnnealedEmma, Emma
from holdfast.methods.gloro import Gloro
from holdfast.nn.lipschitz import LipschitzNet, lipschitz_net
from holdfast.optim import DecayingAdam, LookaheadNAdam


class Given(LipschitzNet):
    """A network whose logits and head are parameters, with features of constant 2."""

    def __init__(self, logits: Tensor, head: Tensor) -> None:
        nn.Module.__init__(self)
        self.logits, self.rows = nn.Parameter(logits), nn.Parameter(head)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits

    def difference_estimates(self) -> Tensor:
        return 2 * torch.cdist(self.rows, self.rows)


def given(seed: int = 0) -> tuple[Given, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = Given(torch.randn(6, 4, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64))
    return model, torch.zeros(6, 1, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])


def constants(model: Given) -> np.ndarray:
    w = model.rows.detach().numpy()
    return np.array([[2 * math.sqrt(((a - b) ** 2).sum()) for b in w] for a in w])


def emma_by_hand(f: np.ndarray, k: np.ndarray, y: np.ndarray, epsilon: float, shares: np.ndarray | None = None):
    """(mean loss, shares): loops over images and classes; the shares may be held, as the gradient does."""
    total, found = 0.0, np.zeros_like(f)
    for b in range(len(f)):
        z = []
        for i in range(f.shape[1]):
            reach = k[y[b], i] * epsilon
            found[b, i] = min(max((f[b, y[b]] - f[b, i]) / max(reach, 1e-8), 0.01), 1.0)
            share = found[b, i] if shares is None else shares[b, i]
            z.append(f[b, i] - f[b, y[b]] + share * reach)
        total += math.log(sum(math.exp(v) for v in z)) - z[y[b]]
    return total / len(f), found


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_emma_is_the_formula_of_the_paper(t: float) -> None:
    model, x, y = given()
    method = Emma(0.1)
    expected, _ = emma_by_hand(model.logits.detach().numpy(), constants(model), y.numpy(), method.training_epsilon(t))
    assert method.loss(model, x, y, t).item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_emma_holds_the_shares_fixed() -> None:
    """Central differences of the formula, with the shares as they were."""
    model, x, y = given(1)
    method = Emma(0.2)
    epsilon = method.training_epsilon(1.0)
    method.loss(model, x, y, 1.0).backward()
    _, shares = emma_by_hand(model.logits.detach().numpy(), constants(model), y.numpy(), epsilon)
    assert ((shares > 0.011) & (shares < 0.99)).any()
    assert model.logits.grad is not None
    assert model.rows.grad is not None
    step = 1e-6
    for parameter in (model.logits, model.rows):
        flat = parameter.detach().view(-1)
        for i in range(len(flat)):
            values = []
            for sign in (1, -1):
                flat[i] += sign * step
                values.append(
                    emma_by_hand(model.logits.detach().numpy(), constants(model), y.numpy(), epsilon, shares)[0]
                )
                flat[i] -= sign * step
            assert parameter.grad is not None
            assert parameter.grad.view(-1)[i].item() == pytest.approx((values[0] - values[1]) / 2 / step, abs=1e-7)


def test_a_class_within_reach_ties_with_the_label() -> None:
    model, x, y = given()
    reached = Emma(1.0, start=1, end=1).logits(model, x, y, 1.0)
    leads = model.logits.detach().gather(1, y[:, None]) - model.logits.detach()
    close = (leads > 0.2) & (leads < 1)
    tied = reached[close]
    assert len(tied) > 0
    assert torch.allclose(tied, torch.zeros_like(tied), atol=1e-9)


def test_a_floor_of_one_gives_every_class_all_of_the_radius() -> None:
    model, x, y = given()
    method = Emma(0.1, start=1, end=1, floor=1.0)
    k = torch.from_numpy(constants(model))
    expected = torch.nn.functional.cross_entropy(model.logits + 0.1 * k[y], y)
    assert method.loss(model, x, y, 0.0).item() == pytest.approx(expected.item(), rel=1e-12)


def test_annealing_is_its_formula() -> None:
    model, x, y = given()
    method = AnnealedEmma(Emma(0.1))
    z = Emma(0.1).logits(model, x, y, 1.0).detach().numpy()
    losses = []
    for row, label in zip(z, y.tolist(), strict=True):
        u = (row - 2.0 * np.eye(4)[label]) / 0.75
        p = np.exp(u[label]) / np.exp(u).sum()
        losses.append(-0.75 * (1 - p) ** 5 * math.log(p))
    assert method.loss(model, x, y, 1.0).item() == pytest.approx(np.mean(losses), rel=1e-12)


def test_gloro_adds_the_logit_that_the_strongest_rival_can_reach() -> None:
    model, x, y = given()
    f, k = model.logits.detach().numpy(), constants(model)
    plain, robust = [], []
    for b in range(len(f)):
        j = f[b].argmax()
        bottom = max(f[b, i] + 0.45 * k[j, i] for i in range(4) if i != j)
        log_z = math.log(np.exp(f[b]).sum())
        log_z_bar = math.log(np.exp(f[b]).sum() + math.exp(bottom))
        plain.append(log_z - f[b, y[b]])
        robust.append((log_z_bar - f[b, y[b]], log_z_bar - log_z))
    assert Gloro(0.3).loss(model, x, y, 0.5).item() == pytest.approx(np.mean([r for r, _ in robust]), rel=1e-12)
    trades = Gloro(0.3, trades=(1.0, 3.0)).loss(model, x, y, 0.5).item()
    assert trades == pytest.approx(np.mean(plain) + 2.0 * np.mean([d for _, d in robust]), rel=1e-12)


def test_schedules_have_the_published_values() -> None:
    emma = Emma(36 / 255)
    assert [emma.training_epsilon(t) * 255 / 36 for t in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0.1, 1.55, 3, 3, 3])
    assert [Gloro(0.3).training_epsilon(t) for t in (0, 0.5, 1)] == pytest.approx([0.45] * 3)
    ramp = Gloro(36 / 255, overshoot=1.1, start=0.01)
    published = [1.1 * 36 / 255 * math.log((math.e - math.exp(0.01)) * s + math.exp(0.01)) for s in (0, 0.5, 1, 1)]
    assert [ramp.training_epsilon(t) for t in (0, 0.25, 0.5, 1)] == pytest.approx(published)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Emma(0.0),
        lambda: Emma(-1.0),
        lambda: Emma(math.inf),
        lambda: Gloro(0.0),
        lambda: Gloro(-0.1),
        lambda: Gloro(0.3, start=0),
        lambda: Emma(0.1, floor=2),
        lambda: AnnealedEmma(temperature=0),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"positive|expected"):
        wrong()


def test_the_network_is_found_inside_of_wrappers_and_others_are_refused() -> None:
    model, x, y = given()

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    assert lipschitz_net(Wrapper(Wrapper(model))) is model
    assert Emma().loss(Wrapper(model), x, y, 1.0) == Emma().loss(model, x, y, 1.0)
    with pytest.raises(ValueError, match="such as liresnet-small"):
        Emma().loss(nn.Linear(2, 2), x, y, 1.0)


def test_rates_warm_up_fall_by_a_cosine_and_decay_after_half_time() -> None:
    tail = LookaheadNAdam(lr=1e-3, warm_up=0.1)
    assert [tail.rate(t) for t in (0, 0.05, 0.1, 0.55, 1)] == pytest.approx([0, 5e-4, 1e-3, 5e-4, 1e-8], rel=1e-4)
    adam = DecayingAdam(lr=1e-3, last_lr=1e-6)
    assert [adam.rate(t) for t in (0, 0.5, 0.75, 1)] == pytest.approx([1e-3, 1e-3, 10**-4.5, 1e-6])


def test_lookahead_is_nadam_pulled_back_every_sixth_step_and_survives_a_checkpoint() -> None:
    torch.manual_seed(0)
    start, targets = torch.randn(5), torch.randn(20, 5)

    def steps(
        weight: Tensor, optimizer: torch.optim.Optimizer, part: Tensor, pull: bool, slow: list[Tensor], first: int
    ):
        for number, target in enumerate(part, first):
            optimizer.zero_grad()
            (weight - target).square().sum().backward()
            optimizer.step()
            if pull and not slow:
                slow.append(weight.detach().clone())
            elif pull and number % 6 == 0:
                slow[0] += 0.5 * (weight.detach() - slow[0])
                weight.data.copy_(slow[0])

    by_hand, ours = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    steps(by_hand, torch.optim.NAdam([by_hand], lr=1e-3), targets, True, [], 1)
    recipe = LookaheadNAdam(lr=1e-3)
    first = recipe.build(nn.ParameterList([ours]))
    steps(ours, first, targets[:8], False, [], 1)
    resumed = recipe.build(nn.ParameterList([ours]))
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(ours, resumed, targets[8:], False, [], 9)
    assert torch.allclose(ours, by_hand, atol=1e-7)
