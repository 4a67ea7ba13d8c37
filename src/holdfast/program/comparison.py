"""Whether a program computes what its network computes.

Weights that are functions of others, such as Cholesky-orthogonal ones, take seconds; a network evaluates them at each
call. All of its calls are made, but of what is listed here as costly the results of the program are used: what has a
state shows it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .program import Program

COSTLY = {
    torch.ops.aten.mm.default,
    torch.ops.aten.linalg_cholesky_ex.default,
    torch.ops.aten.linalg_solve_triangular.default,
    torch.ops.aten.convolution.default,
}
"""Functions of their arguments alone, whose result is a new tensor."""

LARGE = 2**18
"""Numbers in each of the first two tensors, from which on remembering takes less time than computing."""

CALLS = ((3, False), (3, True), (1, False))
"""Of a network, to compare it with its program: sizes of the batch, and whether gradients are recorded."""

BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def compare(program: Program, model: nn.Module, device: torch.device) -> None:
    """The program computes what the network computes, on batches of other sizes, and the network does so twice,
    without gradients and where they are recorded.

    Raises:
        ValueError: it does not.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, *program.input_shape, generator=generator, dtype=torch.float64).to(program.dtype)
    with torch.inference_mode(False), torch.no_grad():  # in this order: the first switches gradients on
        try:
            with Memory() as memory:
                found = program(x)
                memory.full = True
                answers = [_answer(model, x[:size].to(device, copy=True), *mode) for size, *mode in CALLS]
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(f"the classifier depends on the batch size: {str(error).splitlines()[0]}") from error
        for expected in answers:
            if not _close(found[: len(expected)], expected):
                raise ValueError(
                    "the classifier computes something else when it is called again, with another batch size or where "
                    "gradients are recorded: it has a state, or depends on the size of the batch or on those"
                )


def _answer(model: nn.Module, x: Tensor, gradients: bool) -> Tensor:
    """What the network computes, where gradients are recorded or not; nothing is kept for them."""
    nothing: Any = lambda _: None  # noqa: E731
    with torch.set_grad_enabled(gradients), torch.autograd.graph.saved_tensors_hooks(nothing, nothing):
        return model(x).detach().cpu()


def _close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding in few bits."""
    return found.shape == expected.shape and torch.allclose(found, expected, 1e-3, 1e-5, equal_nan=True)


def refuse_difference(program: Program, model: nn.Module, images: Tensor) -> None:
    """Refuse a network that computes on these images something else than the program that was captured of it.

    A network may look whether it is being captured, and compute something else then.

    Raises:
        ValueError: it does.
    """
    with torch.inference_mode(False), torch.no_grad():
        found = program(images.to("cpu", program.dtype, copy=True))
        if not _close(found.double(), model(images.clone()).cpu().double()):
            raise ValueError("the classifier computes something else when it is called than when it is captured")


class Memory(TorchDispatchMode):
    """First, remembers costly operations; once it is `full`, answers those that have the same arguments, bit for bit.

    It may be filled by a program alone, which never writes into a value, so that no copies are needed. What is answered
    is a copy, and nobody's writing into it changes the memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self._known: dict[str, list[tuple[tuple[Any, ...], Any]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        size = min((one.numel() for one in tensors[:2]), default=0)
        if func not in COSTLY or size < LARGE or not all(map(_plain, tensors)):
            return func(*args, **kwargs)
        known = self._known.setdefault(f"{func} {kwargs} {_settings()}", [])
        if self.full:
            for given, result in known:
                if len(given) == len(args) and all(map(_identical, given, args)):
                    return tree_map_only(Tensor, torch.clone, result)
            return func(*args, **kwargs)
        known.append((args, func(*args, **kwargs)))
        return known[-1][1]


def _plain(tensor: Tensor) -> bool:
    """Whether nothing but its numbers, shape and layout in memory decides what an operation makes of it."""
    kind = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and tensor.device.type == "cpu"
    return kind and tensor.is_floating_point() and tensor.element_size() in BITS and not tensor.is_neg()


def _identical(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other) and one == other
    if (one.dtype, one.shape, one.stride()) != (other.dtype, other.shape, other.stride()):
        return False
    kind = BITS[one.element_size()]  # zeros of both signs are not the same, and a NaN is what it is
    return torch.equal(one.view(kind), other.view(kind))


def _settings() -> tuple[object, ...]:
    """Of the process, that change results by more than rounding: numbers of few bits in between, tiny ones as 0."""
    backend: Any = torch.backends.mkldnn
    return backend.matmul.fp32_precision, backend.conv.fp32_precision, float(torch.tensor(1e-40) * 1)
