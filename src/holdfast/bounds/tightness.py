"""How much of a proven Lipschitz constant is slack, and where it comes from.

Step by step: what each makes of the largest constant that enters it. As a whole: against pairs of points, where the
lower bound is the largest |f(x) - f(y)| / |x - y| that gradient ascent on pairs finds, as in the discussion of Hu et
al., NeurIPS 2023, https://arxiv.org/abs/2301.12549; and against power iteration, which published certificates divide
by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..program import Program
from ..program.cut import before
from ..program.graph import Weight, flat
from ..program.program import Runner
from . import l2, linf
from .affine import IDENTITY, Affine, Bound
from .head import Head
from .steps import Step

CONVERGED = 500
"""Steps of power iteration after which the code of Hu et al. takes an estimate for the norm."""

STILL = 1e-7
"""Relative change of an estimate in one step that ends the iteration before."""


@dataclass(frozen=True)
class Tightness:
    """Plain numbers for a report; `lower <= true constant of the features <= upper`."""

    layers: dict[str, float]
    """Proven constant of each step before the last affine part, by the name of the module with most of its weights."""
    upper: float
    """Proven constant of the features."""
    lower: float
    """Largest ratio of distances that was found."""
    power_iteration: float
    """What power iteration says. Not proven."""


@torch.inference_mode(False)
def tightness(program: Program, x: Float[Tensor, "batch channel height width"], steps: int = 200) -> Tightness:
    """l2 bounds of a program up to its last affine part, and what pairs near x say about them, in float64."""
    head = Head.of(program)
    upper, estimated = l2.network_bound(head.steps, head.source).norm, l2.RULES | {"affine": _estimated}
    features = Runner(before(head.steps.program, head.source))
    lower = largest_ratio(features, x.detach().clone().double().cpu(), steps)
    return Tightness(_layers(head), upper, lower, head.steps.follow(IDENTITY, estimated, head.source).norm)


def largest_ratio(function: Callable[[Tensor], Tensor], x: Float[Tensor, "batch ..."], steps: int) -> float:
    """The largest |f(x) - f(y)| / |x - y| after Adam on both points of every pair."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    with torch.enable_grad():
        points = x.detach().clone().requires_grad_()
        others = (x.detach() + 0.1 * noise).requires_grad_()
        optimizer = torch.optim.Adam([points, others], lr=0.01)
        best = torch.zeros(())
        for _ in range(steps):
            ratios = _ratios(function, points, others)
            best = torch.maximum(best, ratios.detach().max())
            optimizer.zero_grad()
            (-ratios.log().sum()).backward()
            optimizer.step()
        return float(torch.maximum(best, _ratios(function, points, others).detach().max()))


def _layers(head: Head) -> dict[str, float]:
    program, found = head.steps.program, {}

    def weights(node: int) -> int:
        args = flat(program.nodes[node].args)
        return sum(program.tensors[arg.name].numel() for arg in args if isinstance(arg, Weight))

    for factor in factors(head, "l2"):
        modules = program.nodes[max(factor.nodes, key=weights)].place.modules
        name = modules[-1].removeprefix("body.") if modules and modules[-1] else " + ".join(factor.operations)
        found[f"{name} (node {factor.node})" if name in found else name] = factor.factor
    return found


def _estimated(step: Step, x: Bound) -> Bound:
    assert step.affine is not None
    return Bound(_converged(step.affine) * x.norm)


def _converged(affine: Affine) -> float:
    """The norm of the linear part by power iteration from a random start."""
    shape = affine.inputs
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = 0.0
    for _ in range(CONVERGED):
        with torch.enable_grad():
            vector = (vector / vector.norm().clamp(min=1e-300)).requires_grad_()
            image = affine.weighted(vector, torch.clone)
            last, norm = norm, float(image.detach().norm())
            if math.isclose(last, norm, rel_tol=STILL):
                break
            (vector,) = torch.autograd.grad(image, vector, image.detach())
    return norm


def _ratios(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    distances = [torch.linalg.vector_norm((a - b).flatten(1), dim=1) for a, b in ((function(x), function(y)), (x, y))]
    return distances[0] / distances[1]


@dataclass(frozen=True)
class Factor:
    """One step of a program."""

    node: int
    """Whose value it makes."""
    nodes: tuple[int, ...]
    """What is bounded at once."""
    operations: tuple[str, ...]
    """What they do."""
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
            (nodes := _together(step, index)),
            tuple(steps.program.nodes[node].op.split(".")[1] for node in nodes),
            constant / max(found[ref][1] for ref in step.inputs),
            constant,
            index in path,
        )
        for index, (step, constant) in found.items()
        if index and all(found[ref][1] for ref in step.inputs)
    ]


def _together(step: Step, index: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys((*(step.affine.nodes if step.affine else ()), index)))


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
