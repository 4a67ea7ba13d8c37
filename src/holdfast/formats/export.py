"""Networks written in the forms that other tools read: ONNX, torch.export's .pt2, a folder for the Hugging Face hub.

What was written is read again and compared with the network before it gets its name.
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
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..nn.stored import captured
from ..program import storage
from .card import card
from .exported import read_exported
from .extras import in_one_line, need
from .hub import open_hub
from .onnx_file import OnnxClassifier
from .trained import info_of, load, recipe_of

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
