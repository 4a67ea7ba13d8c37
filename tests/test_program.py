"""A program computes what the network computes, is refused where that is no fixed function, and survives any reader."""

import copy
import json
import random
import weakref
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from holdfast.bounds.l2 import lipschitz_bound
from holdfast.nn.linf import DistanceHead, LInfDistConv2d, LInfDistLinear, LInfDistNet
from holdfast.nn.lipschitz import LinearResidualBlock, MinMax, orthogonal, unit_rows
from holdfast.nn.zoo.resnet import basic_block
from holdfast.program import capture
from holdfast.program.cut import cut, cuts
from holdfast.program.storage import load, save

SHAPE = (2, 6, 6)


class Function(nn.Module):
    """A forward of one's own, with parts."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        basic_block(4, 4, 1),
        basic_block(4, 6, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def distances() -> nn.Module:
    body = nn.Sequential(LInfDistConv2d(2, 4, 3, padding=1), LInfDistLinear(144, 8))
    return LInfDistNet(body, DistanceHead(8, 3), (0.5, 0.4), 0.3)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": residual,
    "distances": distances,
    "parametrized": lambda: nn.Sequential(
        orthogonal(nn.Conv2d(2, 8, 3, 2)), MinMax(), LinearResidualBlock(8, 2), nn.Flatten(), unit_rows(32, 3)
    ),
    "size-of-the-batch": lambda: Function(lambda m, x: m.last(x.view(len(x), -1)), last=nn.Linear(72, 3)),
    "attention": lambda: Function(
        lambda m, x: m.last(F.scaled_dot_product_attention(*[x.flatten(2)] * 3).mean(1)), last=nn.Linear(36, 3)
    ),
    "class-token": lambda: Function(
        lambda m, x: torch.cat([m.token.weight[None].expand(len(x), -1, -1), x.flatten(2)], 1).flatten(1),
        token=nn.Embedding(1, 36),
    ),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


def images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
class TestEveryNetwork:
    def test_its_program_gives_the_same_bits_for_any_batch(self, name: str) -> None:
        model = network(name)
        program = capture(model, SHAPE)
        with torch.no_grad():
            for count in (1, 4):
                assert torch.equal(program(images(count)), model(images(count)))

    def test_it_comes_back_from_a_folder_as_the_same_program(self, name: str, tmp_path: Path) -> None:
        program = capture(network(name), SHAPE)
        save(program, tmp_path)
        found = load(tmp_path)
        assert found.identity == program.identity
        assert found.nodes == program.nodes
        assert torch.equal(found(images(3)), program(images(3)))
        assert [node.place for node in found.nodes] == [node.place for node in program.nodes]

    def test_its_cast_to_float64_is_the_network_in_float64(self, name: str) -> None:
        model = network(name)
        exact = capture(model, SHAPE).module(torch.float64)(images(3).double())
        assert torch.allclose(exact, model.double()(images(3).double()), 1e-12, 1e-12)

    def test_every_cut_computes_the_same_bits(self, name: str) -> None:
        program = capture(network(name), SHAPE)
        for place in cuts(program):
            left, right = cut(program, place)
            assert torch.equal(right(left(images(3))), program(images(3)))


VIEWS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "flatten": lambda m, x: x.flatten(1).flatten(1).flatten(-1),
    "transposed": lambda m, x: x.mT @ x.mT.mT,
    "like-another": lambda m, x: x.view_as(x.mT).flatten(1, 2),
    "pieces": lambda m, x: torch.cat([one.relu() for one in x.chunk(2, 1)][::-1], 1),
    "transposed-weight": lambda m, x: x.flatten(1) @ m.last.weight.mT,
}


@pytest.mark.parametrize("name", [*NETWORKS, *VIEWS])
def test_one_trace_gives_the_program_that_two_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(name) if name in NETWORKS else Function(VIEWS[name], last=nn.Linear(72, 3)).eval()
    program = capture(model, SHAPE)
    monkeypatch.setattr(import_module("holdfast.program.capture"), "_writes", lambda node: True)
    twice = capture(model, SHAPE)
    assert program.identity == twice.identity
    assert torch.equal(program(images(2)), twice(images(2)))


@pytest.mark.parametrize("name", ["parametrized", "attention", *VIEWS])
def test_a_network_that_writes_into_nothing_is_traced_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    capture(network(name) if name in NETWORKS else Function(VIEWS[name], last=nn.Linear(72, 3)).eval(), SHAPE)


def test_a_program_shares_nothing_with_its_network() -> None:
    model = network("residual")
    program = capture(model, SHAPE)
    before, identity = program(images(2)), program.identity
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.mul_(2)
    model.register_forward_hook(lambda module, inputs, output: output.mul(2))
    assert torch.equal(program(images(2)), before)
    assert capture(model, SHAPE).identity != identity == program.identity


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1) @ torch.ones(27, 4),
        lambda x: F.linear(x.flatten(1), torch.eye(27)[:4], torch.full((4,), 0.5)),
        lambda x: torch.addmm(torch.ones(4), x.flatten(1), torch.ones(27, 4)),
    ],
)
def test_constants_that_a_forward_pass_makes_follow_the_precision(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(2, 3, 3, 3)
    program = capture(Function(lambda _, x: function(x)).eval(), (3, 3, 3))
    found = program.module(torch.float64)(x.double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, function(x).double(), rtol=1e-5, atol=0)
    assert 0 < lipschitz_bound(program) < 20


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (nn.Hardtanh(0, 1), nn.Hardtanh(0, 2)),
        (Function(lambda m, x: x * 2), Function(lambda m, x: x * 2.5)),
        (nn.Flatten(), nn.Identity()),
    ],
)
def test_settings_that_are_no_tensors_are_part_of_the_identity(one: nn.Module, other: nn.Module) -> None:
    assert capture(one.eval(), SHAPE).identity != capture(other.eval(), SHAPE).identity


def test_names_of_modules_and_dead_weights_are_no_part_of_the_identity() -> None:
    layer = nn.Linear(6, 6)
    first = Function(lambda m, x: m.a(x), a=layer, unused=nn.Linear(3, 3))
    second = Function(lambda m, x: m.b(x), b=layer)
    assert capture(first.eval(), SHAPE).identity == capture(second.eval(), SHAPE).identity


def test_weights_under_two_names_are_what_runs() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).eval()
    model[1].weight = model[0].weight  # pyright: ignore
    program = capture(model, SHAPE)
    assert torch.equal(program(images(2)), model(images(2)))


def _counting() -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        return x * self.__dict__["calls"]

    return Function(forward)


def _buffered() -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        self.seen += 1  # pyright: ignore
        return x * self.seen  # pyright: ignore

    model = Function(forward)
    model.register_buffer("seen", torch.zeros(()))
    return model


@cache
def impostor() -> Callable[[Tensor], Tensor]:
    """An operation of one's own that has the name of one that changes no number, and is that on most images."""

    @torch.library.custom_op("breaks::detach", mutates_args=())
    def detach(x: Tensor) -> Tensor:
        return x * torch.where(x == 1, 50.0, 1.0)

    detach.register_fake(torch.empty_like)
    return detach


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "training": (lambda: nn.Sequential(nn.Linear(6, 6)).train(), "training mode"),
    "in-place-on-the-input": (lambda: Function(lambda m, x: x.sub_(0.5) * 2), "changes 'x'"),
    "buffer": (_buffered, "changes 'seen'"),
    "state": (_counting, "has a state"),
    "noise": (lambda: Function(lambda m, x: x + torch.randn_like(x)), r"random numbers"),
    "dropout": (lambda: Function(lambda m, x: F.dropout(x, 0.5, True)), r"random numbers"),
    "batch-norm-of-the-batch": (lambda: nn.BatchNorm2d(2, track_running_stats=False), "depends on the batch"),
    "softmax-over-the-batch": (lambda: Function(lambda m, x: x.softmax(0)), "influence each other"),
    "mean-over-everything": (lambda: Function(lambda m, x: x - x.mean()), "not allowed|allowed on constants"),
    "mean-over-the-batch": (lambda: Function(lambda m, x: x - x.mean(0)), "influence each other"),
    "rows-as-channels": (lambda: nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(6, 6, 1, padding=1)), "cannot be captured"),
    "rows-as-positions": (lambda: Function(lambda m, x: x.reshape(6, -1, 2, 6)), "influence each other"),
    "flipped": (lambda: Function(lambda m, x: x.flip(0)), "influence each other"),
    "rolled": (lambda: Function(lambda m, x: x.roll(1, 0)), "influence each other"),
    "transposed": (lambda: Function(lambda m, x: x.transpose(0, 1)), "influence each other"),
    "first-row": (lambda: Function(lambda m, x: x + x[:1]), "influence each other"),
    "sorted-batch": (lambda: Function(lambda m, x: x.sort(0).values), "not allowed"),
    "gram": (lambda: Function(lambda m, x: x.flatten(1) @ x.flatten(1).T), "influence each other"),
    "own-constant-for-each-row": (lambda: Function(lambda m, x: x + torch.zeros(len(x), 1, 1, 1)), "influence"),
    "place-in-the-batch": (lambda: Function(lambda m, x: x * torch.arange(len(x)).view(-1, 1, 1, 1)), "influence"),
    "beside-its-place": (
        lambda: Function(lambda m, x: torch.cat([x[..., 0], torch.ones(len(x), 2, 1)], 2)),
        "influence",
    ),
    "size": (lambda: Function(lambda m, x: x * len(x)), "batch size"),
    "alone": (lambda: Function(lambda m, x: x * (1 if len(x) > 1 else 2)), "batch size"),
    "operation-with-a-known-name": (lambda: Function(lambda m, x: impostor()(x)), "breaks.detach.default.*not allowed"),
    "two-results": (lambda: Function(lambda m, x: (x, x)), "one tensor"),  # pyright: ignore
    "dictionary": (lambda: Function(lambda m, x: {"logits": x}), "one tensor"),  # pyright: ignore
    "constant": (lambda: Function(lambda m, x: torch.zeros(3)), "does not depend"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_fixed_function_of_each_row_is_refused_by_name(name: str) -> None:
    make, reason = REFUSED[name]
    model = make()
    with pytest.raises(ValueError, match=reason):
        capture(model if name == "training" else model.eval(), SHAPE)


def test_a_refusal_names_the_line_of_the_user() -> None:
    class Cumulative(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(1)

    with pytest.raises(ValueError, match=r"test_program\.py:\d+: return x\.cumsum\(1\)"):
        capture(Cumulative().eval(), SHAPE)


def test_cuts_have_the_names_of_modules_and_of_their_calls() -> None:
    twice = Function(lambda m, x: m.last(m.body(m.body(x))), body=nn.Linear(6, 6), last=nn.Linear(6, 3)).eval()
    program = capture(twice, SHAPE)
    assert list(cuts(program)) == ["body", "body@1"]
    with pytest.raises(ValueError, match="such as body@1"):
        cut(program, "body@2")
    blocks = capture(network("residual"), SHAPE)
    assert {"2", "3", "4"} <= cuts(blocks).keys()
    assert "3.branch" not in cuts(blocks), "the shortcut passes it by"


def _mutated(text: str, rng: random.Random) -> str:
    """A graph.json with one thing changed: a character, a value, a key, or a part left out."""
    choice = rng.random()
    if choice < 0.3:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice('0123456789{}[]",:.-ex ') + text[at + rng.randrange(3) :]
    stored = json.loads(text)
    place, key = stored, rng.choice(list(stored))
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    junk = [None, True, -1, 0, 3, 2**40, 10**30, 1.5, "aten.eye.default", "x", [], {}, [[1]], {"node": 99}, {"node": 0}]
    junk += [
        {"tensor": "0"},
        {"batch": 10**9},
        {"dtype": "float8"},
        {"float": "nan"},
        [10**9, 10**9],
        1009,
        [{"batch": 2}],
    ]
    if choice < 0.4:
        del place[key]
    else:
        place[key] = rng.choice(junk)
    return json.dumps(stored)


@pytest.mark.parametrize("name", ["residual", "parametrized"])
def test_a_hundred_malformed_files_each_end_in_one_clear_line(name: str, tmp_path: Path) -> None:
    program = capture(network(name), SHAPE)
    save(program, tmp_path)
    text, rng = (tmp_path / "graph.json").read_text(), random.Random(0)
    refused: list[str] = []
    for _ in range(100):
        (tmp_path / "graph.json").write_text(_mutated(text, rng))
        try:
            load(tmp_path)  # it may be another program, such as one with another stride
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 60
    assert all(reason.startswith(f"{tmp_path} holds no program") for reason in refused)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda g: g["nodes"][0].update(op="aten.system.default"), "not allowed"),
        (lambda g: g["nodes"][0].update(op="os.system"), "not allowed"),
        (lambda g: g["nodes"][0]["args"].update(input={"node": 5}), "argument that is not allowed"),
        (lambda g: g["nodes"].insert(0, {"op": "aten.eye.default", "args": {"n": 10**6}}), "too large|not allowed"),
        (lambda g: g.update(format=2), "format 1"),
        (
            lambda g: g["nodes"].append({"op": "aten.flip.default", "args": {"self": {"node": 1}, "dims": [0]}}),
            "influence",
        ),
        (lambda g: g.update(input=[2, 6]), "fit"),
    ],
)
def test_what_a_stored_program_must_not_hold_is_refused_with_the_reason(
    change: Callable[[dict], None], reason: str, tmp_path: Path
) -> None:
    save(capture(network("residual"), SHAPE), tmp_path)
    stored = json.loads((tmp_path / "graph.json").read_text())
    change(stored)
    (tmp_path / "graph.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=reason):
        load(tmp_path)


@pytest.mark.parametrize("shape", [(1009, 1, 1, 1), (3, 2, 6, 6)])
def test_a_stored_constant_for_each_row_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    once = torch.ones(1, 2, 6, 6)
    save(capture(Function(lambda m, x: x + once).eval(), SHAPE), tmp_path)
    save_file({"0": torch.ones(shape)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"influence each other|do not fit"):
        load(tmp_path)


def test_tensors_that_are_missing_broken_or_too_many_are_refused(tmp_path: Path) -> None:
    program = capture(network("residual"), SHAPE)
    save(program, tmp_path)
    save_file({**program.tensors, "more": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="without use"):
        load(tmp_path)
    save_file({"0": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds no program"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="holds no program"):
        load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no program"):
        load(tmp_path)


def _hook(network: nn.Module) -> None:
    network.register_forward_hook(lambda _, __, logits: -logits)


def _own_forward(network: nn.Module) -> None:
    forward = network.forward
    network.forward = lambda x: -forward(x)


def _own_call(network: nn.Module) -> None:
    plain: Any = type(network)._call_impl
    network._call_impl = lambda x: torch.neg(plain(network, x))


def _own_class(network: nn.Module) -> None:
    class Negative(type(network)):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    network.__class__ = Negative


def _another_source(network: nn.Module) -> None:
    network._source = capture(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval(), SHAPE)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("change", [_hook, _own_forward, _own_call, _own_class, _another_source])
def test_a_network_of_a_program_that_was_changed_is_no_longer_taken_for_it(
    change: Callable[[nn.Module], None],
) -> None:
    program = capture(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval(), SHAPE)
    network, x = program.module(), images(4)
    assert network.program is program
    assert copy.deepcopy(network).program is program
    change(network)
    assert network.program is None
    assert torch.equal(copy.deepcopy(network)(x), network(x))


def test_folding_keeps_no_value_that_only_other_weights_need(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            made = early = self.weight + 1
            for _ in range(10):
                made = made @ self.weight
            return x @ early @ made @ self.weight.exp() @ early

    net, x = Chain().eval(), torch.rand(2, 6)
    module = import_module("holdfast.program.program")
    compute, alive, most = module._computed, weakref.WeakSet(), [0]

    def counted(*args: Any) -> Tensor:
        made = compute(*args)
        alive.add(made)
        most[0] = max(most[0], len(alive))
        return made

    program = capture(net, (6,))
    monkeypatch.setattr(module, "_computed", counted)
    assert torch.equal(program.module()(x), net(x))
    assert most == [3]  # `early`, which the input meets, and the two ends of a product
