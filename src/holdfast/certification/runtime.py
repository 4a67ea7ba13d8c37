"""What runs the program of a classifier: torch, operation by operation; torch.compile; or onnxruntime.

Each rounds in its own way, so that each is a function of its own: the certified one is that of the runtime, which is a
setting of the run. Proofs without sampling are about the float64 program as torch runs it, and take no other.
"""

from __future__ import annotations

import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.certifier import Certifier
from ..formats.export import write_onnx
from ..formats.extras import in_one_line, need
from ..formats.files import OnnxClassifier, in_batches
from ..nn.stored import SplitProgram, program_of

RUNTIMES = ("torch", "compile", "onnxruntime")


CONVOLUTIONS, GAIN = 10, 1.4
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
