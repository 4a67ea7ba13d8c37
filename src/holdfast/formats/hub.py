"""Image classifiers of Hugging Face, by the name of their repository or from a folder, with their image processor."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..nn.stored import network_of
from ..program import storage
from .extras import in_one_line, need
from .outputs import logits_of
from .preprocess import Preprocess

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
HERE = {"local_files_only": True, "trust_remote_code": False}
"""Nothing more is fetched, and no code of a folder is run, nor asked for."""
LEVELS = 2.0
"""By how many of 255 grey levels our pixels may differ from those of the image processor, which rounds them."""


class HubClassifier(nn.Module):
    """A model of transformers, behind what its image processor does, so that a radius is in pixels of the data set."""

    def __init__(self, preprocess: Preprocess, model: nn.Module, config: str) -> None:
        super().__init__()
        self.preprocess, self.model, self.config = preprocess, model, config
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return logits_of(self.model(self.preprocess(x)))


def open_hub(name: str, allow_pickle: bool = False) -> nn.Module:
    """The classifier of a repository `org/name`, perhaps with @revision, or of a folder.

    Args:
        allow_pickle: read weights that are no safetensors.

    Raises:
        ValueError: there is none, or it lacks weights or an image processor; the message says which.
    """
    folder = Path(name)
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise ValueError(f"hf:{name}: there is no such folder")
        folder = _downloaded(name, allow_pickle)
    if (folder / storage.GRAPH).is_file():
        return network_of(storage.load(folder))
    if not (folder / "config.json").is_file():
        raise ValueError(f"hf:{name} holds neither config.json, of transformers, nor {storage.GRAPH}, of holdfast")
    with _quiet():
        preprocess = _preprocess(folder, name)
        model = _model(folder, name, allow_pickle)
    told = {k: v for k, v in model.config.to_diff_dict().items() if k not in ("transformers_version", "_name_or_path")}
    return HubClassifier(preprocess, model, json.dumps(told, sort_keys=True, default=str))


def _downloaded(name: str, allow_pickle: bool) -> Path:
    hub = need("huggingface_hub", "hf")
    repository, _, revision = name.partition("@")
    wanted = ["*.json", "*.safetensors", *(["*.bin"] if allow_pickle else [])]
    with in_one_line(f"hf:{name} cannot be had (a folder is named as in hf:./folder)"):
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=wanted))


def _model(folder: Path, name: str, allow_pickle: bool) -> Any:
    """In eval mode, in float32; every weight comes from the files.

    Raises:
        ValueError: some would be random, as a head that the files lack.
    """
    auto = need("transformers", "hf").AutoModelForImageClassification
    safe = {} if allow_pickle else {"use_safetensors": True}
    with in_one_line(f"hf:{name} holds no image classifier that transformers can read"):
        model, found = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **HERE, **safe)
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"hf:{name} lacks weights of the classifier ({', '.join(missing[:3])}{more}), which would be random; was "
            "it trained to classify images?"
        )
    return model.eval()


def _preprocess(folder: Path, name: str) -> Preprocess:
    """What the image processor does, compared with it on an image.

    Raises:
        ValueError: there is none, or it does something that is not known here.
    """
    if not any((folder / file).is_file() for file in PROCESSORS):
        raise ValueError(
            f"hf:{name} has no image processor ({PROCESSORS[0]}), so that size and normalization of its images are not "
            "known; save one beside the model, or wrap the model in a function of your own"
        )
    auto = need("transformers", "hf").AutoImageProcessor
    with in_one_line(f"hf:{name} has an image processor that cannot be used"):
        processor = auto.from_pretrained(folder, **HERE)
        preprocess = Preprocess.of(processor.to_dict())
        image = _picture()
        expected = processor(images=image.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
        found = preprocess(image[None].float() / 255)
        level = float(preprocess.scale.abs().max()) / 255
        if found.shape != expected.shape or float((found - expected).abs().max()) > LEVELS * level:
            raise ValueError(f"it does more than resize, cut, rescale and normalize: {type(processor).__name__}")
    return preprocess


def _picture() -> Tensor:
    """A smooth image of medium brightness, wider than high, uint8 (3, 48, 64)."""
    coarse = np.random.default_rng(0).uniform(0.3, 0.7, (1, 3, 4, 5))
    smooth = interpolate(torch.from_numpy(coarse), (48, 64), mode="bilinear", align_corners=True)[0]
    return (255 * smooth).round().to(torch.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and hints of transformers."""
    logs = need("transformers", "hf").utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
