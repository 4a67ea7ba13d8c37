"""Prove a radius for every image of a data set, with a trained run or any classifier."""

import dataclasses
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from rich.console import Console

from ..core.certifier import Certifier

if TYPE_CHECKING:
    from ..certification.run import Job

USAGE = """usage: holdfast certify RUN... [CERTIFIER] [options]
       holdfast certify --model package.module:function --weights FILE --dataset NAME [CERTIFIER] [options]

RUN is the folder of a trained run, or a folder of such folders. CERTIFIER defaults to the one that the run was trained
for, and to gaussian for a model of your own. Words and options may stand in any order.
"""

OWN = "gaussian"
"""The certifier of a model of one's own, where none is named."""

T = TypeVar("T")


def main(args: list[str]) -> None:
    """holdfast certify RUN... [CERTIFIER] [options]."""
    from ..core.registry import CERTIFIERS
    from ._runs import attempt, conclude, expand
    from ._words import given, options, split

    certifiers = CERTIFIERS
    words, rest = split(args, options(*(Options(certifier, "") for certifier in certifiers.values())))
    chosen = [word for word in words if word in certifiers]
    others = [word for word in words if word not in certifiers]
    if not others and (not args or given("--help", rest) or given("-h", rest)):
        _help(chosen[0] if chosen else None)
        return
    own = given("--model", rest)
    certifier = _the_one(chosen, others, own)
    if own:
        _run(None, _parse(None, certifier, rest))
        return
    runs = expand(map(Path, others))
    parsed, left = attempt(runs, lambda run: _parse(run, certifier, rest))
    _, failed = attempt(list(parsed), lambda run: _run(run, parsed[run]))
    conclude(runs, left | failed)


def _the_one(chosen: list[str], others: list[str], own: bool) -> str | None:
    """The certifier that was named, if any; what can be neither a certifier nor the folder of a run is refused."""
    from ..core.registry import CERTIFIERS, unknown

    if len(chosen) > 1:
        raise ValueError(f"expected one certifier, got {' and '.join(chosen)}")
    if not own and not others:
        raise ValueError("expected the folder of a run, or --model package.module:function")
    several = len(others) > 1
    misread = [word for word in others if own or (several and "/" not in word and not Path(word).exists())]
    if misread:
        raise unknown("certifier", misread[-1], CERTIFIERS)
    return chosen[0] if chosen else None


@dataclass
class Options:
    """What to certify, and how."""

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
    noise: str = ""
    """Of certifiers that sample. lattice: certificates hold for the program that runs (docs/certificates.md); float32:
    the way of published work, for comparison."""
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


def _parse(run: Path | None, certifier: str | None, args: list[str]) -> Options:
    """The options, with the defaults of the run."""
    from ..core.registry import CERTIFIERS
    from ..opening import recipe_of
    from ..runs.store import read_run
    from ..smoothing.noise import NOISES
    from ._words import value

    dataset, chosen = tyro.MISSING, CERTIFIERS[certifier or OWN]
    if run is not None:
        if "recipe" not in read_run(run):
            raise ValueError(f"{run} is no training run; name the folder that `holdfast train` made")
        recipe = recipe_of(run)
        dataset, meant = recipe.dataset, recipe.method.certifier()
        chosen = meant if certifier is None else _like(chosen, meant)
    chosen = _with_noise(chosen, value("--noise", args))
    sampling = chosen.sampling
    noise = next((name for name, kind in NOISES.items() if sampling and type(sampling.noise) is kind), "")
    default = Options(chosen, dataset, noise=noise)
    return _tyro(Options, default, args, f"holdfast certify {run or 'RUN'} {certifier or ''}".rstrip())


def _with_noise(certifier: Certifier, name: str | None) -> Certifier:
    """The certifier with the noise of that name, if one is given."""
    from ..core.registry import unknown
    from ..smoothing.noise import NOISES

    if name is None:
        return certifier
    if name not in NOISES:
        raise unknown("noise", name, NOISES)
    if certifier.sampling is None:
        raise ValueError(f"{type(certifier).__name__} draws no noise; leave --noise out")
    return certifier.with_sampling(certifier.sampling.replace(noise=NOISES[name]()))


def _tyro(kind: type[T], default: T, args: list[str], prog: str) -> T:
    return tyro.cli(kind, default=default, args=args, prog=prog, config=(tyro.conf.OmitArgPrefixes,))


def _help(chosen: str | None) -> None:
    """Every option, and those of each certifier, or of the chosen one."""
    from ..core.registry import CERTIFIERS

    Console(soft_wrap=True).print(USAGE, markup=False, highlight=False)
    with suppress(SystemExit):
        _parse(None, chosen or OWN, ["--help"])
    for name, certifier in CERTIFIERS.items():
        if chosen is None and name != OWN:
            with suppress(SystemExit):
                _tyro(type(certifier), certifier, ["--help"], f"holdfast certify RUN {name}")


def _like(certifier: Certifier, other: Certifier) -> Certifier:
    """The certifier with those fields of the other that both have, such as sigma.

    Where the other is one around a sampling certifier, as for a classifier in two halves, another sampling certifier
    takes the place of that one.
    """
    inner = other.sampling
    if certifier.sampling is certifier and inner is not None and inner is not other:
        return other.with_sampling(_like(certifier, inner))  # pyright: ignore[reportArgumentType]
    shared = {f.name for f in dataclasses.fields(certifier)} & {f.name for f in dataclasses.fields(other)}
    return certifier.replace(**{name: getattr(other, name) for name in shared})


def _run(run: Path | None, options: Options) -> None:
    from ..certification.run import prepare
    from ..opening import Source

    names = ("split", "every", "start", "limit", "seed", "precision", "runs", "device", "devices", "batch_size")
    settings: dict[str, Any] = {name: getattr(options, name) for name in (*names, "data_dir")}
    settings["shard"] = _shard(options.shard)
    source = Source(str(run or options.model), options.weights, options.allow_pickle)
    job = prepare(source, options.dataset, options.certifier, **settings)
    _announce(job)
    _remark(run, options, job.others())
    job.run()
    folder = job.folder
    Console().print(f"certified: {folder}\nnext:      holdfast report {folder}", highlight=False, soft_wrap=True)


def _announce(job: "Job") -> None:
    """What can be proven at best, and how long it can take."""
    from ..progress import clock

    certifier = job.task.certifier
    best = "" if math.isinf(certifier.cap()) else f"No radius can exceed {certifier.cap():.4f}. "
    Console(stderr=True).print(
        f"{certifier}\n{best}{job.examples} examples, at most {job.examples * certifier.samples():,} forward passes: "
        f"at most about {clock(job.seconds())} in one process.",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _remark(run: Path | None, options: Options, others: list[Path]) -> None:
    """What a user may not know of the certificates to come, a line each."""
    from ..opening import recipe_of

    lines = []
    sampling = options.certifier.sampling
    trained = recipe_of(run).method.certifier().sampling if run else None
    if sampling and trained and trained.sigma != sampling.sigma:
        noise = f"noise of sigma {trained.sigma:g}"
        lines.append(f"This model was trained with {noise} and is certified at {sampling.sigma:g}.")
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
