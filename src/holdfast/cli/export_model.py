"""Write the model of a run for other tools: ONNX, .pt2, or a folder for the Hugging Face hub with its card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console


@dataclass
class Options:
    """What is written is read again and compared; each form can be certified by --model."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    format: Literal["onnx", "hf", "pt2"] = "onnx"
    """onnx: one file, for onnxruntime. hf: a folder with graph.json, model.safetensors and a card that tells what was
    certified; no code. pt2: for torch.export.load."""
    out: Path | None = None
    """The file or folder; default: model.onnx, model.pt2 or hf in the run folder."""


def main(args: list[str]) -> None:
    """holdfast export-model RUN [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast export-model")
    from ..formats.export import export_model

    written = export_model(options.run, options.format, options.out)
    name = written if options.format != "hf" else f"hf:{'' if written.is_absolute() else './'}{written}"
    Console(highlight=False, soft_wrap=True, markup=False).print(f"written: {written}\nuse:     --model {name}")
