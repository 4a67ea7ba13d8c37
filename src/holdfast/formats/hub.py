"""Published classifiers by name: of Hugging Face, also from a folder, with their image processor, and of timm.

What happens to an image before such a network sees it is part of the classifier: radii stay in the image's pixels.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..nn.stored import network_of
from ..program import storage
from .extras import in_one_line, need
from .files import logits_of

Mode = Literal["nearest", "bilinear", "bicubic"]
RESAMPLE: dict[int, Mode] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""By the number that PIL gives them."""


class Preprocess(nn.Module):
    """Images in [0, 1], (batch, channel, height, width) -> resized, cut, with its channels scaled and shifted.

    Grey images become color where the network takes color.

    Args:
        resize: height and width; or the shorter side, which keeps the proportions; None for none.
        crop: height and width of the center that is kept; None for all of it.
        mode: of resizing; with an antialiasing filter, as PIL has.
        scale, shift: what a channel is multiplied by, and what is added then; one number for each, or one for all.
        reverse: the network takes blue, green, red.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        resize: tuple[int, int] | int | None = None,
        crop: tuple[int, int] | None = None,
        mode: Mode = "bilinear",
        scale: tuple[float, ...] = (1.0,),
        shift: tuple[float, ...] = (0.0,),
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.resize, self.crop, self.mode, self.reverse = resize, crop, mode, reverse
        self.register_buffer("scale", torch.tensor(scale).view(-1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).view(-1, 1, 1))
        self.eval()

    @classmethod
    def of(cls, settings: Mapping[str, Any], channels: int = 3) -> Self:
        """What the settings of an image processor of transformers say.

        Args:
            channels: that the network takes.

        Raises:
            ValueError: they ask for something that is not known here.
        """
        mode = RESAMPLE.get(settings.get("resample", 2)) if settings.get("do_resize") else "bilinear"
        if mode is None:
            raise ValueError(f"resampling {settings['resample']} is not known; expected one of {RESAMPLE}")
        resize, crop = _sides(settings) if settings.get("do_resize") else None, None
        if settings.get("do_resize") and settings.get("crop_pct") and isinstance(resize, int):
            resize, crop = _enlarged(resize, settings)
        elif settings.get("do_center_crop"):
            crop = _pair(settings["crop_size"])
        scale, shift = _affine(settings, channels)
        return cls(resize, crop, mode, scale, shift, bool(settings.get("do_flip_channel_order")))

    def forward(self, x: Tensor) -> Tensor:
        if self.resize is not None:
            size = _size(x, self.resize)
            x = interpolate(x, size, mode="nearest") if self.mode == "nearest" else self._smoothly(x, size)
        if self.crop is not None:
            x = _center(x, self.crop)
        if x.shape[1] == 1 and len(self.scale) == 3:
            x = x.expand(-1, 3, -1, -1)
        x = x * self.scale + self.shift
        return x.flip(1) if self.reverse else x

    def _smoothly(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        smaller = any(new < old for new, old in zip(size, x.shape[2:], strict=True))  # else the filter does nothing
        return x if size == x.shape[2:] else interpolate(x, size, mode=self.mode, antialias=smaller)


def _affine(settings: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factor and shift of each channel of an image in [0, 1], where the settings are about one in [0, 255]."""
    factor = 255 * (settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale") else 255.0
    if not settings.get("do_normalize"):
        return (factor,) * channels, (0.0,) * channels
    pairs = list(zip(settings["image_mean"], settings["image_std"], strict=True))
    return tuple(factor / std for _, std in pairs), tuple(-mean / std for mean, std in pairs)


def _sides(settings: Mapping[str, Any]) -> tuple[int, int] | int:
    size = settings["size"]
    if isinstance(size, Mapping) and "shortest_edge" in size:
        if len([side for side in size.values() if side is not None]) > 1:
            raise ValueError(f"the size {dict(size)} is not known; expected height and width, or shortest_edge")
        return int(size["shortest_edge"])
    return _pair(size)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size["height"]), int(size["width"])) if isinstance(size, Mapping) else (int(size), int(size))


def _enlarged(side: int, settings: Mapping[str, Any]) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    """The way of ConvNeXt: small images are made a little larger and cut, large ones are squeezed."""
    return (int(side / settings["crop_pct"]), (side, side)) if side < 384 else ((side, side), None)


def _size(x: Tensor, resize: tuple[int, int] | int) -> tuple[int, int]:
    if not isinstance(resize, int):
        return resize
    height, width = x.shape[2:]
    longer = int(resize * max(height, width) / min(height, width))
    return (resize, longer) if height <= width else (longer, resize)


def _center(x: Tensor, crop: tuple[int, int]) -> Tensor:
    height, width = crop
    if x.shape[2] < height or x.shape[3] < width:
        raise ValueError(f"a center of {height}x{width} pixels cannot be cut out of {x.shape[2]}x{x.shape[3]}")
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


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
        preprocess = _preprocess(folder, name, _channels(folder, name))
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


def _channels(folder: Path, name: str) -> int:
    """Of the images that the network takes, 3 where its settings do not say."""
    with in_one_line(f"hf:{name} has a config.json that cannot be read"):
        return int(json.loads((folder / "config.json").read_text()).get("num_channels", 3))


def _preprocess(folder: Path, name: str, channels: int) -> Preprocess:
    """What the image processor does, compared with it on an image.

    Args:
        channels: of that image.

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
        preprocess = Preprocess.of(processor.to_dict(), channels)
        image = _picture()[:channels]
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


def open_timm(name: str, pretrained: bool = True) -> nn.Sequential:
    """The model of that name behind its preprocessing, in eval mode. timm is imported here and nowhere else.

    Args:
        pretrained: with the published weights; else random ones, to be replaced, by a head of another size, too.

    Raises:
        ValueError: timm cannot be imported, has no such model, or prepares images in a way that is not known here.
    """
    timm = need("timm", "timm")
    with in_one_line(f"timm:{name} cannot be made"):
        model = timm.create_model(name, pretrained=pretrained)
        if not pretrained:
            model.register_load_state_dict_pre_hook(_fit_head)
        settings = timm.data.resolve_model_data_config(model)
        return nn.Sequential(_timm_preprocess(settings), model).eval()


def _fit_head(model: Any, state: Mapping[str, Tensor], *_: Any) -> None:
    """Give the model as many classes as the weights that it is about to load: it was trained on other data since."""
    head = state.get(f"{model.pretrained_cfg['classifier']}.weight")
    if head is not None and len(head) != model.num_classes:
        model.reset_classifier(len(head))


def _timm_preprocess(settings: dict[str, Any]) -> Preprocess:
    """timm's evaluation transform: the shorter side scaled to size / crop_pct, then its center."""
    _, height, width = settings["input_size"]
    mode, kind = settings.get("interpolation", "bicubic"), settings.get("crop_mode", "center")
    if mode not in ("nearest", "bilinear", "bicubic") or kind not in ("center", "squash") or height != width:
        raise ValueError(f"images are prepared by {mode} and {kind} to {height}x{width}, which is not known here")
    side = math.floor(height / settings.get("crop_pct", 1.0))
    scale = tuple(1 / std for std in settings["std"])
    shift = tuple(-mean / std for mean, std in zip(settings["mean"], settings["std"], strict=True))
    return Preprocess((side, side) if kind == "squash" else side, (height, width), mode, scale, shift)
