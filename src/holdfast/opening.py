"""Trained models from a run folder, and a user's own classifier from a function and a file of weights."""

import hashlib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

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
    """Weights for the function's model: a .safetensors file, or a pickle of a state_dict."""
    allow_pickle: bool = False
    """Read weights from a pickle (.pt, .pth, .ckpt). A pickle is a program: reading it runs whatever its author put
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

    def _state(self, path: Path) -> dict[str, Tensor]:
        if not path.exists():
            raise ValueError(f"there is no file of weights {path}")
        if path.suffix == ".safetensors":
            try:
                return load_file(path)
            except SafetensorError as error:
                raise ValueError(f"{path} is not a safetensors file: {error}") from error
        if not self.allow_pickle:
            raise ValueError(
                f"{path} is a pickle, and reading a pickle runs whatever code its author put there; if you trust it, "
                "add --allow-pickle, or convert it once to .safetensors"
            )
        content: Any = torch.load(path, map_location="cpu", weights_only=False)
        return content.get("state_dict", content) if isinstance(content, dict) else content.state_dict()


def _call(name: str) -> nn.Module:
    module_name, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        model = getattr(importlib.import_module(module_name), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot call {name}: {error}; expected package.module:function, importable from here"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model


def _with_weights(model: nn.Module, state: dict[str, Tensor], path: Path) -> nn.Module:
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"the weights in {path} do not fit the model: {error}") from error
    return model.eval()


def model_hash(model: nn.Module) -> str:
    """16 hex digits of the SHA-256 of all weights and buffers, with names, shapes and types."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _info(data: dict[str, Any]) -> DataInfo:
    return DataInfo(data["name"], tuple(data["shape"]), data["classes"], tuple(data["mean"]), tuple(data["std"]))
