"""The weights that a training begins with: random ones, or those of a run or a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from ..core.recipe import DataInfo, Recipe
from ..nn import zoo
from ..nn.weights import checksum, fit_weights, read_weights
from ..runs.store import read_run


@dataclass(frozen=True)
class Beginning:
    """Weights to fine-tune; none for a training from random ones."""

    path: Path | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def read(cls, init: Path | str | None) -> Beginning:
        """The weights of a run folder or of a file.

        Raises:
            ValueError: there are none, or the training of the run is not finished.
        """
        if init is None:
            return cls()
        path = Path(init)
        if path.is_dir():
            read_run(path)
            path /= "model.safetensors"
            if not path.exists():
                raise ValueError(f"{init} holds no finished model to start from; finish its training first")
        return cls(path, read_weights(path, allow_pickle=None))

    def network(self, arch: str, data: DataInfo) -> nn.Module:
        """The architecture with these weights.

        Raises:
            ValueError: they do not fit it.
        """
        network = zoo.build(arch, data)
        return network if self.path is None else fit_weights(network, self.state, self.path)

    def fingerprint(self, recipe: Recipe) -> str:
        """12 hex digits: of the recipe, and of the weights if there are any."""
        if self.path is None:
            return recipe.fingerprint()
        return hashlib.sha256(f"{recipe.fingerprint()} {checksum(self.state)}".encode()).hexdigest()[:12]

    def asked(self) -> dict[str, str]:
        """What run.json compares: the checksum of the weights."""
        return {} if self.path is None else {"init": checksum(self.state)}

    def facts(self) -> dict[str, str]:
        """What run.json tells besides: where they were found."""
        return {} if self.path is None else {"init_from": str(self.path)}

    def told(self) -> str:
        """A further line of what is said beforehand."""
        return "" if self.path is None else f"\nstart    weights of {self.path}"
