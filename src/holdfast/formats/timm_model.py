"""Models of timm by name, with the size and the normalization that they were trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .extras import in_one_line, need
from .preprocess import Preprocess


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
        return nn.Sequential(_preprocess(settings), model).eval()


def _fit_head(model: Any, state: Mapping[str, Tensor], *_: Any) -> None:
    """Give the model as many classes as the weights that it is about to load: it was trained on other data since."""
    head = state.get(f"{model.pretrained_cfg['classifier']}.weight")
    if head is not None and len(head) != model.num_classes:
        model.reset_classifier(len(head))


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
