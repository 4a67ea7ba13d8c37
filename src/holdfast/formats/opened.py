"""From the name of a classifier or a denoiser, whatever form it has, to a network that runs it.

Trained models and what is known of them come from run folders; denoisers are trained by a recipe of ours, diffusion
models of diffusers, or networks of a user's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.recipe import DataInfo, Recipe
from ..core.registry import ARCHITECTURES, IMPORTABLE, imported, in_a_line, trusted
from ..nn import zoo
from ..nn.diffusion import DiffusionDenoiser
from ..nn.stored import captured, network_of
from ..nn.weights import fit_weights, read_weights
from ..program import storage
from ..runs import store
from .extras import in_one_line, need
from .files import Logits, OnnxClassifier, read_exported
from .hub import open_hub, open_timm

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


DIFFUSERS = "diffusers:"
DENOISERS = (
    "a run folder that `holdfast train denoise-...` made, diffusers:org/name, diffusers:./folder, or "
    "package.module:function"
)
"""What a denoiser can be named by, in words."""


def open_denoiser(name: str, sigma: float | None = None) -> nn.Module:
    """A denoiser, in eval mode.

    Args:
        name: a run folder of a recipe that trains one; `diffusers:org/name` or `diffusers:./folder`, an unconditional
            model of images; or `package.module:function`.
        sigma: of the noise, in pixel units; for diffusion models.

    Raises:
        ValueError: there is none of that name, or it cannot be used at this sigma.
    """
    if name.startswith(DIFFUSERS):
        if sigma is None:
            raise ValueError(f"{name} removes noise of a known sigma; expected a certifier that samples")
        return _diffusion(name.removeprefix(DIFFUSERS), sigma)
    if IMPORTABLE.fullmatch(name):
        found = imported(name)
        with in_one_line(f"{name} failed"):
            found = found()
        if not isinstance(found, nn.Module):
            raise ValueError(f"{name} returned a {type(found).__name__}; expected a torch.nn.Module that denoises")
        return found.eval()
    if not (Path(name) / "run.json").exists():
        raise ValueError(f"there is no denoiser {name}; expected {DENOISERS}")
    if recipe_of(Path(name)).method.classifies:
        raise ValueError(
            f"{name} is a classifier; expected a denoiser, such as `holdfast train denoise-mnist-0.25` makes"
        )
    return load(name)


def _diffusion(name: str, sigma: float) -> DiffusionDenoiser:
    """An UNet2DModel with its scheduler, from one folder or from unet/ and scheduler/ in it."""
    diffusers = need("diffusers", "diffusers")
    folder = Path(name)
    if not folder.is_dir():
        hub = need("huggingface_hub", "diffusers")
        repository, _, revision = name.partition("@")
        with in_one_line(f"{DIFFUSERS}{name} cannot be had (a folder is named as in {DIFFUSERS}./folder)"):
            wanted = ["*.json", "*.safetensors"]
            folder = Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    with in_one_line(f"{DIFFUSERS}{name} holds no UNet2DModel that can be read"):
        network = diffusers.UNet2DModel.from_pretrained(unet, use_safetensors=True, torch_dtype=torch.float32)
    alphas, prediction = _schedule(folder, name, diffusers)
    return DiffusionDenoiser(network.eval(), alphas, sigma, prediction)


def _schedule(folder: Path, name: str, diffusers: Any) -> tuple[torch.Tensor, Any]:
    places = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"{DIFFUSERS}{name} has no scheduler_config.json, so that its noise levels are not known")
    with in_one_line(f"{path} is no schedule of noise"):
        told = json.loads(path.read_text())
        return diffusers.DDPMScheduler.from_config(told).alphas_cumprod, told.get("prediction_type", "epsilon")
