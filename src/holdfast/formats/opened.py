"""From the name of a classifier, whatever form it has, to a network that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from ..core.recipe import DataInfo
from ..core.registry import ARCHITECTURES, IMPORTABLE, imported, in_a_line
from ..nn import zoo
from ..nn.stored import network_of
from ..nn.weights import fit_weights, read_weights
from ..program import storage
from .exported import read_exported
from .hub import open_hub
from .onnx_file import OnnxClassifier
from .outputs import Logits
from .timm_model import open_timm
from .trained import load, recipe_of

Form = Literal["run", "program", "onnx", "pt2", "weights", "hf", "timm", "factory", "architecture"]

SUFFIXES: dict[str, Form] = {
    ".onnx": "onnx",
    ".pt2": "pt2",
    **dict.fromkeys((".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar"), "weights"),
}
FORMS = (
    "a run folder, package.module:function, FILE.onnx, FILE.pt2, hf:org/name, hf:./folder, timm:name, a folder with "
    "graph.json, or an architecture with --weights FILE"
)
"""What a classifier can be named by, in words."""

FITTED: tuple[Form, ...] = ("factory", "architecture", "timm")
"""Forms that take a file of weights."""


def form_of(name: str) -> Form:
    """In which form the name of a classifier says that it is."""
    path = Path(name)
    for prefix in ("hf", "timm"):
        if name.startswith(f"{prefix}:"):
            return prefix
    if path.suffix in SUFFIXES and not path.is_dir():
        return SUFFIXES[path.suffix]
    if path.name == storage.GRAPH or ((path / storage.GRAPH).is_file() and not (path / "run.json").exists()):
        return "program"
    if ":" in name and not path.exists():
        return "factory"
    return "architecture" if IMPORTABLE.fullmatch(name) is None and _is_architecture(name, path) else "run"


def _is_architecture(name: str, path: Path) -> bool:
    return not path.exists() and "/" not in name and name in ARCHITECTURES


def open_model(
    name: str, weights: Path | None = None, allow_pickle: bool = False, data: DataInfo | None = None
) -> nn.Module:
    """The classifier of that name, in eval mode, on the CPU.

    Args:
        name: see `FORMS`.
        weights: a .safetensors file, or what torch.save wrote, for a factory, an architecture or a model of timm.
        allow_pickle: read files that run what their author put there.
        data: of the images, for an architecture.

    Raises:
        ValueError: there is no such classifier, its files are damaged or do not fit, or it needs an extra of holdfast.
    """
    form = form_of(name)
    _check_weights(name, form, weights)
    model = _opened(name, form, weights is None, allow_pickle, data)
    if weights is not None:
        target = model[1] if form == "timm" and isinstance(model, nn.Sequential) else model
        fit_weights(target, read_weights(weights, allow_pickle), weights)
    return model.eval() if form in FITTED else model


def _check_weights(name: str, form: Form, weights: Path | None) -> None:
    if weights is None and form == "architecture":
        raise ValueError(f"{name} is an architecture, with random weights; name its own, as in --weights FILE")
    if weights is not None and form == "run":
        raise ValueError("a run folder has its own weights; --weights goes with --model package.module:function")
    if weights is not None and form not in FITTED:
        raise ValueError(f"{name} has its own weights; --weights goes with --model package.module:function")


def _opened(name: str, form: Form, pretrained: bool, allow_pickle: bool, data: DataInfo | None) -> nn.Module:
    path = Path(name)
    match form:
        case "run":
            return _trained(path)
        case "program":
            folder = path.parent if path.name == storage.GRAPH else path
            return network_of(storage.load(folder, spare=(folder / "run.json").exists()))
        case "onnx":
            return OnnxClassifier(path)
        case "pt2":
            return read_exported(path, allow_pickle)
        case "hf":
            return open_hub(name.partition(":")[2], allow_pickle)
        case "timm":
            return open_timm(name.partition(":")[2], pretrained)
        case "factory":
            return _called(name)
        case "architecture" if data is not None:
            return zoo.build(name, data)
        case "architecture":
            raise ValueError(f"the architecture {name} needs to know its images; name a data set")
    read_weights(path, allow_pickle)  # first what is wrong with the file itself
    raise ValueError(
        f"{name} holds weights without the network that they are of; name both, as in --model package.module:function "
        f"--weights {name}, or --model ARCHITECTURE --weights {name}"
    )


def _trained(path: Path) -> nn.Module:
    if not path.exists():
        raise ValueError(f"there is no classifier {path}; expected {FORMS}")
    model = load(path)
    if not recipe_of(path).method.classifies:
        raise ValueError(f"{path} is no classifier; name one, and put this before it: --model NAME --denoiser {path}")
    return model


def _called(name: str) -> nn.Module:
    factory = imported(name)
    try:
        model = factory()
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{name} raised {in_a_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returned a {type(model).__name__}; expected a torch.nn.Module")
    return returning_logits(model)


def returning_logits(model: nn.Module) -> nn.Module:
    """The model; one of transformers, which returns an object that holds logits, wrapped so that it returns them."""
    foreign = any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__)
    return Logits(model) if foreign else model
