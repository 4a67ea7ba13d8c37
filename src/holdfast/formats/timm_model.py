"""Models of timm by name, with the size and the normalization that they were trained with."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from .extras import in_one_line, need
from .preprocess import Preprocess


def open_timm(name: str, pretrained: bool = True) -> nn.Sequential:
    """The model of that name behind its preprocessing, in eval mode. timm is imported here and nowhere else.

    Args:
        pretrained: with the published weights; else random ones, to be replaced.

    Raises:
        ValueError: timm cannot be imported, has no such model, or prepares images in a way that is not known here.
    """
    timm = need("timm", "timm")
    with in_one_line(f"timm:{name} cannot be made"):
        model = timm.create_model(name, pretrained=pretrained)
        settings = timm.data.resolve_model_data_config(model)
        return nn.Sequential(_preprocess(settings), model).eval()


def _preprocess(settings: dict[str, Any]) -> Preprocess:
    """timm's evaluation transform: the shorter side scaled to size / crop_pct, then its center."""
    _, height, width = settings["input_size"]
    mode, kind = settings.get("interpolation", "bicubic"), settings.get("crop_mode", "center")
    if mode not in ("nearest", "bilinear", "bicubic") or kind not in ("center", "squash") or height != width:
        raise ValueError(f"images are prepared by {mode} and {kind} to {height}x{width}, which is not known here")
    side = math.floor(height / settings.get("crop_pct", 1.0))
    scale = tuple(1 / std for std in settings["std"])
    shift = tuple(-mean / std for mean, std in zip(settings["mean"], settings["std"], strict=True))
    return Preprocess((side, side) if kind == "squash" else side, (height, width), mode, scale, shift)
