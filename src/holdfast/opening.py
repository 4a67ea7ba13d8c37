"""Trained models from a run folder, a user's own classifier from a function and a file of weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .certification.identity import model_hash
from .core.certifier import Certifier
from .core.recipe import DataInfo, Recipe
from .core.registry import CERTIFIERS, imported
from .nn import zoo
from .nn.weights import fit_weights, read_weights
from .runs import store

OWN = "gaussian"
"""The certifier of a model of one's own, where none is named."""


def load(run: Path | str) -> nn.Module:
    """The trained model of a run folder, in eval mode, on the CPU.

    Raises:
        ValueError: it is not a run folder, or its training is not finished.
    """
    folder = Path(run)
    recipe, info = recipe_of(folder), info_of(folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise ValueError(f"{folder} holds no finished model; run the same `holdfast train` again to continue it")
    return fit_weights(zoo.build(recipe.arch, info), read_weights(weights), weights).eval()


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run folder was trained by.

    Raises:
        ValueError: it is not the folder of a training run.
    """
    return Recipe.from_dict(_training(run)["recipe"])


def info_of(run: Path) -> DataInfo:
    """The data set that a run folder was trained on.

    Raises:
        ValueError: it is not the folder of a training run.
    """
    data = _training(run)["data"]
    return DataInfo(data["name"], tuple(data["shape"]), data["classes"], tuple(data["mean"]), tuple(data["std"]))


def _training(run: Path) -> Mapping[str, Any]:
    facts = store.read_run(run)
    if "recipe" not in facts:
        raise ValueError(f"{run} is no training run; name the folder that `holdfast train` made")
    return facts


def certifier_for(run: Path | None, name: str | None) -> Certifier:
    """The certifier of that name with the settings that a run was trained for; without a name the one it is meant for.

    Args:
        run: None for a model of one's own.
        name: as `holdfast list certifiers` shows, or `package.module:name`.
    """
    if run is None:
        return CERTIFIERS[name or OWN]
    meant = recipe_of(run).method.certifier()
    return CERTIFIERS[name].meant_for(meant) if name else meant


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a run folder, or `package.module:function` and a file of weights."""

    model: str
    weights: Path | None = None
    """Weights for the function's model: a .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt)."""
    allow_pickle: bool = False
    """Read a file that holds more than tensors. Such a pickle is a program: reading it runs whatever its author put
    there. Only for files that you trust."""

    def load(self) -> nn.Module:
        """The model, in eval mode."""
        if ":" not in self.model:
            if self.weights:
                raise ValueError(
                    "a run folder has its own weights; --weights goes with --model package.module:function"
                )
            return load(self.model)
        model = _call(self.model)
        if self.weights:
            fit_weights(model, read_weights(self.weights, self.allow_pickle), self.weights)
        return model.eval()

    @property
    def run(self) -> Path | None:
        """The run folder, if it comes from one."""
        return None if ":" in self.model else Path(self.model)

    def identity(self, model: nn.Module) -> str:
        """`model_hash` of what `load` gave, with the files that the user gave."""
        return model_hash(model, [self.model.partition(":")[0]] if ":" in self.model else [])

    def folder(self, runs: Path, identity: str) -> Path:
        """The run folder, or one under `runs` that is named after the model."""
        if ":" not in self.model:
            return Path(self.model)
        return runs / f"{self.model.replace(':', '-')}-{identity}"


def _call(name: str) -> nn.Module:
    factory = imported(name)
    try:
        model = factory()
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model
