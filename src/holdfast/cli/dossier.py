"""Evidence that goes from hand to hand: packed into a dossier, checked, or judged again by other settings."""

import dataclasses
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..core.registry import Untrusted
from ._common import quoted


@dataclass
class Options:
    """A zip with the claim in words, every record with its evidence, sums of all files, and a checker of one file."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help_behavior_hint="(required)")]
    """A certify folder, or a run folder that holds one."""
    out: Path | None = None
    """The file; default: the certify folder's name beside it, with .zip."""
    key: Path | None = None
    """Private Ed25519 key to sign with, in a PEM file: openssl genpkey -algorithm ed25519 -out key.pem"""
    with_model: bool = False
    """Pack the trained model, too, so that votes can be drawn again."""
    require: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """ACCURACY@RADIUS, such as 0.8@0.25: exit status 1 unless so large a share of the examples is correct with at least
    this radius, with probability 99.9 %."""


def main(args: list[str]) -> None:
    """holdfast dossier RUN [options]."""
    options = tyro.cli(Options, args=args, prog="holdfast dossier")
    from ..runs.certified import pack, required

    requirements = [required(text) for text in options.require]
    path, told, signer = pack(
        options.run, options.out, [radius for _, radius in requirements], options.key, options.with_model
    )
    console = Console(soft_wrap=True, highlight=False, markup=False)
    signed = f" --key {signer}" if signer else ""
    console.print(f"written: {path}\ncheck:   holdfast verify {quoted(path)}{signed}")
    failed = False
    for accuracy, radius in requirements:
        found = told.at_least(radius)
        failed |= found < accuracy
        console.print(
            f"{'holds' if found >= accuracy else 'FAILS'}: certified accuracy at {radius:g} is {found:.4f} or more "
            f"({told.certified[repr(radius)]:,} of {told.examples:,}, of which {told.wrong_at_most:,} may be wrong), "
            f"required {accuracy:g}"
        )
    if failed:
        sys.exit(1)


