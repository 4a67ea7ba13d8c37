"""What a user sees of a training beside its result: what it is before, accuracies during it, what it was after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..core.recipe import Recipe
from ..data import Dataset, Images

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SEEN = 1000
"""Images that accuracy is shown on."""


def some(data: Images, split: str) -> Dataset:
    """At most SEEN images, spread evenly over the data set, in memory."""
    chosen = torch.linspace(0, len(data) - 1, min(SEEN, len(data))).long()
    return data.take(chosen, split)


def banner(recipe: Recipe, folder: Path, model: nn.Module, examples: int, shown: Dataset, machine: str) -> str:
    """What is going to be trained, on what, and where it goes."""
    data, parameters = shown.info, sum(parameter.numel() for parameter in model.parameters())
    held = f", every {recipe.held_out}th of each class held out" if recipe.held_out else ""
    extra = f", and {recipe.extra_ratio:g} of {recipe.extra_data} for each of them" if recipe.extra_data else ""
    size = "x".join(map(str, data.shape))
    steps = -(-examples // recipe.batch_size)
    return (
        f"data     {data.name}: {examples:,} training images of {size} in {data.classes} classes{held}{extra}\n"
        f"network  {recipe.arch}: {parameters:,} parameters\n"
        f"method   {recipe.method}\n"
        f"epochs   {recipe.epochs}, of {steps:,} steps with {recipe.batch_size} images each\n"
        f"machine  {machine}\n"
        f"folder   {folder}"
    )


@torch.no_grad()
def accuracies(fabric: Fabric, recipe: Recipe, model: nn.Module, shown: Dataset) -> dict[str, float]:
    """The share of the shown images that are classified correctly, plainly and, where the method has noise, under it.

    Leaves the model in eval mode. Nothing that the training draws its random numbers from is touched: the noise has a
    generator of its own, and is the same in every epoch.

    Args:
        model: the plain one, not what training wraps around it; one process evaluates it alone.
        shown: images on the device of the model, with what they are as their split.
    """
    model.eval()
    if not recipe.method.classifies:
        return {}
    generator = torch.Generator(fabric.device).manual_seed(0)
    dtype = next(model.parameters()).dtype
    right, noisy = 0, None
    for part in torch.arange(len(shown), device=fabric.device).split(recipe.batch_size):
        x, y = shown.batch(part)
        with fabric.autocast():
            right += int((model(x.to(dtype)).argmax(1) == y).sum())
            logits = recipe.method.noisy(model, x.to(dtype), generator)
        if logits is not None:
            noisy = (noisy or 0) + int((logits.argmax(1) == y).sum())
    name = f"{shown.split}_accuracy"
    return {name: right / len(shown)} | ({} if noisy is None else {f"noisy_{name}": noisy / len(shown)})


def told(row: dict[str, float], shown: Dataset) -> str:
    """An epoch of metrics.csv in words."""
    name = f"{shown.split}_accuracy"
    if name not in row:
        return f"loss {row['loss']:.4f}"
    noisy = f", {100 * row[f'noisy_{name}']:.1f} % with noise" if f"noisy_{name}" in row else ""
    images = f"{len(shown):,} {shown.split.replace('_', '-')} images"
    return f"loss {row['loss']:.4f}, accuracy {100 * row[name]:.1f} %{noisy}, on {images}"


def finished(folder: Path, **asked: object) -> str:
    """What a finished run was trained with, and which of the settings asked for now it therefore does not have.

    Args:
        asked: settings of the machine, under their names in log.jsonl; None where anything will do.
    """
    starts = [entry for entry in _log(folder) if entry.get("event") == "train"]
    had = {name: list(dict.fromkeys(str(start.get(name, "?")) for start in starts)) for name in asked}
    with_what = ", ".join(f"{name} {' then '.join(values) or '?'}" for name, values in had.items())
    text = f"{folder} is finished; it was trained with {with_what}"
    other = [f"{name} {value}" for name, value in asked.items() if value is not None and had[name] != [str(value)]]
    if other:
        text += f"\nasked for now: {', '.join(other)}. That trains nothing; to train anew, say --runs OTHER-FOLDER"
    return text


def _log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
