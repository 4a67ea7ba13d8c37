"""The card of a model on the hub: what it is, how it was trained, and what was certified about it.

Its head holds the certified accuracies as the hub's `model-index`, which huggingface_hub reads as `eval_results`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..core.recipe import DataInfo, Recipe
from ..runs.certified import CertifiedRun

RADII = 5
"""Columns of the table."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""A radius is one of them, times a power of ten, times 0, 1, 2, ..."""


def card(run: Path, recipe: Recipe, info: DataInfo) -> str:
    """README.md of a run, with a table for each of its certified data sets."""
    size = "x".join(map(str, info.shape))
    certified = _certified(run)
    head = ["---", "library_name: holdfast", "pipeline_tag: image-classification", "tags:", "- certified-robustness"]
    if results := [_result(one) for one in certified if not one.unfinished]:
        head.append(f"model-index: {json.dumps([{'name': run.name, 'results': results}])}")  # JSON is YAML
    lines = [*head, "---", "", f"# {run.name}", ""]
    lines += [
        f"A classifier of {info.name} ({size} pixels in [0, 1], {info.classes} classes): the architecture",
        f"{recipe.arch}, trained by `{recipe.method}` for {recipe.epochs} epochs. Normalization is inside.",
        "",
        "```python",
        "from holdfast import Gaussian, as_classifier, certify",
        'certify(as_classifier("hf:./FOLDER"), images, Gaussian(sigma=0.25))',
        "```",
        "",
        "`graph.json` and `model.safetensors` are the whole classifier; reading them runs no code.",
        "",
        "## Certified accuracy",
        "",
    ]
    tables = [line for one in certified for line in _table(one)]
    return "\n".join([*lines, *(tables or ["Nothing was certified yet."])]) + "\n"


def _certified(run: Path) -> list[CertifiedRun]:
    """Its certified data sets that hold anything.

    Raises:
        ValueError: one is damaged; a card without it would say less than is there.
    """
    return [one for path in sorted(run.glob("certify-*/run.json")) if len(one := CertifiedRun.open(path.parent))]


def _result(run: CertifiedRun) -> dict[str, Any]:
    """An entry of the hub's model-index."""
    name, told = str(run.settings.get("dataset", "unknown")), _settings(run)
    metrics = [
        {
            "type": "certified_accuracy",
            "value": float(np.mean(run.reaches(radius))),
            "name": f"certified accuracy at {run.norm} radius {radius:g}",
            "args": {"radius": radius, "norm": run.norm, "alpha": run.alpha, "images": len(run)} | told,
        }
        for radius in run.given_radii or _radii(run.largest)
    ]
    dataset = {"name": name, "type": name, "split": str(run.settings.get("split", "test"))}
    return {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}


def _settings(run: CertifiedRun) -> dict[str, Any]:
    return {name: run.settings[name] for name in ("certifier", "sigma", "n", "n_max") if name in run.settings}


def _table(run: CertifiedRun) -> Iterator[str]:
    radii = run.given_radii or _radii(run.largest)
    settings = ", ".join(f"{name} {value}" for name, value in _settings(run).items())
    where = f"{run.settings.get('dataset', '')} {run.settings.get('split', '')}".strip()
    images = f"{len(run):,} of {run.total:,} images (unfinished)" if run.unfinished else f"{len(run):,} images"
    sure = "a proof" if run.alpha is None else f"each wrong with probability at most {run.alpha:g}"
    yield f"{settings}; {images} of {where}; {run.norm} radii in pixels of [0, 1] images, {sure}."
    yield ""
    yield "| radius | " + " | ".join(f"{radius:g}" for radius in radii) + " |"
    yield "|---" * (len(radii) + 1) + "|"
    shares = [100 * float(np.mean(run.reaches(radius))) for radius in radii]
    yield "| certified accuracy | " + " | ".join(f"{share:.1f} %" for share in shares) + " |"
    yield ""


def _radii(largest: float) -> tuple[float, ...]:
    """0 and a few round radii, up to the largest that was reached."""
    if not largest > 0:
        return (0.0,)
    power = 10.0 ** np.floor(np.log10(largest / (RADII - 1)))
    step = next(factor * power for factor in STEPS if factor * power >= largest / (RADII - 1) * (1 - 1e-9))
    return tuple(float(step) * i for i in range(RADII) if step * i <= largest)
