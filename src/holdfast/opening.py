"""Trained models from a run folder, and a user's own classifier from a function and a file of weights."""

import importlib
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .certification.identity import model_hash
from .core.recipe import DataInfo, Recipe
from .nn import zoo
from .runs import store


def load(run: Path | str) -> nn.Module:
    """The trained model of a run folder, in eval mode, on the CPU.

    Raises:
        ValueError: it is not a run folder, or its training is not finished.
    """
    folder = Path(run)
    facts = store.read_run(folder)
    if "recipe" not in facts:
        raise ValueError(f"{folder} is no training run; name the folder that `holdfast train` made")
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise ValueError(f"{folder} holds no finished model; run the same `holdfast train` again to continue it")
    model = zoo.build(recipe_of(folder).arch, _info(facts["data"]))
    return _with_weights(model, load_file(weights), weights)


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run folder was trained by."""
    return Recipe.from_dict(store.read_run(run)["recipe"])


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
        return _with_weights(model, self._state(self.weights), self.weights) if self.weights else model.eval()

    def identity(self, model: nn.Module) -> str:
        """`model_hash` of what `load` gave, with the files that the user gave."""
        return model_hash(model, [self.model.partition(":")[0]] if ":" in self.model else [])

    def folder(self, runs: Path, identity: str) -> Path:
        """The run folder, or one under `runs` that is named after the model."""
        if ":" not in self.model:
            return Path(self.model)
        return runs / f"{self.model.replace(':', '-')}-{identity}"

    def _state(self, path: Path) -> dict[str, Tensor]:
        if not path.exists():
            raise ValueError(f"there is no file of weights {path}")
        if path.suffix == ".safetensors":
            try:
                return load_file(path)
            except SafetensorError as error:
                raise ValueError(f"{path} is not a safetensors file: {error}") from error
        return _state_dict(self._unpickled(path), path)

    def _unpickled(self, path: Path) -> Any:
        """What torch.save wrote: tensors and plain values need no trust, objects do."""
        try:
            return torch.load(path, map_location="cpu", weights_only=not self.allow_pickle)
        except Exception as error:  # a pickle may raise anything
            if not self.allow_pickle and isinstance(error, pickle.UnpicklingError):
                raise ValueError(
                    f"{path} holds more than tensors: it is a pickle of objects, and reading that runs whatever code "
                    "its author put there; if you trust it, add --allow-pickle, or save its state_dict alone"
                ) from None
            found = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(f"{path} cannot be read as what torch.save writes: {found}") from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint: a state_dict, a module, or a dictionary that holds one of them."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if isinstance(content, Mapping):
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(key), Mapping | nn.Module):
                return _state_dict(content[key], path)
        if any(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
    found = f"the keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else type(content)
    raise ValueError(f"expected a state_dict in {path}, alone or under 'state_dict' or 'model', found {found}")


def _call(name: str) -> nn.Module:
    module_name, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        model = _factory(name, module_name, function)()
    except _NotThere as error:
        raise ValueError(
            f"cannot call {name}: {error}; expected package.module:function, importable from here"
        ) from error
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{name} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model


class _NotThere(ValueError):
    """A factory cannot be found."""


def _factory(name: str, module: str, function: str) -> Callable[[], Any]:
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise _NotThere(error) from error


WRAPPERS = ("module", "_orig_mod")
"""What DistributedDataParallel, DataParallel and torch.compile put into the names of weights."""


def _with_weights(model: nn.Module, state: dict[str, Tensor], path: Path) -> nn.Module:
    expected = model.state_dict()
    if not set(state) <= set(expected):
        state = {".".join(part for part in key.split(".") if part not in WRAPPERS): state[key] for key in state}
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        found = _misfit(state, expected) or str(error).splitlines()[0]
        raise ValueError(f"the weights in {path} do not fit the model: {found}") from error
    return model.eval()


def _misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """In what two state_dicts differ, the first few of each kind."""
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in state.keys() & expected.keys()
        if state[key].shape != expected[key].shape
    ]
    kinds = {
        "the file lacks": [key for key in expected if key not in state],
        "the model lacks": [key for key in state if key not in expected],
        "other shapes:": sorted(shapes),
    }
    return "; ".join(f"{kind} {_few(names)}" for kind, names in kinds.items() if names)


def _few(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _info(data: dict[str, Any]) -> DataInfo:
    return DataInfo(data["name"], tuple(data["shape"]), data["classes"], tuple(data["mean"]), tuple(data["std"]))