@dataclass
class VerifyOptions:
    """The same checks as `verify.py` inside every dossier, which needs no holdfast; exit status 1 if one fails."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(at least one)")]
    """Dossiers (.zip), certify folders, run folders, exported tables (.parquet), or logs in Cohen's format (.tsv)."""
    key: str | None = None
    """Public key, in hexadecimal digits, that must have signed the dossiers."""
    sigma: float | None = None
    """Of a log: standard deviation of its noise, in pixel units; default: that of a released log that is known."""
    n: int | None = None
    """Of a log: its samples; default: as for sigma."""
    alpha: float | None = None
    """Of a log: its alpha; default: as for sigma."""
    replay: int = 0
    """Draw so many examples again with the model and compare the votes."""
    model: str | None = None
    """For --replay: a run folder or package.module:function; default: the folder around a certify folder, or the model
    in a dossier."""
    weights: Path | None = None
    """Weights for the function's model."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""


def verify(args: list[str]) -> None:
    """holdfast verify PATH... [options]."""
    options = tyro.cli(VerifyOptions, args=args, prog="holdfast verify")
    if not options.paths:
        raise ValueError("expected a dossier, a certified run or a log, as in: holdfast verify runs/NAME")
    from ..runs.find import sources

    wrong = False
    for path in (source for given in options.paths for source in sources(given)):
        Console(soft_wrap=True, highlight=False, markup=False).print(str(path), style="bold")
        wrong |= _check(path, options)
        if options.replay:
            wrong |= _replay(path, options)
    if wrong:
        sys.exit(1)


def _check(path: Path, options: VerifyOptions) -> bool:
    """Whether a check failed; all of them are told."""
    from .. import checker
    from ..core.arguments import integer, positive
    from ..runs.find import read_facts
    from ..smoothing.statistics.binomial import check_alpha

    unseen = Counter[str]()
    if options.key is not None and path.suffix != ".zip":
        raise ValueError(f"{path} has no signature that --key could check; only a dossier, a .zip, has one")
    if path.suffix == ".parquet" or (path.is_dir() and not any(path.glob("records-*.jsonl"))):
        return checker.tell(checker.check_run(*_table(path), unseen), unseen)
    if path.is_dir():
        return checker.tell(_and_as_read(checker.check_folder(path, unseen), path), unseen)
    if path.suffix == ".zip":
        return checker.tell(_and_as_read(checker.check_dossier(path, options.key, unseen), path), unseen)
    facts = read_facts(path)
    if "certification" in facts:
        raise ValueError(
            f"{path} is an export of holdfast, which has no place for votes: verify its run, dossier or .parquet"
        )
    asked = {name: getattr(options, name) for name in ("sigma", "n", "alpha")}
    asked = {name: facts.get("settings", {}).get(name) if value is None else value for name, value in asked.items()}
    if None in asked.values():
        raise ValueError(f"{path} is a log, which tells no settings: expected --sigma, --n and --alpha")
    _ = positive("sigma", asked["sigma"]), integer("n", asked["n"], 1), check_alpha(asked["alpha"])
    with warnings.catch_warnings(action="ignore"):  # of numpy, about a file that it cannot read; that is told
        return checker.tell(checker.check_log(path, *asked.values()), unseen)


def _and_as_read(checks: Iterator[tuple[bool, str]], path: Path) -> Iterator[tuple[bool, str]]:
    """The checks, and where all of them hold whether holdfast opens it: what is verified must be fit for a report."""
    from ..runs.certified import CertifiedRun, read_checked
    from ..runs.dossier import unlike
    from ..runs.find import read_facts

    wrong = False
    for holds, reason in checks:
        wrong |= not holds
        yield holds, reason
    try:
        if wrong:
            return
        CertifiedRun.of(path, read_facts(path), found := read_checked(path))
        other = unlike(path, found) if path.suffix == ".zip" else []
        yield not other, f"its {', '.join(other)}: not what follows from its run; edited, or of another version?"
    except Untrusted:
        return  # of another package: the checker has counted what it could not check
    except ValueError as error:
        yield False, str(error)


def _table(path: Path) -> tuple[dict, list[dict]]:
    """What is known of an exported table, and its records, in the words of a certify folder."""
    from ..runs.certified import read
    from ..runs.find import read_facts

    records = [json.loads(json.dumps(dataclasses.asdict(record))) for record in read(path)]
    return read_facts(path), records


def _replay(path: Path, options: VerifyOptions) -> bool:
    from ..certification.replay import replay, told
    from ..opening import Source
    from ..runs.dossier import unpack_model

    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            model = str(unpack_model(path, Path(folder)) if path.suffix == ".zip" else path.parent)
        source = Source(model, options.weights)
        drawn = replay(path, source, options.replay, device=options.device, data_dir=options.data_dir)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for one in drawn:
        if one.wrong:
            console.print(f"wrong: example {one.index}: {one.wrong}")
    console.print(told(drawn))
    return any(one.wrong for one in drawn)


@dataclass
class RecertifyOptions:
    """A new certify folder beside the old one, which it replaces for all examples.

    Choosing settings after seeing votes is taking the better of two statements: the new run names the old one, and
    reports and dossiers count the sum of the alphas.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help_behavior_hint="(required)")]
    """A certify folder, or a run folder that holds one."""
    alpha: float | None = None
    """Probability that a certificate is wrong; default: that of the run."""
    two_class: bool = False
    """Bound the runner-up, too, with half of alpha for either side; otherwise as in the run."""


def recertify(args: list[str]) -> None:
    """holdfast recertify RUN [--alpha A] [--two-class]."""
    options = tyro.cli(RecertifyOptions, args=args, prog="holdfast recertify")
    from ..certification import revise
    from ..runs.certified import CertifiedRun
    from ..runs.find import only

    folder = revise.recertify(only(options.run), options.alpha, options.two_class)
    spent = CertifiedRun.open(folder).alpha_spent
    Console(soft_wrap=True, highlight=False).print(
        f"recertified: {folder}\nalpha counted, with that of the run it replaces: {spent:g}\n"
        f"next:        holdfast report {quoted(folder)}"
    )
