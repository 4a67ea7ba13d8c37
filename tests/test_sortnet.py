"""SortNet's neuron: its definition, its estimate, its bounds, and the nets and recipes that are made of it."""

import copy
import itertools
import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_steps import Kept
from test_linf_nets import DATA, quarters
from torch import Tensor, nn

from holdfast import certify
from holdfast.attacks import attacks
from holdfast.bounds import box, l2, linf
from holdfast.bounds.steps import Steps
from holdfast.certifiers.linf_box import LInfBox
from holdfast.certifiers.margin import Margin
from holdfast.methods.sortnet import SortAdam, SortNet, SortNetPlus, growing
from holdfast.nn import zoo
from holdfast.nn.linf import (
    DistanceHead,
    ExponentSchedule,
    LInfDistLinear,
    LInfDistNet,
    SortDistLinear,
    TanhHead,
    estimate_means,
    linf_net,
    set_exponent,
)
from holdfast.nn.linf.layers import GROUP
from holdfast.ops import distance
from holdfast.ops.distance import dist, dist_of_parts, sort_dist, sort_dist_bounds, sort_weights
from holdfast.program import capture, storage

SHAPES = [(37, 50, 41), (1, 3, 10), (5, 784, 17), (3, 12, 16)]
"""(batch, inputs, outputs): no multiples of anything; fewer inputs than terms; many; a panel of the kernel."""


def _example(batch: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + inputs + outputs)
    x, w = (torch.randn(rows, inputs, generator=generator).to(dtype) for rows in (batch, outputs))
    return x.requires_grad_(), w.requires_grad_()


def _definition(x: Tensor, w: Tensor, keep: float, terms: int) -> Tensor:
    """Sort everything, weigh the first terms."""
    ordered = (x[:, None] - w).abs().sort(dim=-1, descending=True).values[..., :terms]
    weights = [keep * (1 - keep) ** k / (1 - (1 - keep) ** terms) for k in range(ordered.shape[-1])]
    return ordered @ ordered.new_tensor(weights)


def _without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("keep", "terms"), [(0.75, 10), (0.3, 4), (1.0, 10)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_neuron_is_the_sorted_sum(
    shape: tuple[int, int, int], keep: float, terms: int, dtype: torch.dtype, numba: bool, monkeypatch
) -> None:
    if not numba:
        _without_numba(monkeypatch)
    x, w = (value.detach() for value in _example(*shape, dtype))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    assert torch.allclose(sort_dist(x, w, keep, terms), _definition(x, w, keep, terms), rtol=tolerance, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_definition(shape: tuple[int, int, int]) -> None:
    x, w = _example(*shape)
    direction = torch.cos(torch.arange(shape[0] * shape[2], dtype=x.dtype)).view(shape[0], shape[2])
    found = torch.autograd.grad((sort_dist(x, w, 0.7) * direction).sum(), (x, w))
    expected = torch.autograd.grad((_definition(x, w, 0.7, 10) * direction).sum(), (x, w))
    assert all(torch.allclose(one, other, rtol=1e-10, atol=1e-12) for one, other in zip(found, expected, strict=True))


def test_an_example_has_the_same_bits_in_any_batch() -> None:
    x, w = (value.detach() for value in _example(33, 50, 41))
    whole = sort_dist(x, w, 0.75)
    assert torch.equal(whole, torch.cat([sort_dist(one, w, 0.75) for one in x.split(1)]))
    assert torch.equal(whole.flip(0), sort_dist(x.flip(0), w, 0.75))


@pytest.mark.parametrize("p", [1.0, 0.9])
def test_a_row_with_nan_gives_nan(p: float) -> None:
    x, w = (value.detach() for value in _example(4, 30, 3))
    x[2, 7] = math.nan
    assert sort_dist(x, w, p).isnan().all(dim=1).tolist() == [False, False, True, False]


@given(keep=st.floats(1e-6, 1.0), terms=st.integers(1, distance.MOST))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_the_weights_fall_and_their_true_sum_is_below_1(keep: float, terms: int) -> None:
    weights = [Fraction(weight) for weight in sort_weights(keep, terms)]
    assert 1 - Fraction(1, 10**13) < sum(weights) < 1
    assert all(one >= other >= 0 for one, other in itertools.pairwise(weights))


@pytest.mark.parametrize("keep", [0.3, 0.75])
def test_the_mean_over_all_parts_of_the_inputs_is_the_sorted_sum(keep: float) -> None:
    """Every one of the 2^8 parts, with its probability; the largest of none is 0, the neuron divides by the rest."""
    x, w = (value.detach() for value in _example(5, 8, 4))
    mean = torch.zeros(5, 4, dtype=torch.float64)
    for part in itertools.product([False, True], repeat=8):
        kept = torch.tensor(part)
        if kept.any():
            chance = keep ** sum(part) * (1 - keep) ** (8 - sum(part))
            mean += chance * dist(x[:, kept], w[:, kept])
    assert torch.allclose(mean / (1 - (1 - keep) ** 8), sort_dist(x, w, keep, terms=8), rtol=1e-12)


def test_a_layer_in_training_draws_every_part_as_often_as_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a coordinate is the largest for one of many outputs, its share of groups shows in the layer's outputs."""
    monkeypatch.setattr("holdfast.nn.linf.layers.GROUP", 1)
    layer = SortDistLinear(6, 1, keep=0.6, shift=False).train()
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0)[None])  # |0 - w_j| = j
    torch.manual_seed(0)
    found = layer(torch.zeros(4000, 6)).detach()[:, 0]
    for j in range(1, 6):  # j is the largest kept one, or nothing but the first is kept
        share = float((found == j).double().mean())
        chance = 0.6 * 0.4 ** (5 - j)
        assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 4000))


