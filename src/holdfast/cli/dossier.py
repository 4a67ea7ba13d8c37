"""Pack a certified run into one file that a stranger can check, signed if you have a key."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


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
    from ..runs.pack import pack, required

    requirements = [required(text) for text in options.require]
    path, told, signer = pack(
        options.run, options.out, [radius for _, radius in requirements], options.key, options.with_model
    )
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"written: {path}\ncheck:   holdfast verify {path}{f' --key {signer}' if signer else ''}")
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
