"""What torch.export wrote: a .pt2 file, or the program at hand."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .extras import in_one_line
from .outputs import in_batches, logits_of


class ExportedClassifier(nn.Module):
    """A classifier out of a `torch.export.ExportedProgram`; exported for one batch size, it gets batches of that.

    Raises:
        ValueError: it takes other things than one batch of images.
    """

    def __init__(self, program: Any) -> None:
        super().__init__()
        names = program.graph_signature.user_inputs
        (*_, inputs) = [[n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]]
        if len(inputs) != 1 or not isinstance(inputs[0].meta.get("val"), Tensor):
            raise ValueError(
                f"the exported program takes {len(names)} inputs ({', '.join(names)}); expected one: images"
            )
        self.program = program.module()
        side = inputs[0].meta["val"].shape[0]
        self.batch = side if isinstance(side, int) else None
        for part in self.modules():  # an exported program has no modes, and refuses .eval()
            part.training = False

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedClassifier:
        twin = ExportedClassifier.__new__(ExportedClassifier)
        nn.Module.__init__(twin)
        with warnings.catch_warnings():  # torch's own, about how it copies the structure of arguments
            warnings.simplefilter("ignore")
            twin.program, twin.batch = copy.deepcopy(self.program, memo), self.batch
        twin.training = False
        return twin

    def train(self, mode: bool = True) -> ExportedClassifier:
        if mode:
            raise ValueError("an exported program cannot be trained")
        return self

    def forward(self, x: Tensor) -> Tensor:
        return in_batches(lambda part: logits_of(self.program(part)), x, self.batch)


def read_exported(path: Path, allow_pickle: bool) -> ExportedClassifier:
    """The classifier in a .pt2 file.

    Raises:
        ValueError: reading it was not allowed, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if not allow_pickle:
        raise ValueError(
            f"{path} is read by torch.export.load, which runs pickles that its author may have put there; if you trust "
            "it, add --allow-pickle"
        )
    with in_one_line(f"{path} cannot be read as what torch.export.save writes"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path)
    return ExportedClassifier(program)
