"""Trained models and what is known of them, from run folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..core.recipe import DataInfo, Recipe
from ..nn import zoo
from ..nn.weights import fit_weights, read_weights
from ..runs import store


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
