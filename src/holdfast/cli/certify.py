"""Prove a radius for every image of a data set, here or on a SLURM cluster: one job for each share of the examples."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from ..core.certifier import Certifier

if TYPE_CHECKING:
    from ..certification.engines import Engine
    from ..opening import Source
    from ._common import Left
    from .predict import AttackOptions

USAGE = """usage: holdfast certify RUN... [CERTIFIER] [options]
       holdfast certify --model hf:org/name --dataset NAME [CERTIFIER] [options]

RUN is the folder of a trained run, or a folder of such folders. A classifier of your own is
package.module:function, model.onnx, model.pt2 (with --allow-pickle), hf:org/name, hf:./folder, timm:name, a folder with
graph.json, or the name of an architecture with --weights. CERTIFIER defaults to the one that the run was trained for,
and to gaussian for a model of your own. Words and options may stand in any order.
"""


def main(args: list[str]) -> None:
    """holdfast certify RUN... [CERTIFIER] [options]."""
    from ._common import attempt, certifier_among, conclude, given

    words, rest = _split(args)
    certifier, others = certifier_among(words)
    if not others and (not args or given("--help", rest) or given("-h", rest)):
        _help(certifier)
        return
    runs, parsed, left = _wanted(certifier, others, rest)
    _, failed = attempt(list(parsed), lambda run: _run(run, parsed[run]))
    conclude(runs, left | failed)


def _split(args: list[str]) -> tuple[list[str], list[str]]:
    """Words, and options with their values."""
    from ._common import certifiers_for, options, split

    return split(args, options(*(Options(certifier, "") for certifier in certifiers_for(["", *args]))))


def _wanted(
    certifier: str | None, others: list[str], rest: list[str]
) -> "tuple[list[Path | None], dict[Path | None, Options], Left[Path | None]]":
    """The runs that are named, None for a model of one's own; what is wanted of each, and why it cannot be."""
    from ._common import attempt, expand, given

    own = given("--model", rest)
    _check(others, own)
    runs: list[Path | None] = [None] if own else [*expand(map(Path, others))]
    parsed, left = attempt(runs, lambda run: _parse(run, certifier, rest))
    return runs, parsed, left


def _check(others: list[str], own: bool) -> None:
    """Refuse what can be neither a certifier nor the folder of a run."""
    from ..core.registry import CERTIFIERS, unknown

    if not own and not others:
        raise ValueError(
            "expected the folder of a run, or --model package.module:function, model.onnx, hf:org/name, ..."
        )
    several = len(others) > 1
    misread = [word for word in others if own or (several and "/" not in word and not Path(word).exists())]
    if misread:
        raise unknown("certifier", misread[-1], CERTIFIERS)


