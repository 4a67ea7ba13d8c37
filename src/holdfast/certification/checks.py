"""What no certificate can be true for is refused here, by name, before any work is done."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from ..core.certifier import Certifier


def check(model: nn.Module, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Refuse a model or images that no certificate can be true for. Neither is changed.

    Args:
        model: maps images to logits (batch, class).
        images: (batch, channel, height, width), floating point, in [0, 1].
        batch_size: of the run; such a batch is compared with one of a few images, and is tried alone where the model
            does not take those, because it was made for batches of one size.

    Returns:
        Some images that the model takes, as it takes them.

    Raises:
        ValueError: the model is in training mode, normalises over the batch, does not fit the images, or answers
            differently when the other images of a batch change; or these are not in [0, 1]; or torch.autocast is on.
    """
    check_images(images)
    _check_parts(model)
    if torch.is_autocast_enabled(images.device.type):
        raise ValueError(
            "torch.autocast is on here: the model would compute in few bits, and elsewhere it is another function; "
            "certify outside of it (holdfast certify --precision says in which numbers a model computes)"
        )
    return _check_rows(model, images, batch_size)


def watch(model: nn.Module, rows: Tensor) -> Callable[[], None]:
    """What refuses, when it is called, a model that answers otherwise by then: votes are counted of one function.

    Args:
        rows: some images that the model takes; see `check`.
    """
    before = _answers(model, rows)

    def refuse() -> None:
        if not _close(model, _answers(model, rows), before):
            raise ValueError(
                "the model answers otherwise than before it was certified: its calls change what it computes, so that "
                "the votes are about no function; what was certified of it just now is worth nothing"
            )

    return refuse


def check_classes(model: nn.Module, rows: Tensor, classes: int, dataset: str) -> None:
    """Refuse a model whose classes cannot be those of the data set.

    Args:
        rows: some images that the model takes; see `check`.

    Raises:
        ValueError: it has another number of them.
    """
    found = _answers(model, rows).shape[1]
    if found != classes:
        raise ValueError(f"the model tells {found} classes apart, and the data set {dataset} has {classes}")


def check_certifier(certifier: object) -> None:
    """Refuse what is no certifier, such as the class instead of an object."""
    if isinstance(certifier, type) and issubclass(certifier, Certifier):
        raise ValueError(f"expected a certifier, got the class {certifier.__name__}; write {certifier.__name__}()")
    if not isinstance(certifier, Certifier):
        raise ValueError(f"expected a certifier, such as Gaussian(sigma=0.25), got {type(certifier).__name__}")


class Function(nn.Module):
    """A plain function as a module, for certifiers that only call it."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def as_module(model: object) -> nn.Module:
    """A model or a plain function as a module.

    Raises:
        ValueError: it is neither, such as a class.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type):
        raise ValueError(f"expected a model, got the class {model.__name__}; write {model.__name__}(...)")
    if not callable(model):
        raise ValueError(f"expected a model that maps images to logits, got {type(model).__name__}")
    return Function(model)


