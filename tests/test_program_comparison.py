"""What the comparison of a network with its program does not compute twice hides nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from holdfast.program import capture
from holdfast.program.comparison import Memory, refuse_difference

SHAPE = (4,)
SIDE = 512
"""Of matrices that are large enough to be remembered."""


def matrix(seed: int) -> Tensor:
    return torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) / SIDE**0.5


class Drifting(nn.Module):
    """A parametrization that is another one from some evaluation on."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start, self.calls = start, 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight @ (weight if self.calls < self.start else 2 * weight).mT


@pytest.mark.parametrize("start", [2, 3])
def test_a_parametrization_with_a_state_is_refused_whenever_it_changes(start: int) -> None:
    layer, drifting = nn.Linear(SIDE, SIDE), Drifting(start)
    parametrize.register_parametrization(layer, "weight", drifting, unsafe=True)
    layer.eval()
    drifting.calls = 0
    with pytest.raises(ValueError, match="has a state"):
        capture(layer, (SIDE,))
    assert drifting.calls == 3, "one for each call; the export leaves none"


@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode])
def test_a_comparison_calls_the_network_with_gradients_once(outside: Callable[[], Any]) -> None:
    class Asking(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            out = super().forward(input)
            if not torch.compiler.is_exporting():
                asked.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return out

    asked: list[tuple[bool, bool]] = []
    model = Asking(4, 3).eval()
    with outside():
        program = capture(model, SHAPE)
        refuse_difference(program, model, torch.rand(2, *SHAPE))
    assert not any(inference for _, inference in asked), "its tensors would not be of use elsewhere"
    assert [gradients for gradients, _ in asked] == [False, True, False, False]


@pytest.mark.parametrize("asks", [lambda _: torch.is_grad_enabled(), lambda x: x.requires_grad])
def test_a_network_that_asks_whether_gradients_are_recorded_is_refused(asks: Callable[[Tensor], bool]) -> None:
    class Asking(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            out = super().forward(input)
            return 100 * out if asks(out) else out

    with pytest.raises(ValueError, match="where gradients are recorded"):
        capture(Asking(4, 3).eval(), SHAPE)


class Product(nn.Module):
    """x -> x times the corner of a product, with which something is done first."""

    def __init__(self, change: Callable[["Product", Tensor], Tensor]) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(matrix(0)), nn.Parameter(matrix(1))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.change(self, self.left @ self.right)[:4, :3]


def test_what_writes_into_a_product_changes_nothing_that_is_remembered() -> None:
    model = Product(lambda model, product: product.mul_(3)).eval()
    program, x = capture(model, SHAPE), torch.rand(3, 4)
    torch.testing.assert_close(program(x), x @ (3 * model.left @ model.right)[:4, :3])


def test_a_factor_into_which_another_library_writes_is_refused() -> None:
    def doubled(model: Product, product: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            array = model.left.detach().numpy()
            array *= 2  # torch does not count this
        return product

    with pytest.raises(ValueError, match="has a state"):
        capture(Product(doubled).eval(), SHAPE)


class Subclass(Tensor):
    """What an operation does with it, it says itself."""


def _medium(left: Tensor) -> Tensor:
    torch.set_float32_matmul_precision("medium")
    return left


ASKED: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "same": (lambda left: left, True),
    "copy": (lambda left: left.clone(), True),
    "other-number": (lambda left: left.clone().index_fill_(0, torch.tensor(SIDE - 1), 2.0), False),
    "sign-of-zero": (lambda left: left.where(left != 0, -0.0), False),
    "layout": (lambda left: left.mT.contiguous().mT, False),
    "type": (lambda left: left.double(), False),
    "subclass": (lambda left: left.as_subclass(Subclass), False),
    "precision": (_medium, False),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_remembered_answers_for_the_same_bits_alone(name: str) -> None:
    left, right = matrix(0), matrix(1)
    left[0, 0] = 0
    with Memory() as memory:
        (left @ right).zero_()  # as nobody may, so that the answer shows where it comes from
    memory.full = True
    change, answered = ASKED[name]
    before = torch.get_float32_matmul_precision()
    try:
        other = change(left)
        with memory:
            found = other @ right.to(other.dtype)
    finally:
        torch.set_float32_matmul_precision(before)
    assert bool((found == 0).all()) is answered