@dataclass
class Options:
    """What to certify, and how."""

    certifier: Certifier
    dataset: str
    """Data set, as `holdfast list datasets` shows it; that of the run by default, and required with --model."""
    model: str | None = None
    """A classifier of your own: package.module:function, which returns a torch.nn.Module that maps [0, 1] images to
    logits; model.onnx; model.pt2; hf:org/name or hf:./folder; timm:name; a folder with graph.json; an architecture."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt)."""
    allow_pickle: bool = False
    """Read a .pt2 file, or weights from a file that holds more than tensors. Such a pickle is a program: reading it
    runs whatever its author put there."""
    denoiser: str | None = None
    """What images go through before the classifier: a run folder, diffusers:org/name, diffusers:./folder, or
    package.module:function."""
    split: str = ""
    """Split of the data set; default: its test split."""
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
    runtime: str = "torch"
    """What runs the classifier for certifiers that sample: torch, compile (torch.compile), or onnxruntime (needs
    holdfast[onnx]). Each rounds in its own way: the function that is certified is that of the runtime."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    devices: int = 1
    """Processes on this machine, one GPU each where there are GPUs."""
    ray: str | None = None
    """Address of a Ray cluster whose machines do the work, as they come and go: auto for the one that this machine
    belongs to, ray://HOST:PORT, or local for this machine alone. Needs holdfast[ray]."""
    gpus_per_worker: float | None = None
    """With --ray, GPUs of a worker, or a part of one; by default 1 where there are GPUs."""
    allow_mixed: bool = False
    """With --ray or --devices, use workers that vote otherwise than the first, as on another processor."""
    shard: str = ""
    """i/n, counted from 0: certify only every n-th of the examples, from the i-th on; for job arrays."""
    batch_size: int | None = None
    """Images in one forward pass; default 64 on a CPU, 1024 on a GPU. Changes no noise."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""
    store: str | None = None
    """URL of an object store, such as s3://bucket/runs, that keeps a copy of the records: machines that share no disk
    work on one run through it, and go on where one was taken away."""
    runs: Path = Path("runs")
    """Folder of all runs, for classifiers that have no run of their own."""


def _parse(run: Path | None, certifier: str | None, args: list[str]) -> Options:
    """The options, with the defaults of the run."""
    from ..core.registry import trusted
    from ..opening import certifier_for, recipe_of

    dataset = tyro.MISSING if run is None else recipe_of(run).dataset
    if run and not any(arg.partition("=")[0] == "--dataset" for arg in args):
        trusted(dataset)
    return parse(dataset, certifier_for(run, certifier), args, f"holdfast certify {run or 'RUN'} {certifier or ''}")


def parse(dataset: str, certifier: Certifier, args: list[str], prog: str) -> Options:
    """The options for a certifier and a data set."""
    from ..smoothing.noise import NOISES
    from ._common import parsed, value

    chosen = _with_noise(certifier, value("--noise", args))
    sampling = chosen.sampling
    noise = next((name for name, kind in NOISES.items() if sampling and type(sampling.noise) is kind), "")
    default = Options(chosen, dataset, noise=noise)
    return parsed(default, args, prog.rstrip())


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


def _help(chosen: str | None) -> None:
    """Every option, and those of each certifier, or of the chosen one."""
    from ..core.registry import CERTIFIERS
    from ..opening import OWN
    from ._common import parsed

    Console(soft_wrap=True).print(USAGE, markup=False, highlight=False)
    with suppress(SystemExit):
        _parse(None, chosen or OWN, ["--help"])
    for name, certifier in CERTIFIERS.items():
        if chosen is None and name != OWN:
            with suppress(SystemExit):
                parsed(certifier, ["--help"], f"holdfast certify RUN {name}")


def _run(run: Path | None, options: Options) -> None:
    from ..certification.look import foretold
    from ..certification.run import Here, prepare
    from ._common import quoted

    names = ("split", "every", "start", "limit", "seed", "precision", "runtime", "runs", "device", "batch_size")
    settings: dict[str, Any] = {name: getattr(options, name) for name in (*names, "data_dir", "store")}
    settings |= {"shard": _shard(options.shard), "engine": _engine(options)}
    settings["devices"] = 1 if settings["engine"] else options.devices
    source = source_of(run, options.certifier, options)
    job = prepare(source, options.dataset, options.certifier, **settings)
    own = str(options.model) if source.form == "factory" and not options.weights else ""
    for line in foretold(job, *_trained(run, source), own=own):
        Console(stderr=True).print(line, highlight=False, soft_wrap=True, markup=False)
    for line in job.look().words() if options.model or options.denoiser else ():
        Console(stderr=True).print(line, highlight=False, soft_wrap=True, markup=False)
    job.run()
    folder = job.folder
    shard = job.engine.share if isinstance(job.engine, Here) else None  # torchrun and SLURM, too, give one
    share = "share {}/{} of ".format(*shard) if shard else ""
    told = f"certified: {share}{folder}\nnext:      holdfast report {quoted(folder)}"
    Console().print(told, highlight=False, soft_wrap=True, markup=False)


def _trained(run: Path | None, source: "Source") -> "tuple[Certifier | None, str]":
    """The certifier that what meets the noise was trained for, where that is known, and what it is called."""
    from ..opening import recipe_of

    name = f"The denoiser {source.denoiser}" if source.denoiser else "This model"
    first = Path(source.denoiser) if source.denoiser else run
    return (recipe_of(first).method.certifier() if first and (first / "run.json").exists() else None), name


def source_of(run: Path | None, certifier: Certifier, options: "Options | AttackOptions") -> "Source":
    """Where the model comes from that the options name, or that of a run."""
    from ..data import default_split, load
    from ..opening import Source

    sampling = certifier.sampling
    source = Source(str(run or options.model), options.weights, options.allow_pickle, denoiser=options.denoiser)
    source = replace(source, sigma=sampling.sigma if sampling and options.denoiser else None)
    if source.form != "architecture":
        return source
    split = options.split or default_split(options.dataset, options.data_dir)
    return replace(source, data=load(options.dataset, split, options.data_dir).info)


def _engine(options: Options) -> "Engine | None":
    """What was asked for beyond --devices and --shard."""
    from ..certification.engines import Processes, RayEngine

    if options.ray is not None:
        if options.devices > 1 or options.shard:
            raise ValueError("--ray has workers of its own; leave --devices and --shard out")
        return RayEngine(options.ray, options.gpus_per_worker, allow_mixed=options.allow_mixed)
    if options.gpus_per_worker is not None:
        raise ValueError("--gpus-per-worker goes with --ray")
    if options.allow_mixed:
        if options.devices == 1 or options.shard:
            raise ValueError("--allow-mixed goes with --ray or --devices")
        return Processes(options.devices, allow_mixed=True)
    return None


def _shard(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    left, slash, right = text.partition("/")
    if not (slash and left.isdigit() and right.isdigit() and int(left) < int(right)):
        raise ValueError(f"expected a shard i/n with 0 <= i < n, such as 0/8, got {text!r}")
    return int(left), int(right)


SUBMIT = """usage: holdfast submit certify RUN... [options of certify] -- [options of the jobs]

