"""Judge the votes of a finished run by another alpha, or bound its runner-up too; no new samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclass
class Options:
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


def main(args: list[str]) -> None:
    """holdfast recertify RUN [--alpha A] [--two-class]."""
    options = tyro.cli(Options, args=args, prog="holdfast recertify")
    from ..certification.revise import recertify
    from ..runs.certified import CertifiedRun
    from ..runs.find import only

    folder = recertify(only(options.run), options.alpha, options.two_class)
    spent = CertifiedRun.open(folder).alpha_spent
    Console(soft_wrap=True, highlight=False).print(
        f"recertified: {folder}\nalpha counted, with that of the run it replaces: {spent:g}\n"
        f"next:        holdfast report {folder}"
    )
