"""Whatever classifier a user has, opened: run folders, files, names on Hugging Face or in timm, functions, networks."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .certification.checks import as_module
from .certification.identity import model_hash, parts_of
from .core.certifier import Certifier
from .core.recipe import DataInfo
from .core.registry import CERTIFIERS
from .formats.files import ExportedClassifier, OnnxClassifier, fit_weights, read_weights
from .formats.opened import Form, form_of, open_denoiser, open_model, recipe_of, returning_logits
from .formats.opened import architecture as architecture
from .formats.opened import info_of as info_of
from .formats.opened import load as load
from .nn.denoised import Denoised
from .nn.stored import network_of
from .program import Program

OWN = "gaussian"
"""The certifier of a model of one's own, where none is named."""


def as_classifier(
    thing: Any, weights: Path | str | None = None, *, allow_pickle: bool = False, data: DataInfo | None = None
) -> nn.Module:
    """A classifier that `certify` takes, out of whatever holds one: images in [0, 1] -> logits (batch, class).

    Args:
        thing: the name of a run folder, of a folder with graph.json, of an .onnx or .pt2 file; `hf:org/name` or
            `hf:./folder`; `timm:name`; `package.module:function`; the name of an architecture. Or a network (one of
            transformers too), a program, what torch.export or onnx made, or any function of images.
        weights: a .safetensors file, or what torch.save wrote, for what comes without its own.
        allow_pickle: read files that run what their author put there: .pt2 files, and pickles that hold objects.
        data: of the images, for the name of an architecture.

    Raises:
        ValueError: there is no such classifier, its files are damaged or do not fit, or it needs an extra of holdfast.
    """
    path = None if weights is None else Path(weights)
    if isinstance(thing, str | Path):
        return open_model(str(thing), path, allow_pickle, data)
    if isinstance(thing, Program):
        model = network_of(thing)
    elif isinstance(thing, torch.export.ExportedProgram):
        model = ExportedClassifier(thing)
    elif isinstance(thing, bytes) or type(thing).__name__ == "ModelProto":
        model = OnnxClassifier(thing if isinstance(thing, bytes) else thing.SerializeToString())
    else:
        model = returning_logits(as_module(thing))
    return model if path is None else fit_weights(model, read_weights(path, allow_pickle), path)


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
    """Where a model comes from, by name; see `as_classifier`."""

    model: str
    weights: Path | None = None
    """A .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt), for what comes without its own."""
    allow_pickle: bool = False
    """Read files that hold more than tensors, and .pt2 files. Such a pickle is a program: reading it runs whatever its
    author put there. Only for files that you trust."""
    data: DataInfo | None = None
    """Of the images, where the model is the name of an architecture."""
    denoiser: str | None = None
    """What images go through first: a run folder, `diffusers:name`, or `package.module:function`."""
    sigma: float | None = None
    """Standard deviation of the noise that a diffusion model is asked to remove."""

    def load(self) -> nn.Module:
        """The model, in eval mode."""
        model = open_model(self.model, self.weights, self.allow_pickle, self.data)
        return model if self.denoiser is None else Denoised(open_denoiser(self.denoiser, self.sigma), model)

    @property
    def form(self) -> Form:
        """What the name stands for."""
        return form_of(self.model)

    @property
    def run(self) -> Path | None:
        """The run folder, if it comes from one."""
        return Path(self.model) if self.form == "run" else None

    def identity(self, model: nn.Module) -> str:
        """`model_hash` of what `load` gave, with the files that the user gave."""
        named = [(self.form, self.model), (form_of(self.denoiser or "."), self.denoiser or "")]
        return model_hash(model, [name.partition(":")[0] for form, name in named if form == "factory"])

    def folder(self, runs: Path, identity: str) -> Path:
        """The run folder, or one under `runs` that is named after the model, and after its denoiser."""
        if self.run and not self.denoiser:
            return self.run
        parts = "+".join(_name(part) for part in (self.denoiser, self.model) if part)
        return runs / f"{parts}-{identity}"

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """What run.json tells of a model that is not that of the run folder around it: its parts, with identities."""
        if self.denoiser:
            return parts_of(model, {"classifier": self.model, "denoiser": self.denoiser})
        return {} if self.run else {"model": {"classifier": {"from": self.model}}}


def _name(source: str) -> str:
    """For a folder: without what a file system may refuse; of a path the last part."""
    last = source if ":" in source else Path(source).name
    return re.sub(r"[^\w.-]+", "-", last).strip("-.")
