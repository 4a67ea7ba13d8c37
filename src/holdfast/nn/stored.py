"""Networks of ours as programs that are kept, with all that a certificate asks of them, and as networks again."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..program import Program, capture_on_copy
from ..program.cut import cuts, halves
from ..program.program import Runner, hooked
from .split import Part, SplitClassifier


class SplitProgram(SplitClassifier):
    """A program in two halves, which runs as they do.

    Args:
        whole: a program with a cut.
    """

    def __init__(self, whole: Program) -> None:
        assert whole.halves is not None
        left, right = halves(whole, whole.halves)
        super().__init__(left.module(), right.module())
        self._whole = whole
        self.eval()

    @property
    def program(self) -> Program | None:
        """The program, if both halves still run it."""
        intact = all(isinstance(half, Runner) and half.program for half in (self.left, self.right))
        return self._whole if intact and not hooked(self) and type(self) is SplitProgram else None


def program_of(model: object) -> Program | None:
    """The program that a network was made of and runs still; None for any other network."""
    return model.program if isinstance(model, Runner | SplitProgram) else None


def network_of(program: Program) -> nn.Module:
    """A network that runs a program, in two halves where it is cut."""
    return program.module() if program.halves is None else SplitProgram(program)


def captured(model: nn.Module, shape: tuple[int, ...]) -> Program:
    """The program of a network in eval mode, with its cut and its norm; its own where it was made of one.

    Args:
        shape: of one input, without the batch.

    Raises:
        ValueError: it cannot be captured, or not be cut as the network is.
    """
    own = program_of(model)
    if own is not None and own.input_shape == tuple(shape):
        return own
    program = capture_on_copy(model, tuple(shape))
    return replace(program, halves=_cut(program, model), norm=named_norm(model))


def named_norm(classifier: object) -> str | None:
    """The norm that a network names for its certificates: `norm` is also what many call a normalization layer."""
    named = getattr(classifier, "norm", None)
    return named if isinstance(named, str) else None


def _cut(program: Program, model: nn.Module) -> int | None:
    """Where the program is cut as the network is, if that is in two halves."""
    if not isinstance(model, SplitClassifier):
        return None
    index = cuts(program).get("left", 0)
    left, _ = halves(program, index)
    x = torch.rand(3, *program.input_shape, generator=torch.Generator().manual_seed(0)).to(program.dtype)
    like = next(iter(model.state_dict().values()), x)
    if not _equal(left(x), _features(model, x.to(like.device))):
        raise ValueError("the classifier cannot be cut as a program where it is cut as a network")
    return index


@torch.no_grad()
def _features(model: SplitClassifier, x: Tensor) -> Tensor:
    part: Part = "left"
    return model(x.clone(), part).cpu()


def _equal(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, 1e-3, 1e-5, equal_nan=True)