Every job runs `holdfast certify ... --shard i/n` for its i; the records meet in the run's folder, which all machines
must see. A job that is preempted or out of time continues where it was. Needs holdfast[slurm].
"""


@dataclass
class Jobs:
    """Of the jobs."""

    array: int = 1
    """Jobs, each with a share of the examples."""
    partition: str | None = None
    """Of the cluster."""
    gpus: int = 0
    """GPUs of a job."""
    cpus: int = 1
    """CPU cores of a job."""
    memory: Annotated[float | None, tyro.conf.arg(name="memory-gb")] = None
    """Memory of a job, in GB."""
    minutes: int = 240
    """Time limit of a job."""
    at_once: int = 256
    """Jobs that may run at the same time."""
    cluster: str | None = None
    """slurm, local (processes of this machine) or debug (in this process); by default slurm where there is one."""
    logs: Path = Path("runs/jobs")
    """Folder for the scripts and the output of the jobs."""


def submit(args: list[str]) -> None:
    """holdfast submit certify RUN... [options of certify] -- [options of the jobs]."""
    from ._common import certifier_among, conclude

    if not args or args[0] in ("-h", "--help"):
        Console(soft_wrap=True).print(SUBMIT, markup=False, highlight=False)
        args = ["certify", "--", "--help"]
    command, rest = args[: _behind(args)], args[_behind(args) + 1 :]
    options = tyro.cli(Jobs, args=rest, prog="holdfast submit certify ... --")
    if not command or command[0] != "certify":
        raise ValueError(f"only `certify` can be submitted, got {' '.join(command) or 'nothing'}; train with torchrun")
    if any(word.partition("=")[0] in ("--shard", "--devices", "--ray") for word in command):
        raise ValueError("the jobs are the shards: leave --shard, --devices and --ray out, and say --array N behind --")
    if options.array < 1 or options.at_once < 1:
        raise ValueError(f"expected at least one job, got {options.array}, {options.at_once} of them at once")
    words, rest = _split(command[1:])  # a mistake ends here, not in every job
    runs, _, left = _wanted(*certifier_among(words), rest)
    conclude(runs, left)
    jobs = submitted(command, options)
    told = f"{len(jobs)} jobs, {jobs[0].job_id} ..." if len(jobs) > 1 else f"job {jobs[0].job_id}"
    Console().print(f"submitted: {told}; output in {options.logs}", highlight=False)


def _behind(args: list[str]) -> int:
    """Where the options of the jobs begin."""
    return args.index("--") if "--" in args else len(args)


class Share:
    """What a job does; what is preempted is queued again, for the folder knows what is done."""

    def __call__(self, command: list[str]) -> None:
        from . import main

        main(command)

    def checkpoint(self, command: list[str]) -> Any:
        """What submitit asks for when the job is preempted or out of time."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, command)


def submitted(command: list[str], options: Jobs) -> list[Any]:
    """The jobs.

    Args:
        command: `certify` with its words and options.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("submit needs submitit, which is not installed: pip install 'holdfast[slurm]'") from None
    executor = submitit.AutoExecutor(folder=options.logs, cluster=options.cluster)
    executor.update_parameters(
        name="holdfast",
        timeout_min=options.minutes,
        cpus_per_task=options.cpus,
        gpus_per_node=options.gpus,
        **({} if options.memory is None else {"mem_gb": options.memory}),
        **({} if options.partition is None else {"slurm_partition": options.partition}),
        slurm_array_parallelism=options.at_once,
    )
    shares = [[*command, "--shard", f"{index}/{options.array}"] for index in range(options.array)]
    return executor.map_array(Share(), shares)
