"""Prove a radius for every image of a data set, with a trained run or any classifier."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..types import Certifier, DataInfo

USAGE = """usage: holdfast certify RUN [CERTIFIER] [options]
       holdfast certify --model package.module:function --weights FILE --dataset NAME [CERTIFIER] [options]

CERTIFIER defaults to the one that the run was trained for; its own options: holdfast certify RUN CERTIFIER --help
"""


def main(args: list[str]) -> None:
    """holdfast certify RUN [CERTIFIER] [options]."""
    from .. import registry
    from ..spec import unknown

    words = _leading_words(args)
    if not args or (not words and args[0] in ("-h", "--help")):
        Console(soft_wrap=True).print(USAGE, markup=False, highlight=False)
        Console().print("certifiers: " + ", ".join(registry.certifiers()), highlight=False)
        return
    rest = args[len(words) :]
    own = "--model" in rest
    if len(words) > (1 if own else 2):
        raise ValueError(f"expected RUN [CERTIFIER] before the options, got {' '.join(words)}")
    if not own and not words:
        raise ValueError("expected the folder of a run, or --model package.module:function")
    run = None if own else Path(words.pop(0))
    if words and words[0] not in registry.certifiers():
        raise unknown("certifier", words[0], registry.certifiers())
    _certify(run, words[0] if words else None, rest)


@dataclass
class Options:
    """What there is to say about a certification."""

    certifier: Annotated[Certifier, tyro.conf.arg(name="")]
    dataset: str
    """Data set; default the one of the run."""
    model: str | None = None
    """A classifier of your own: package.module:function returns a torch.nn.Module that maps [0, 1] images to logits."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt)."""
    allow_pickle: bool = False
    """Read weights from a file that holds more than tensors. Such a pickle is a program: reading it runs whatever its
    author put there."""
    split: str = "test"
    """Split of the data set."""
    every: int = 1
    """Certify every k-th example only."""
    start: int = 0
    """Index of the first example."""
    limit: int | None = None
    """Certify at most this many examples."""
    seed: int = 0
    """Seed of the noise."""
    precision: str = "32-true"
    """32-true, 64-true, bf16-true or 16-true: numbers the model computes with. That function is the certified one."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    devices: int = 1
    """Processes on this machine, one GPU each where there are GPUs."""
    shard: str = ""
    """i/n, counted from 0: certify only every n-th of the examples, from the i-th on; for job arrays."""
    batch_size: int | None = None
    """Images in one forward pass; default 64 on a CPU, 1024 on a GPU. Changes no noise."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""
    runs: Path = Path("runs")
    """Folder of all runs, for classifiers that have no run of their own."""


def _certify(run: Path | None, certifier: str | None, args: list[str]) -> None:
    from .. import registry
    from ..loading import recipe_of

    defaults = {}
    if run is not None:
        recipe = recipe_of(run)
        chosen = recipe.method.certifier()
        chosen = chosen if certifier is None else _like(registry.certifier(certifier), chosen)
        defaults["dataset"] = recipe.dataset
    else:
        chosen = registry.certifier(certifier or "gaussian")
    default = Options(chosen, defaults.get("dataset", tyro.MISSING))
    options = tyro.cli(
        Options,
        default=default,
        args=args,
        prog="holdfast certify",
        config=(tyro.conf.OmitArgPrefixes,),
        description="",
    )
    _run(run, options)


def _like(certifier: Certifier, other: Certifier) -> Certifier:
    """The certifier with those fields of the other that both have, such as sigma.

    Where the other is one around a sampling certifier, as for a classifier in two halves, another sampling certifier
    takes the place of that one.
    """
    inner = getattr(other, "inner", None)
    if inner is not None and hasattr(certifier, "sigma") and type(certifier) is not type(other):
        return other.replace(inner=_like(certifier, inner))
    shared = {f.name for f in dataclasses.fields(certifier)} & {f.name for f in dataclasses.fields(other)}
    return certifier.replace(**{name: getattr(other, name) for name in shared})


def _run(run: Path | None, options: Options) -> None:
    from ..certification import (
        Certification,
        check,
        default_batch_size,
        in_precision,
        of_other_models,
        open_certification,
    )
    from ..data import load
    from ..jobs import Job, explain
    from ..loading import Source
    from ..machine import choose

    source = Source(str(run or options.model), options.weights, options.allow_pickle)
    model, device = source.load(), choose(options.device)
    task = Certification(
        options.certifier,
        source.identity(model),
        **{
            name: getattr(options, name)
            for name in ("dataset", "split", "every", "start", "limit", "seed", "precision")
        },
    )
    data = load(task.dataset, task.split, options.data_dir)
    indices = task.indices(len(data))
    model = in_precision(model.to(device), task.precision)
    batch_size = options.batch_size or default_batch_size(device)
    check(model, data.pixels(slice(0, 2)).to(device), batch_size)
    parent = run or options.runs / f"{str(options.model).replace(':', '-')}-{task.model}"
    folder = parent / f"certify-{task.fingerprint()}"
    share = options.devices, _shard(options.shard)
    job = Job(source, task, folder, options.data_dir, options.device, options.batch_size, *share)
    _announce(task.certifier, len(indices), model, data.info, batch_size, device)
    _remark(run, options, of_other_models(task, folder))
    open_certification(task, folder, data, parent.name)
    job.run()
    explain(task, model, data, folder)
    Console().print(f"certified: {folder}\nnext:      holdfast report {folder}", highlight=False, soft_wrap=True)


def _announce(certifier, examples: int, model, info: DataInfo, batch_size: int, device) -> None:
    """What can be proven at best, and how long it can take."""
    import math

    import torch

    from ..progress import clock
    from ..running import seconds_per_image

    passes = examples * certifier.samples()
    seconds = passes * seconds_per_image(model, torch.zeros(info.shape, device=device), batch_size)
    best = "" if math.isinf(certifier.cap()) else f"No radius can exceed {certifier.cap():.4f}. "
    Console(stderr=True).print(
        f"{certifier}\n{best}{examples} examples, at most {passes:,} forward passes: at most about {clock(seconds)} "
        f"in one process on {device}.",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _remark(run: Path | None, options: Options, others: list[Path]) -> None:
    """What a user may not know of the certificates to come, a line each."""
    from ..loading import recipe_of

    lines = []
    sigma = getattr(options.certifier, "sigma", None)
    trained = getattr(recipe_of(run).method.certifier(), "sigma", None) if run else None
    if sigma and trained and trained != sigma:
        lines.append(f"This model was trained with noise of sigma {trained:g} and is certified at {sigma:g}.")
    if options.model and not options.weights:
        lines.append(
            f"No --weights: the model is certified as {options.model} returns it, "
            "with random weights unless it loads its own."
        )
    for other in others:
        lines.append(f"Not continued: {other}, for a model of other weights, code or files, or of an older holdfast.")
    for line in lines:
        Console(stderr=True).print(line, highlight=False, soft_wrap=True, markup=False)


def _shard(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    left, slash, right = text.partition("/")
    if not (slash and left.isdigit() and right.isdigit() and int(left) < int(right)):
        raise ValueError(f"expected a shard i/n with 0 <= i < n, such as 0/8, got {text!r}")
    return int(left), int(right)


def _leading_words(args: list[str]) -> list[str]:
    """The words before the first option."""
    count = next((i for i, word in enumerate(args) if word.startswith("-")), len(args))
    return args[:count]
