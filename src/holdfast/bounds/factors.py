"""Where the constant of a program comes from: what each step makes of the largest constant that enters it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import l2, linf
from .bound import IDENTITY
from .head import Head
from .steps import Step, Steps


@dataclass(frozen=True)
class Factor:
    """One step of a program."""

    node: int
    """Whose value it makes."""
    operations: tuple[str, ...]
    """What is bounded at once."""
    factor: float
    """Its constant over the largest of those of its inputs."""
    constant: float
    """Proven of the program up to here: how far this value moves if the image moves by 1."""
    critical: bool
    """It is on the path of largest constants to the logits: these factors multiply to the constant of the features."""


def factors(head: Head, threat: str) -> list[Factor]:
    """The steps up to the features, in the order in which they compute.

    Args:
        threat: l2 or linf.

    Raises:
        ValueError: an operation has no proof; the message names it and the line of code that it comes from.
    """
    steps = head.steps
    found: dict[int, tuple[Step, float]] = {0: (steps.steps[0], 1.0)}
    nodes = {id(step): index for index, step in steps.steps.items()}

    def kept(rule: Callable[..., Any], size: Callable[[Any], float]) -> Callable[..., Any]:
        def apply(step: Step, *values: Any) -> Any:
            made = rule(step, *values)
            found[nodes[id(step)]] = step, size(made)
            return made

        return apply

    if threat == "l2":
        steps.follow(IDENTITY, {op: kept(rule, lambda b: b.norm) for op, rule in l2.RULES.items()}, head.source)
    else:
        start = torch.ones(steps.program.nodes[0].shape, dtype=torch.float64)
        rules = {op: kept(rule, lambda c: float(c.max())) for op, rule in linf.RULES.items()}
        steps.follow(start, rules, head.source)
    path = _largest_path(found, head.source)
    return [
        Factor(
            index,
            _operations(steps, index),
            constant / max(found[ref][1] for ref in step.inputs),
            constant,
            index in path,
        )
        for index, (step, constant) in found.items()
        if index and all(found[ref][1] for ref in step.inputs)
    ]


def _operations(steps: Steps, index: int) -> tuple[str, ...]:
    step = steps.steps[index]
    nodes = dict.fromkeys((*(step.affine.nodes if step.affine else ()), index))
    return tuple(steps.program.nodes[node].op.split(".")[1] for node in nodes)


def _largest_path(found: dict[int, tuple[Step, float]], last: int) -> set[int]:
    path = {last}
    while inputs := found[last][0].inputs:
        last = max(inputs, key=lambda ref: found[ref][1])
        path.add(last)
    return path


def largest_difference(head: Head, threat: str) -> tuple[float, int, int]:
    """The largest constant of a difference of two logits, and of which."""
    constants = {"l2": l2, "linf": linf}[threat].difference_constants(head)
    first, second = divmod(int(constants.argmax()), len(constants))
    return float(constants.max()), first, second