def test_examples_of_a_group_share_their_part_and_groups_do_not() -> None:
    torch.manual_seed(0)
    layer = SortDistLinear(40, 30, keep=0.5).train()
    y = layer(torch.rand(1, 40).expand(3 * GROUP, 40)).view(3, GROUP, 30)
    assert (y == y[:, :1]).all()
    assert not (y[0, 0] == y[1, 0]).all()


def test_the_backward_pass_keeps_no_part_of_the_weights() -> None:
    """But inputs, weights and outputs, four bytes a number, and a byte for each input of a group."""
    layer, x = SortDistLinear(64, 48, keep=0.75).train(), torch.rand(4 * GROUP, 64)
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.value):
        y = layer(x)
    assert kept.peak == 4 * (x.numel() + layer.weight.numel() + y.numel()) + 4 * 64


@pytest.mark.parametrize("p", [8.0, math.inf])
def test_parts_have_the_bits_of_distances_of_copies(p: float) -> None:
    """Of values and gradients; the last group is smaller, the second has no coordinate."""
    x, w = _example(3 * 8 + 5, 40, 30, torch.float32)
    kept = torch.rand(4, 40, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.7, -1.0, 0.5, 1.0])[:, None]
    direction = torch.cos(torch.arange(29 * 30, dtype=x.dtype)).view(29, 30)
    copies = [
        dist(some[:, marks], w[:, marks], p) if marks.any() else some.new_zeros(len(some), 30)
        for some, marks in zip(x.split(8), kept, strict=True)
    ]
    expected, found = torch.cat(copies), dist_of_parts(x, w, kept, 8, p)
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad((y * direction).sum(), (x, w)) for y in (found, expected)]
    assert all(torch.equal(one, other) for one, other in zip(*slopes, strict=True))


def test_marks_that_fit_no_groups_are_refused() -> None:
    x, w = _example(9, 6, 2)
    with pytest.raises(ValueError, match=r"expected marks of shape \(3, 6\), got \(2, 6\)"):
        dist_of_parts(x, w, torch.ones(2, 6, dtype=torch.bool), 4)


