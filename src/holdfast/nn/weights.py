"""Weights from files, fitted to a network."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("module", "_orig_mod")
"""What DistributedDataParallel, DataParallel and torch.compile put into the names of weights."""


def read_weights(path: Path, allow_pickle: bool | None = False) -> dict[str, Tensor]:
    """The state_dict in a file, on the CPU.

    Args:
        path: a .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt): a state_dict, alone or in a dictionary.
        allow_pickle: read a file that holds more than tensors, which runs whatever its author put there; None where
            nobody can allow it, and no message should say how.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of weights {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    return _state_dict(_unpickled(path, allow_pickle), path)


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The model with these weights; names of wrappers in theirs are ignored.

    Raises:
        ValueError: they do not fit; it says what is missing, too much, or of another shape.
    """
    expected, state = model.state_dict(), dict(state)
    if not set(state) <= set(expected):
        state = {".".join(part for part in key.split(".") if part not in WRAPPERS): state[key] for key in state}
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        found = _misfit(state, expected) or str(error).splitlines()[0]
        raise ValueError(f"the weights in {path} do not fit the model: {found}") from error
    return model


def checksum(state: Mapping[str, Tensor]) -> str:
    """16 hex digits of the SHA-256 of weights: of names, types, shapes and values, whatever the file is."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _unpickled(path: Path, allow_pickle: bool | None) -> Any:
    """What torch.save wrote: tensors and plain values need no trust, objects do."""
    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except Exception as error:  # a pickle may raise anything
        allowing = "" if allow_pickle is None else "add --allow-pickle, or "
        if not allow_pickle and isinstance(error, pickle.UnpicklingError):
            raise ValueError(
                f"{path} holds more than tensors: it is a pickle of objects, and reading that runs whatever code its "
                f"author put there; if you trust it, {allowing}save its state_dict alone"
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
