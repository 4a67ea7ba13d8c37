"""What a user is told before a certification starts."""

import math
from collections.abc import Iterator

from ..core.certifier import Certifier
from ..progress import clock
from .run import Job
from .runtime import GAIN

LONG = 600.0
"""Seconds of work that several processes are worth."""


def foretold(job: Job, trained: Certifier | None = None, own: str = "") -> Iterator[str]:
    """What can be proven at best, how long it can take, and what may not be known of the certificates; a line each.

    Args:
        trained: the certifier that the model was trained for, where that is known.
        own: `package.module:function` of a model that came without a file of weights.
    """
    certifier = job.task.certifier
    best = "" if math.isinf(certifier.cap()) else f"No radius can exceed {certifier.cap():.4f}. "
    yield str(certifier)
    seconds = job.seconds()
    several = f", {clock(seconds / 8)} in 8, {clock(seconds / 64)} in 64" if seconds > LONG else ""
    yield (
        f"{best}{job.examples} examples, at most {job.examples * certifier.samples():,} forward passes: "
        f"at most about {clock(seconds)} in one process{several}."
    )
    if hint := job.faster():
        yield f"--runtime {hint} was about {GAIN:g} times as fast for such a model, and is a setting of the run."
    before, now = trained.sampling if trained else None, certifier.sampling
    if before and now and (before.sigma, before.noise) != (now.sigma, now.noise):
        kinds = "" if before.noise == now.noise else f" of {now.noise}, not {before.noise}"
        yield f"This model was trained with noise of sigma {before.sigma:g} and is certified at {now.sigma:g}{kinds}."
    if own:
        yield (
            f"No --weights: the model is certified as {own} returns it, with random weights unless it loads its own."
        )
    if before := job.earlier():
        yield f"Goes on from the samples of {before}, which it replaces for all examples; their alphas add up."
    for other in job.others():
        yield f"Not continued: {other}, for a model of other weights, code or files, or of an older holdfast."