def takes_channels_last(model: nn.Module, rows: Tensor) -> bool:
    """Whether a model whose weights are in that format answers the same to images in it; x.view() may refuse them."""
    try:
        found = _answers(model, rows.contiguous(memory_format=torch.channels_last))
    except ValueError:
        return False
    return _close(model, found, _answers(model, rows))


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images in [0, 1]."""
    if not isinstance(images, Tensor):
        raise ValueError(f"expected a torch.Tensor of images, got {type(images).__name__}; see holdfast.as_images")
    if images.ndim != 4 or not images.is_floating_point() or images.layout != torch.strided or images.is_meta:
        found = f"{tuple(images.shape)} of {images.dtype}, {images.layout}, on {images.device}"
        raise ValueError(f"expected floating-point images (batch, channel, height, width) in [0, 1], got {found}")
    if not images.numel():
        raise ValueError(f"expected at least one image, got an empty batch of shape {tuple(images.shape)}")
    if not (images.min() >= 0 and images.max() <= 1):  # NaN is in no range
        raise ValueError(
            f"expected images in [0, 1], got [{images.min():.4g}, {images.max():.4g}]; divide by the largest value, "
            "and put the normalisation inside the model (holdfast.Normalize)"
        )


def _check_parts(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"its part {name!r}" if name else "it"
        if module.training:
            raise ValueError(
                f"the model must not change while it is certified, but {where} is in training mode; call .eval()"
            )
        if any(map(is_lazy, module.parameters(recurse=False))):
            kind = type(module).__name__
            raise ValueError(f"the model has no weights yet: {where}, a {kind}, makes random ones at its first call")
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"a certificate is about one image alone, but {where}, a {type(module).__name__} without running "
                "statistics, normalises over the batch; train it with track_running_stats=True"
            )


BESIDE = (math.nan, 1.0, 1000.0, -1000.0)
"""Pixels of an image beside others. Noise takes pixels out of [0, 1], and `if x.max() > 1: x = x / 255`, for a batch as
a whole, is seen there alone."""


def _check_rows(model: nn.Module, images: Tensor, batch_size: int | None) -> Tensor:
    first = images[0]
    second = images[1] if len(images) > 1 else 1 - first
    rows = torch.stack([first, second, first / 2])
    try:
        plain = _answers(model, rows)
    except ValueError:
        if batch_size in (None, len(rows)):
            raise
        rows = rows[torch.arange(batch_size, device=rows.device) % len(rows)]
        plain = _answers(model, rows)
    permuted = _answers(model, rows.roll(1, 0)).roll(-1, 0)
    if not (_close(model, permuted, plain) and all(_alone(model, rows, plain, value) for value in BESIDE)):
        raise ValueError(
            "a certificate is about one image alone, but the model's answer to an image changes with the images "
            "beside it in a batch, or from call to call; look for statistics over the batch (normalisation, dynamic "
            "quantisation) and for random numbers in forward()"
        )
    for size in {batch_size or len(rows), 1}:
        if size != len(rows) and not _close(model, *_in_batches_of(size, model, rows, plain)):
            raise ValueError(
                f"the model answers otherwise in batches of {size} than in batches of {len(rows)}: a certificate is "
                "about one image, however many others it comes with"
            )
    if not _close(model, _with_gradients(model, rows, plain), plain):
        raise ValueError(
            "the model answers otherwise where torch records gradients: it asks for torch.is_grad_enabled(), "
            "torch.is_inference_mode_enabled() or x.requires_grad, so that what is certified is not what runs elsewhere"
        )
    return rows


def _in_batches_of(size: int, model: nn.Module, rows: Tensor, plain: Tensor) -> tuple[Tensor, Tensor]:
    """Its answers in batches of that size, and those to compare with; the latter twice where it takes none of one."""
    places = torch.arange(size * math.ceil(len(rows) / size), device=rows.device) % len(rows)
    try:
        return torch.cat([_answers(model, rows[part]) for part in places.split(size)]), plain[places]
    except ValueError:
        if size != 1:
            raise
        return plain, plain  # made for batches of another size


def _with_gradients(model: nn.Module, rows: Tensor, plain: Tensor) -> Tensor:
    """Its answers as in ordinary use, where torch records gradients; those to compare with, where it has none."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return _called(model, rows.clone().requires_grad_().clone()).detach()  # a leaf takes no change in place
    except ValueError:
        return plain


def _alone(model: nn.Module, rows: Tensor, plain: Tensor, value: float) -> bool:
    """Whether the answers to all rows but the second stay when all its pixels get this value."""
    changed = rows.clone()
    changed[1:2] = value
    try:
        found = _answers(model, changed)
    except ValueError:
        return not 0 <= value <= 1  # a model may refuse that, and is none the worse
    others = torch.arange(len(rows)) != 1
    return _close(model, found[others], plain[others])


def _close(model: nn.Module, found: Tensor, expected: Tensor) -> bool:
    """Equal but for the rounding of a model of that precision."""
    dtypes = [value.dtype for value in model.state_dict().values() if value.is_floating_point()]
    tolerance = max([1e-3, *(math.sqrt(torch.finfo(dtype).eps) for dtype in dtypes)])
    finite = expected[expected.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(found, expected, rtol=0, atol=tolerance * scale, equal_nan=True)


def _answers(model: nn.Module, rows: Tensor) -> Tensor:
    """Logits (batch, class) of a copy of the rows: what the model does to its input stays in the copy."""
    with torch.inference_mode():
        return _called(model, rows.clone()).clone()


def _called(model: nn.Module, rows: Tensor) -> Tensor:
    """Logits (batch, class); raises a ValueError where there are none."""
    shape = tuple(rows.shape[1:])
    try:
        logits = model(rows)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if other := {value.dtype for value in model.state_dict().values() if value.is_floating_point()} - {rows.dtype}:
            name = str(other.pop()).removeprefix("torch.")
            raise ValueError(
                f"the model computes in {name} and the images are {str(rows.dtype).removeprefix('torch.')}: call "
                f"model.float(), or holdfast.certification.runtime.in_precision to certify it in {name} ({error})"
            ) from error
        raise ValueError(f"the model does not take images of shape {shape}: {error}") from error
    if not isinstance(logits, Tensor) and isinstance(getattr(logits, "logits", None), Tensor):
        raise ValueError(
            f"expected logits (batch, class), got a {type(logits).__name__} that holds them; give "
            "holdfast.as_classifier(model), or a module whose forward returns model(x).logits"
        )
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(rows) or logits.shape[1] < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"expected logits (batch, class) for {len(rows)} images and two classes or more, got {found}; the model "
            f"was given images of shape {shape}"
        )
    if logits.is_complex() or logits.dtype is torch.bool or logits.layout != torch.strided:
        raise ValueError(f"expected logits that are dense real numbers, got {logits.dtype} ({logits.layout})")
    return logits
