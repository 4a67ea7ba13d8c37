"""How a model computes while it is certified: number format, memory format, batch size. The function that runs so is
the one that is certified."""

import copy
import time

import torch
from torch import Tensor, nn

from ..core.arguments import integer
from .checks import takes_channels_last

PRECISIONS = {"32-true": torch.float32, "64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}


class Reduced(nn.Module):
    """A model that computes in another precision; images and logits stay as they are for everybody else."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(self.dtype)).to(x.dtype)


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """The model, computing in one of PRECISIONS; in another than float32 a copy, and the original stays as it is."""
    dtype = PRECISIONS[precision]
    return model.to(dtype) if dtype == torch.float32 else Reduced(copy.deepcopy(model), dtype)


def prepared(model: nn.Module, images: Tensor, rows: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy of the model and of the images, in the memory format that runs faster; the user's stay as they are.

    A model that cannot be copied runs as it is.
    """
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError):
        return model, images.clone(memory_format=torch.contiguous_format)
    return twin, images.clone(memory_format=faster_format(twin, rows))


def faster_format(model: nn.Module, rows: Tensor) -> torch.memory_format:
    """Bring a model into the memory format that runs faster, of those that it takes; which it is."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if takes_channels_last(model, rows):
        return torch.channels_last
    model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return torch.contiguous_format


def default_batch_size(device: torch.device) -> int:
    """Images in one forward pass, where the user does not say."""
    return 64 if device.type == "cpu" else 1024


def batch_size_of(asked: int | None, device: torch.device) -> int:
    """Images in one forward pass.

    Raises:
        ValueError: what the user asked for is no positive integer.
    """
    return default_batch_size(device) if asked is None else integer("batch_size", asked, 1)


def seconds_per_image(model: nn.Module, image: Tensor, batch_size: int) -> float:
    """Measured time of one image in a full forward pass."""
    batch = image.expand(batch_size, *image.shape).contiguous()
    with torch.inference_mode():
        model(batch)
        started = time.perf_counter()
        model(batch).sum().item()
    return (time.perf_counter() - started) / batch_size