def _attack_ratio(function, x: Tensor, order: float) -> float:
    """The largest quotient of output and input changes, l-inf of one output, over random and sparse directions."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for scale in (1e-4, 0.1, 3.0):
        shift = torch.randn(x.shape, generator=generator, dtype=x.dtype).sign() * scale
        shift *= torch.rand(len(x), 1, generator=generator) < 0.7
        moved = (function(x + shift) - function(x)).abs().amax(1)
        length = torch.linalg.vector_norm(shift, ord=order, dim=1)
        worst = max(worst, float((moved / length.clamp(min=1e-300)).max()))
    return worst


@pytest.mark.parametrize("keep", [0.2, 0.75, 1.0])
def test_no_pair_of_inputs_breaks_the_constants_of_a_neuron(keep: float) -> None:
    """In l-inf 1, and it is reached; in l2 the length of the weights, which is reached along the ten largest."""
    x, w = (value.detach() for value in _example(400, 30, 20))
    assert _attack_ratio(lambda z: sort_dist(z, w, keep), x, math.inf) <= 1 + 1e-10
    ratio = _attack_ratio(lambda z: sort_dist(z, torch.zeros(1, 30, dtype=z.dtype), keep), x.abs() + 4, math.inf)
    assert ratio <= 1 + 1e-10
    ones = torch.ones(1, 30, dtype=torch.float64)
    assert float(sort_dist(ones, 0 * ones, keep)) == pytest.approx(1, abs=1e-12)
    weights = torch.tensor(sort_weights(keep, 10), dtype=torch.float64)
    along = nn.functional.pad(weights, (0, 20))[None]
    assert float(sort_dist(along, 0 * along, keep)) == pytest.approx(float(weights @ weights), rel=1e-12)
    assert _attack_ratio(lambda z: sort_dist(z, w, keep), x, 2) <= float(weights.norm()) * (1 + 1e-10)


def test_bounds_over_a_box_are_reached_and_hold() -> None:
    x, w = (value.detach() for value in _example(6, 9, 5))
    lower, upper = x - torch.rand(x.shape, dtype=x.dtype), x + torch.rand(x.shape, dtype=x.dtype)
    least, most = sort_dist_bounds(lower, upper, w, 0.6, 4)
    for o in range(5):
        near, far = w[o].clamp(lower, upper), torch.where((lower - w[o]).abs() > (upper - w[o]).abs(), lower, upper)
        assert torch.allclose(sort_dist(near, w[o : o + 1], 0.6, 4)[:, 0], least[:, o], rtol=1e-12)
        assert torch.allclose(sort_dist(far, w[o : o + 1], 0.6, 4)[:, 0], most[:, o], rtol=1e-12)
    for _ in range(200):
        y = sort_dist(torch.lerp(lower, upper, torch.rand(x.shape, dtype=x.dtype)), w, 0.6, 4)
        assert ((least <= y) & (y <= most)).all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_the_operations_satisfy_the_contract_of_torch_library() -> None:
    torch.library.opcheck(distance._sort_dist, (*_example(4, 16, 5), 0.7, 10))
    torch.library.opcheck(distance._dist_of_parts, (*_example(4, 16, 5), torch.ones(2, 16) > 0, 3, 8.0))


@pytest.mark.parametrize(
    ("keep", "terms", "message"),
    [(0.0, 10, r"\(0, 1\], got 0.0"), (1.5, 10, "got 1.5"), (math.nan, 10, "got nan"), (0.5, 0, "got 0")],
)
def test_settings_that_make_no_norm_are_refused(keep: float, terms: int, message: str) -> None:
    """At keep = 1.5 the weights would alternate, and the neuron would be 2-Lipschitz."""
    with pytest.raises(ValueError, match=message):
        sort_dist(torch.ones(2, 3), torch.ones(4, 3), keep, terms)


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return -sort_dist(x.flatten(1), self.weight, 0.6, 4)


def test_a_stored_graph_runs_and_one_with_a_forged_share_is_refused(tmp_path) -> None:
    program = capture(Sorting().eval(), (2, 2, 2))
    storage.save(program, tmp_path)
    x = torch.rand(5, 2, 2, 2)
    assert torch.equal(storage.load(tmp_path)(x), Sorting()(x))
    graph = json.loads((tmp_path / "graph.json").read_text())
    (node,) = [node for node in graph["nodes"] if node["op"] == "holdfast.sort_dist.default"]
    node["args"]["keep"] = 1.5
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    with pytest.raises(ValueError, match=r"keep in \(0, 1\], got 1.5"):
        storage.load(tmp_path)


def _trained(plus: bool) -> LInfDistNet:
    torch.manual_seed(0)
    body = nn.Sequential(LInfDistLinear(200, 64), SortDistLinear(64, 48, 0.75, identity=10.0))
    head = TanhHead(48, 16, 4) if plus else DistanceHead(48, 4, keep=0.75)
    network = LInfDistNet(body, head, DATA.mean, 0.3)
    phases = ExponentSchedule(p_constant=0.85, p_inf=0.1)  # few exponents, for each is compiled
    method = (SortNetPlus if plus else SortNet)(0.05, ce_start=1.0, ce_end=0.1, schedule=phases)
    recipe = SortAdam()
    optimizer = recipe.build(network)
    x, y = quarters(128)
    for step in range(80):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step / 80)
        method.before_step(network, step / 80)
        loss = method.loss(network, x, y, step / 80)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.finish(network, x.split(32))
    return network.requires_grad_(False)


@pytest.fixture(scope="module", params=[False, True], ids=["distances", "perceptron"])
def network(request) -> LInfDistNet:
    return _trained(request.param)


def test_no_pair_of_images_breaks_the_constants_of_logit_differences(network: LInfDistNet) -> None:
    exact = copy.deepcopy(network).double()
    program = capture(network, DATA.shape)
    x = quarters(48, seed=2)[0].double()
    other = x + 0.05 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3)).sign()
    for threat, order in ((linf, math.inf), (l2, 2)):
        distance = torch.linalg.vector_norm((x - other).flatten(1), ord=order, dim=1)
        moved = exact(x) - exact(other)
        differences = moved[:, :, None] - moved[:, None]
        limit = threat.difference_constants(program) * distance[:, None, None] + threat.difference_errors(program)
        assert (differences.abs() <= limit).all()
    own = exact.difference_constants()
    assert (linf.difference_constants(program) <= own * (1 + 1e-9) + 1e-12).all()


def test_sorting_proves_a_smaller_constant_in_l2_than_the_largest_alone() -> None:
    plain, sorted_ = (
        LInfDistNet(nn.Sequential(), head, (0.0,), 1.0).eval()
        for head in (DistanceHead(16, 4), DistanceHead(16, 4, keep=0.3))
    )
    constants = [float(l2.difference_constants(capture(net, (1, 4, 4)))[0, 1]) for net in (plain, sorted_)]
    assert constants[1] == pytest.approx(constants[0] * math.hypot(*sort_weights(0.3, 10)), rel=1e-12)


def test_bounds_of_the_graph_and_of_the_layers_agree_and_hold(network: LInfDistNet) -> None:
    x, y = quarters(16, seed=5)
    lower, upper = (x - 0.1).clamp(0, 1), (x + 0.1).clamp(0, 1)
    found = box.lower_margins(Steps(capture(network, DATA.shape)), lower, upper, y)
    assert torch.allclose(found.float(), network.lower_margins(lower, upper, y), atol=1e-4)
    generator = torch.Generator().manual_seed(6)
    for _ in range(40):
        inside = torch.lerp(lower, upper, torch.rand(x.shape, generator=generator).round())
        margins = network(inside).gather(1, y[:, None]) - network(inside)
        assert (margins >= found - 1e-5).all()


def test_no_certificate_is_broken_and_the_box_is_never_worse(network: LInfDistNet) -> None:
    x, y = quarters(60, seed=7)
    margins, boxes = (certify(network, x, certifier) for certifier in (Margin(), LInfBox()))
    assert all(one.radius >= other.radius for one, other in zip(boxes, margins, strict=True))
    kept = [i for i, c in enumerate(boxes) if c.prediction == int(y[i]) and c.radius > 0.01]
    assert len(kept) > 10
    radii = torch.tensor([boxes[i].radius for i in kept]) * (1 - 1e-5)
    for adversaries in attacks(network, x[kept], y[kept], radii).values():
        assert (network(adversaries).argmax(1) == y[kept]).all()


def test_training_mode_and_finite_p_are_refused() -> None:
    network = linf_net(zoo.build("sortnet-128x2-0.75", DATA))
    with pytest.raises(ValueError, match="training mode"):
        network.difference_constants()
    set_exponent(network.eval(), 64)
    with pytest.raises(ValueError, match="p = 64"):
        certify(network, quarters(2)[0], LInfBox())


def test_means_are_those_of_the_neurons_that_are_certified() -> None:
    """Not of their estimate: after one batch the sorted sums of its images have the mean 0."""
    torch.manual_seed(0)
    network = linf_net(zoo.build("sortnet-128x2-0.75", DATA))
    x, _ = quarters(50)
    estimate_means(network, x.split(50))
    features = network.body((x - network.mean) / network.std)
    assert torch.allclose(features.mean(0), torch.zeros(128), atol=1e-4)
    assert not network.training


def test_the_radius_of_training_grows_smoothly_to_the_whole() -> None:
    assert [growing(ratio) for ratio in (0.0, 1.0, 2.0)] == [0, 1, 1]
    steps = [growing((i + 1) / 1000) - growing(i / 1000) for i in range(1000)]
    assert all(one <= other * (1 + 1e-9) for one, other in itertools.pairwise(steps))
    assert growing(0.2) == pytest.approx(0.2**4 / ((4 - 1.2) * 0.4**3))


def test_decay_leaves_distances_alone() -> None:
    network = LInfDistNet(nn.Sequential(SortDistLinear(4, 6, 0.75)), TanhHead(6, 5, 3), (0.0,), 1.0)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = SortAdam(lr=0.1, weight_decay=0.5).build(network)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in network.named_parameters():
        assert torch.allclose(weight, before[name] * (1 if name.startswith("body") else 0.95)), name
