"""Trained models and what is known of them, from run folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.recipe import DataInfo, Recipe
from ..core.registry import trusted
from ..nn import zoo
from ..nn.stored import captured, network_of
from ..nn.weights import fit_weights, read_weights
from ..program import storage
from ..runs import store


def load(run: Path | str) -> nn.Module:
    """The trained model of a run folder, in eval mode, on the CPU: the program that its training stored.

    A folder without one holds a network that cannot be captured, or is of an earlier version: see `architecture`.

    Raises:
        ValueError: it is not a run folder, its training is not finished, or its files are damaged.
    """
    folder = Path(run)
    told = _training(folder).get("program") or {}
    if not (folder / storage.TENSORS).exists():
        raise ValueError(f"{folder} holds no finished model; run the same `holdfast train` again to continue it")
    if (folder / storage.GRAPH).exists():
        return network_of(storage.load(folder, spare=True))
    if "identity" in told:
        raise ValueError(
            f"{folder} lacks {storage.GRAPH}, the program that its run.json names; bring it back: what the weights do "
            "in the architecture of today may be something else"
        )
    return architecture(folder)


def layers_of(run: Path) -> nn.Module | None:
    """`architecture`, for attacks that follow other gradients than those of a program; None if there is none today."""
    try:
        return architecture(run)
    except ValueError:
        return None


def architecture(run: Path) -> nn.Module:
    """The architecture that a run folder names, as the code of today builds it, with the trained weights.

    Raises:
        ValueError: it is not a run folder, its weights do not fit, or it names code that is not to be trusted.
    """
    weights = run / storage.TENSORS
    return fit_weights(zoo.build(trusted(recipe_of(run).arch), info_of(run)), read_weights(weights), weights).eval()


def store_program(run: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the program of a trained network into its run folder, to which model.safetensors still has to be added.

    Of a network that cannot be captured, run.json tells why: `load` builds it from code.
    """
    network = zoo.build(trusted(recipe_of(run).arch), info := info_of(run))
    network.load_state_dict(weights)
    try:
        program = captured(network.eval(), info.shape)
    except Exception as error:  # whatever torch.export may raise, a training is not lost for it
        store.tell(run, program={"none": str(error)})
        return
    storage.save(program, run, weights.keys())
    store.tell(run, program={"identity": program.identity})


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
