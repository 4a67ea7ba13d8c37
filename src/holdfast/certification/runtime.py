"""How a model computes while it is certified: number format, memory format, batch size, and what runs its program.

The function that runs so is the one that is certified. Its program is run by torch, operation by operation; by
torch.compile; or by onnxruntime. Each rounds in its own way, so that each is a function of its own, and the runtime is
a setting of the run like the precision. Proofs without sampling are about the float64 program as torch runs it, and
take no other.
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arguments import integer
from ..core.certifier import Certifier
from ..formats.export import write_onnx
from ..formats.extras import in_one_line, need
from ..formats.files import OnnxClassifier, in_batches
from ..nn.stored import SplitProgram, program_of
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
    """Measured time of one image in a full forward pass: the least of three, or of what five seconds hold, since other
    processes may halt any of them."""
    batch = image.expand(batch_size, *image.shape).contiguous()
    taken: list[float] = []
    with torch.inference_mode():
        model(batch).sum().item()  # which waits for a GPU
        while len(taken) < 3 and sum(taken) < 5:
            started = time.perf_counter()
            model(batch).sum().item()
            taken.append(time.perf_counter() - started)
    return min(taken) / batch_size


RUNTIMES = ("torch", "compile", "onnxruntime")


CONVOLUTIONS, GAIN = 10, "1.2 to 1.4"
"""From so many convolutions on a CPU, onnxruntime certified so many times as many samples per second as torch, in
benchmarks/runtimes.py; with fewer it gained nothing that counts."""


def faster(model: nn.Module, device: str) -> str | None:
    """The installed runtime that was found faster than torch for models like this one; None if there is none."""
    half = model.right if isinstance(model, SplitProgram) else model
    program = program_of(half)
    if program is None or device != "cpu" or not all(map(find_spec, ("onnxruntime", "onnxscript"))):
        return None
    deep = sum(node.op.startswith("aten.conv") for node in program.nodes) >= CONVOLUTIONS
    return "onnxruntime" if deep else None


def check_runtime(runtime: str, certifier: Certifier, precision: str = "32-true") -> None:
    """Refuse a runtime before any work.

    Raises:
        ValueError: there is none of that name, it lacks a library, or it does not go with the proof or the precision.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}; known: {', '.join(RUNTIMES)}")
    if runtime == "torch":
        return
    if certifier.sampling is None:
        raise ValueError(
            f"{type(certifier).__name__} bounds the rounding of the float64 program as torch runs it; leave the "
            f"runtime at torch, got {runtime}"
        )
    if precision != "32-true":
        raise ValueError(f"the runtime {runtime} computes in float32; leave the precision at 32-true, got {precision}")
    if runtime == "onnxruntime":
        need("onnxruntime", "onnx")
        need("onnxscript", "onnx")


def in_runtime(model: nn.Module, runtime: str, like: Tensor, batch_size: int) -> nn.Module:
    """The program of a classifier, run by another runtime, ready: what it takes to compile has been done.

    Args:
        model: one that was made of a program, on the device on which it will run; of one in two halves the right one is
            run by that runtime.
        like: a tensor on that device, in the memory format of the batches.
        batch_size: of the forward passes; others are filled up.

    Raises:
        ValueError: it is no program any more, or the runtime cannot run it.
    """
    if runtime == "torch":
        return model
    program = program_of(model)
    if program is None:
        raise ValueError(f"the runtime {runtime} runs programs, and this model has none; leave the runtime at torch")
    if isinstance(model, SplitProgram):
        twin = SplitProgram(program).to(like.device)
        twin.right = in_runtime(twin.right, runtime, like.new_empty(0), batch_size)
        return twin
    if runtime == "onnxruntime":
        return _onnx(model, program.input_shape)
    batch = like.new_zeros((batch_size, *program.input_shape))
    last = like.ndim == batch.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return Compiled(model, batch.contiguous(memory_format=torch.channels_last) if last else batch)


def arranged(images: Tensor, runtime: str) -> Tensor:
    """The images in the memory format that a runtime takes: what they are in, but for onnxruntime."""
    return images.contiguous() if runtime == "onnxruntime" else images


def _onnx(model: nn.Module, shape: tuple[int, ...]) -> OnnxClassifier:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.onnx"
        write_onnx(model, shape, file)
        return OnnxClassifier(file)


class Compiled(nn.Module):
    """A network compiled by torch for batches of one size.

    Args:
        batch: zeros, as the batches will be.
    """

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        super().__init__()
        self.model, self._size = model, len(batch)
        self.eval()
        failed = "torch.compile cannot compile this classifier"
        with in_one_line(failed), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            self._run = torch.compile(model, dynamic=False, options={"freezing": True})
            self._run(batch.clone(memory_format=torch.preserve_format))

    def __deepcopy__(self, memo: Any) -> Compiled:
        """Itself: nothing in it ever changes."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        return in_batches(self._run, x, self._size)
