"""Certify on a SLURM cluster: one job for each share of the examples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

USAGE = """usage: holdfast submit certify RUN... [options of certify] -- [options of the jobs]

Every job runs `holdfast certify ... --shard i/n` for its i; the records meet in the run's folder, which all machines
must see. A job that is preempted or out of time continues where it was. Needs holdfast[slurm].
"""


@dataclass
class Options:
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


def main(args: list[str]) -> None:
    """holdfast submit certify RUN... [options of certify] -- [options of the jobs]."""
    if not args or args[0] in ("-h", "--help"):
        Console(soft_wrap=True).print(USAGE, markup=False, highlight=False)
        args = ["certify", "--", "--help"]
    command, rest = args[: _split(args)], args[_split(args) + 1 :]
    options = tyro.cli(Options, args=rest, prog="holdfast submit certify ... --")
    if not command or command[0] != "certify":
        raise ValueError(f"only `certify` can be submitted, got {' '.join(command) or 'nothing'}; train with torchrun")
    if any(word.partition("=")[0] in ("--shard", "--devices", "--ray") for word in command):
        raise ValueError("the jobs are the shards: leave --shard, --devices and --ray out, and say --array N behind --")
    if options.array < 1 or options.at_once < 1:
        raise ValueError(f"expected at least one job, got {options.array}, {options.at_once} of them at once")
    jobs = submit(command, options)
    Console().print(f"submitted: {len(jobs)} jobs, {jobs[0].job_id} ...; output in {options.logs}", highlight=False)


def _split(args: list[str]) -> int:
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


def submit(command: list[str], options: Options) -> list[Any]:
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
