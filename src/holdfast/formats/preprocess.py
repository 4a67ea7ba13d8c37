"""What happens to an image before a published network sees it, as part of the classifier: radii stay in its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

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
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """What the settings of an image processor of transformers say.

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
        scale, shift = _affine(settings)
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


def _affine(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factor and shift of each channel of an image in [0, 1], where the settings are about one in [0, 255]."""
    factor = 255 * (settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale") else 255.0
    if not settings.get("do_normalize"):
        return (factor,) * 3, (0.0,) * 3
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
