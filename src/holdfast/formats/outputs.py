"""What classifiers return, and batches of one size for those that take no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def logits_of(output: Any) -> Any:
    """The logits in what a classifier returned: itself, its `.logits`, or the only tensor in a tuple or list."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if isinstance(held := getattr(output, "logits", None), Tensor):
        return held
    return output[0] if isinstance(output, tuple | list) and len(output) == 1 else output


def in_batches(run: Callable[[Tensor], Tensor], x: Tensor, size: int | None) -> Tensor:
    """Run a function that takes batches of `size` rows only; the last batch is filled up with its first row."""
    if size is None or len(x) == size:
        return run(x)
    parts = []
    for part in x.split(size):
        missing = size - len(part)
        parts.append(run(torch.cat([part, part[:1].expand(missing, *part.shape[1:])]))[: len(part)])
    return torch.cat(parts)


class Logits(nn.Module):
    """A classifier that returns its logits in an object, as those of transformers do, returning the logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor) -> Any:
        return logits_of(self.model(x))
