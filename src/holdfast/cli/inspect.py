"""A classifier as the graph that is proven and run: shown, or written for other tools."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from torch import nn

    from ..bounds.head import Head
    from ..bounds.tightness import Factor
    from ..opening import Source
    from ..program import Node, Program

FEW = 10
"""Factors that are listed as the largest."""


@dataclass
class Options:
    """The graph of a trained run, or of a classifier of your own, with the constant of each of its steps; and with
    --dataset a first look at how often it is right, and at what may be wrong."""

    run: tyro.conf.Positional[Path | None] = None
    """Folder of a trained run."""
    model: str | None = None
    """A classifier of your own: package.module:function returns a torch.nn.Module that maps [0, 1] images to logits;
    or model.onnx, model.pt2, hf:org/name, timm:name, ..., as for certify."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt)."""
    allow_pickle: bool = False
    """Read a .pt2 file, or weights from a file that holds more than tensors; see certify."""
    denoiser: str | None = None
    """What images go through before the classifier; see certify."""
    dataset: str | None = None
    """Data set whose images it takes; a first look is taken at 200 images of it."""
    sigma: float = 0.25
    """Of the noise of the first look."""
    split: str = ""
    """Split of the data set; default: its test split."""
    shape: tuple[int, int, int] | None = None
    """Or the shape of an image: channels, height, width."""
    threat: Literal["own", "l2", "linf"] = "own"
    """Norm of the constants; own: the one that the network names, or l2."""
    constants: bool = True
    """Prove constants, which takes minutes for large networks."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""


def main(args: list[str]) -> None:
    """holdfast inspect RUN | --model package.module:function --shape C H W [options]."""
    from ..opening import Source

    options = tyro.cli(Options, args=args, prog="holdfast inspect")
    if (options.run is None) == (options.model is None):
        raise ValueError("expected the folder of a run, or --model package.module:function, model.onnx, ...")
    name, sigma = str(options.run or options.model), options.sigma if options.denoiser else None
    source = Source(name, options.weights, options.allow_pickle, denoiser=options.denoiser, sigma=sigma)
    console = Console(highlight=False, soft_wrap=True)
    if options.dataset is not None:
        source = _look(console, source, options)
    _inspect(console, source.load(), options)


def _look(console: Console, source: "Source", options: Options) -> "Source":
    """Print a first look; the source, with what it needs to know of its images."""
    from ..certification.look import first_look
    from ..certifiers.gaussian import Gaussian
    from ..data import default_split, load

    name = options.dataset or ""
    data = load(name, options.split or default_split(name, options.data_dir), options.data_dir)
    source = replace(source, data=data.info)
    for line in first_look(source.load(), data, Gaussian(options.sigma)).words():
        console.print(line, markup=False)
    console.print()
    return source


def _inspect(console: Console, model: "nn.Module", options: Options) -> None:
    """Print the graph and its constants; or why there is none, where a first look was the other half."""
    from ..bounds.head import Head
    from ..nn.stored import captured, named_norm

    try:
        program = captured(model, _shape(options))
    except ValueError as error:
        if options.dataset is None:
            raise
        console.print(f"It can be certified by sampling, not by margin or linf-box: {error}", markup=False)
        return
    threat = (named_norm(model) or "l2") if options.threat == "own" else options.threat
    _facts(console, program)
    head, found, reason = None, [], ""
    if options.constants:
        from ..bounds.tightness import factors

        try:
            head = Head.of(program)
            found = factors(head, threat)
        except ValueError as error:
            reason = str(error)
    _graph(console, program, found)
    if head and found:
        _constants(console, head, found, threat)
    if reason:
        console.print(f"margin and linf-box do not serve it: {reason}", style="yellow", markup=False)


def _shape(options: Options) -> tuple[int, ...]:
    from ..data import load
    from ..runs.store import read_run

    if options.run is not None and options.shape is None and options.dataset is None:
        return tuple(read_run(options.run)["data"]["shape"])
    if (options.shape is None) == (options.dataset is None):
        raise ValueError("expected --dataset, or the --shape of an image, as in --shape 3 32 32")
    return options.shape or load(options.dataset or "", "test", options.data_dir).info.shape


def _facts(console: Console, program: "Program") -> None:
    numbers = sum(tensor.numel() for tensor in program.tensors.values() if tensor.is_floating_point())
    console.print(f"identity    {program.identity}")
    console.print(f"input       {program.input_shape}, {str(program.dtype).removeprefix('torch.')}")
    console.print(f"output      {program.output_shape}")
    console.print(f"parameters  {numbers:,}, buffers included\n")


def _graph(console: Console, program: "Program", found: "list[Factor]") -> None:
    """A line for each operation that depends on the input; the rest is computed once."""
    constants = {factor.node: factor for factor in found}
    table = Table("node", "operation", "from", "shape", "constant", "factor", "module", "line", box=None)
    for index, node in enumerate(program.folded().nodes):
        known = constants.get(index)
        numbers = (f"{known.constant:.5g}", f"{known.factor:.4g}") if known else ("", "")
        refs = " ".join(map(str, node.refs))
        row = (str(index), _short(node), refs, str(node.shape[1:]), *numbers, _module(node), _line(node))
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    if not console.is_terminal:
        console.width = 250
    console.print(table, soft_wrap=False)


def _constants(console: Console, head: "Head", found: "list[Factor]", threat: str) -> None:
    """What is proven, and the steps in which most of it is lost."""
    from ..bounds.tightness import largest_difference

    nodes, features = head.steps.program.nodes, max((f.constant for f in found if f.node == head.source), default=1.0)
    difference, first, second = largest_difference(head, threat)
    console.print(f"\nconstant in {threat}: {features:.6g} of the features (node {head.source}), the product of")
    critical = sorted((factor for factor in found if factor.critical), key=lambda factor: -factor.factor)
    for factor in critical[:FEW]:
        node = nodes[factor.node]
        where = "  ".join(
            filter(None, (f"node {factor.node}", " + ".join(factor.operations), _module(node), _line(node)))
        )
        console.print(f"  {factor.factor:10.5g}  {where}", markup=False)
    if len(critical) > FEW:
        console.print(f"  and {len(critical) - FEW} factors that are smaller")
    console.print(f"largest difference of two logits: {difference:.6g}, of {first} and {second}")


def _short(node: "Node") -> str:
    return node.op.split(".")[1] if "." in node.op else node.op


def _module(node: "Node") -> str:
    return node.place.modules[-1] if node.place.modules else ""


def _line(node: "Node") -> str:
    """File, number and text, without the folder."""
    where, colon, text = node.place.line.partition(": ")
    return Path(where).name + colon + text


@dataclass
class ExportOptions:
    """What is written is read again and compared; each form can be certified by --model."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    format: Literal["onnx", "hf", "pt2"] = "onnx"
    """onnx: one file, for onnxruntime. hf: a folder with graph.json, model.safetensors and a card that tells what was
    certified; no code. pt2: for torch.export.load."""
    out: Path | None = None
    """The file or folder; default: model.onnx, model.pt2 or hf in the run folder."""


def export_model(args: list[str]) -> None:
    """holdfast export-model RUN [options]."""
    options = tyro.cli(ExportOptions, args=args, prog="holdfast export-model")
    from ..formats import export

    written = export.export_model(options.run, options.format, options.out)
    name = written if options.format != "hf" else f"hf:{'' if written.is_absolute() else './'}{written}"
    Console(highlight=False, soft_wrap=True, markup=False).print(f"written: {written}\nuse:     --model {name}")
