"""Denoisers by name: trained by a recipe of ours, diffusion models of diffusers, networks of a user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.registry import IMPORTABLE, imported
from ..nn.diffusion import DiffusionDenoiser
from .extras import in_one_line, need
from .trained import load, recipe_of

DIFFUSERS = "diffusers:"


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
