"""Networks written in the forms that other tools read: ONNX, torch.export's .pt2, a folder for the Hugging Face hub.

What was written is read again and compared with the network before it gets its name. The card in the folder for the hub
says what the model is, how it was trained, and what was certified about it; its head holds the certified accuracies as
the hub's `model-index`, which huggingface_hub reads as `eval_results`.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..core.recipe import DataInfo, Recipe
from ..nn.stored import captured
from ..program import storage
from ..runs.certified import CertifiedRun
from .extras import in_one_line, need
from .files import OnnxClassifier, read_exported
from .hub import open_hub
from .opened import info_of, load, recipe_of

Format = Literal["onnx", "hf", "pt2"]
LARGEST = 2**30
"""Bytes of weights up to which an ONNX file holds them itself; it can hold two gigabytes."""
COMPARED = 16
"""Images on which a network and what was written must agree."""


def export_model(run: Path, format: Format, out: Path | None = None) -> Path:
    """Write the trained model of a run folder.

    Args:
        out: the file, or for hf the folder; by default model.onnx, model.pt2 or hf in the run folder.

    Returns: what was written.

    Raises:
        ValueError: it is no finished run, exists already, or cannot be written so; then nothing is left behind.
    """
    if format not in get_args(Format):
        raise ValueError(f"expected the format onnx, hf or pt2, got {format!r}")
    model, info, recipe = load(run), info_of(run), recipe_of(run)
    if not recipe.method.classifies:
        raise ValueError(f"{run} is a denoiser; only classifiers are exported")
    target = out or run / {"onnx": "model.onnx", "pt2": "model.pt2", "hf": "hf"}[format]
    writers: dict[str, Callable[[nn.Module, tuple[int, ...], Path], None]] = {"onnx": write_onnx, "pt2": write_pt2}
    if format != "hf":
        writers[format](model, info.shape, target)
        return target

    def more(folder: Path) -> None:
        facts = {
            "library_name": "holdfast",
            "architecture": recipe.arch,
            "dataset": info.name,
            "num_labels": info.classes,
        }
        (folder / "config.json").write_text(json.dumps(facts | {"input": info.shape}, indent=2) + "\n")
        (folder / "README.md").write_text(card(run, recipe, info))

    write_folder(model, info.shape, target, more)
    return target


def write_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """A file that takes `images` (batch, channel, height, width) in [0, 1] and returns `logits` (batch, class).

    Args:
        model: in eval mode.
        shape: of one image.

    Raises:
        ValueError: an operation has no form in ONNX, an extra is missing, or the file answers differently.
    """
    need("onnxscript", "onnx")
    with _draft(path) as draft:
        file = draft / path.name
        with _silent(), in_one_line(f"{path.name} cannot be written as ONNX"):
            torch.onnx.export(
                _plain(model, shape),
                (_images(model, shape),),
                file,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=["images"],
                output_names=["logits"],
                external_data=sum(t.nbytes for t in model.state_dict().values()) > LARGEST,
                verbose=False,
            )
        _compare(model, OnnxClassifier(file), shape, "the ONNX file")


def write_pt2(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """What torch.export.save writes, for any batch size; arguments and errors as `write_onnx`."""
    with _draft(path) as draft:
        file = draft / path.name
        with _silent(), in_one_line(f"{path.name} cannot be written by torch.export"):
            batch = ({0: torch.export.Dim.DYNAMIC},)
            plain, images = _plain(model, shape), _images(model, shape)
            torch.export.save(torch.export.export(plain, (images,), dynamic_shapes=batch, strict=False), file)
        _compare(model, read_exported(file, allow_pickle=True), shape, "the exported program")


def write_folder(
    model: nn.Module, shape: tuple[int, ...], folder: Path, more: Callable[[Path], None] | None = None
) -> None:
    """A folder for the hub, which holds the program of the network and no code: graph.json and model.safetensors.

    Args:
        more: writes further files into it, such as a card.

    Raises:
        ValueError: the network cannot be captured as a program.
    """
    with _draft(folder) as draft:
        inner = draft / folder.name
        storage.save(captured(model, shape), inner)
        (inner / storage.PLACES).unlink()  # lines and paths of its author's files, which are nobody else's
        _compare(model, open_hub(str(inner)), shape, "the folder")
        if more is not None:
            more(inner)


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A folder beside a path; what is made in it, under the path's name and beside that, moves there in the end.

    Raises:
        ValueError: there is something at that path already.
    """
    if path.exists():
        raise ValueError(f"{path} is there already; remove it, or name another place by --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield draft
        for made in draft.iterdir():
            made.rename(path.parent / made.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _plain(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Its program, free of hooks and of parametrized weights, where it has one."""
    try:
        return captured(model, shape).module()
    except ValueError:
        return model


def _images(model: nn.Module, shape: tuple[int, ...], count: int = 2) -> Tensor:
    like = next((t for t in model.state_dict().values() if t.is_floating_point()), torch.zeros(()))
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)).to(like.dtype)


@torch.no_grad()
def _compare(model: nn.Module, written: nn.Module, shape: tuple[int, ...], what: str) -> None:
    images = _images(model, shape, COMPARED)
    expected, found = model(images.clone()), written(images)
    scale = max(float(expected.abs().max()), math.ulp(1.0))
    if expected.shape != found.shape or not torch.allclose(found, expected, rtol=0, atol=1e-3 * scale):
        raise ValueError(f"{what} answers differently from the network, on {COMPARED} random images")


@contextmanager
def _silent() -> Iterator[None]:
    """Without the hints of torch's exporters, which are about torch itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
