"""A mutant of every rule of bounds is caught: made a little too small, it breaks the check that it passes as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import rule_cases
import torch
from rule_cases import Case
from torch import Tensor

from holdfast.bounds import affine, box, l2, linear, linf, local, operations
from holdfast.bounds.box import Box
from holdfast.bounds.steps import Steps
from holdfast.program import Program, Ref
from holdfast.program.graph import operation

EXACT = 1 + 1e-6
"""Of what torch computes here to compare with: its derivative of hardsigmoid holds 1/6 in float32."""

ROUGH = 2.0**29
"""Roundoffs of float64 in one of float32."""

LINE = torch.linspace(-4, 4, 65, dtype=torch.float64)


def jacobians(program: Program, x: Tensor) -> Tensor:
    """(point, output, input) at points (point, *shape): each copy of a point gives the gradient of one output."""
    count = torch.Size(program.output_shape).numel()
    copies = x.repeat_interleave(count, 0).requires_grad_()
    found = program(copies).reshape(len(x), count, count).diagonal(dim1=1, dim2=2).sum()
    return torch.autograd.grad(found, copies)[0].reshape(len(x), count, -1)


def points(program: Program) -> Tensor:
    """All of a line, of programs of one number; a few of others, which are affine, or nearly so."""
    if math.prod(program.input_shape) == 1:
        return LINE.view(-1, *program.input_shape)
    return columns([-1.0, 0.25, 2.0], program) * rule_cases.numbers(*program.input_shape)


def columns(numbers: list[float], program: Program) -> Tensor:
    """(number, 1, ...), one for each input of a batch."""
    return torch.tensor(numbers, dtype=torch.float64).view(-1, *[1] * len(program.input_shape))


def balls(program: Program) -> tuple[Tensor, Tensor]:
    """Centers and radii."""
    line = [-2.0, -0.6, 0.0, 0.5, 1.375, 2.375, 2.95]
    one = math.prod(program.input_shape) == 1
    x = columns(line, program) if one else points(program)[1:2]
    gamma = torch.tensor([1e-3, 0.5], dtype=torch.float64)
    return x.repeat_interleave(2, 0), gamma.repeat(len(x))


def check_l2(program: Program) -> None:
    """No Jacobian exceeds the constant, nor the value at zero its length."""
    found = l2.network_bound(Steps(program))
    assert float(torch.linalg.matrix_norm(jacobians(program, points(program)), 2).max()) <= found.norm * EXACT
    at_zero = program(torch.zeros(1, *program.input_shape, dtype=torch.float64)).norm()
    assert float(at_zero) <= found.offset * EXACT


def check_linf(program: Program) -> None:
    start = torch.ones(1, *program.input_shape, dtype=torch.float64)
    found = Steps(program).follow(start, linf.RULES).flatten()
    assert (jacobians(program, points(program)).abs().sum(2).amax(0) <= found * EXACT).all()


def check_box(program: Program) -> None:
    """No corner in the direction of a gradient, nor a point on the line through all corners, is outside."""
    reach = columns([0.5, 1.0, 1.5, 0.5], program)
    x = columns([0.0, 0.5, -1.5, 3.0], program).expand(-1, *program.input_shape).contiguous()
    found = box.follow(Steps(program), Box.of(x - reach, x + reach))
    signs = jacobians(program, x).sign()
    line = torch.linspace(-1, 1, 65, dtype=torch.float64)[:, None].expand(len(x), -1, signs.shape[2])
    values = _moved(program, x, reach, torch.cat([signs, -signs, line], 1))
    lower, upper, room = (one.flatten(1)[:, None] for one in (found.lower, found.upper, 1e-9 * (1 + found.size)))
    assert ((lower - room <= values) & (values <= upper + room)).all()


def check_local(program: Program) -> None:
    """No step in the direction of a singular vector or of a gradient leaves the ball or its box."""
    x, gamma = balls(program)
    found = local.local_bound(program, x, gamma)
    slopes = jacobians(program, x)
    furthest = torch.linalg.svd(slopes, full_matrices=False)[2][:, :1]
    rows = torch.cat([slopes, furthest, torch.ones_like(furthest)], 1)
    unit = rows / rows.norm(dim=2, keepdim=True).clamp(min=1e-300)
    values = _moved(program, x, columns(gamma.tolist(), program), torch.cat([unit, -unit], 1))
    moved, room = (values - found.value.reshape(len(x), 1, -1)).norm(dim=2).amax(1), 1e-12
    assert (moved <= found.reach + room).all()
    assert (moved <= found.constant * gamma * EXACT + room).all()
    lower, upper = (one.reshape(len(x), 1, -1) for one in (found.box.lower, found.box.upper))
    assert ((lower - room <= values) & (values <= upper + room)).all()


def _moved(program: Program, x: Tensor, length: Tensor, directions: Tensor) -> Tensor:
    """(point, direction, output) at x + length * direction, for directions (point, direction, input)."""
    count = directions.shape[1]
    shifted = x.repeat_interleave(count, 0) + length.repeat_interleave(count, 0) * directions.reshape(-1, *x.shape[1:])
    return program(shifted).reshape(len(x), count, -1)


def check_rounding(program: Program) -> None:
    """Float32 is as near to float64 as the error, of float64, says: there it has a witness."""
    x, steps = points(program).float(), Steps(program)
    exact, rough = program(x.double()), program.module(torch.float32)(x).double()
    away = (rough - exact).abs().flatten(1)
    bound, region = l2.network_bound(steps), box.follow(steps, Box.of(x, x))
    allowed = bound.error * x.double().flatten(1).norm(dim=1) + bound.error_offset
    assert (away.norm(dim=1) <= ROUGH * allowed).all()
    assert (away <= ROUGH * region.error.flatten(1)).all()


CHECKS = (check_l2, check_linf, check_box, check_local, check_rounding)

Smaller = Callable[[Any], Any]

_NARROWER: Mapping[str, Smaller] = {
    "lower end": lambda b: replace(b, lower=b.lower + 0.1 * (b.upper - b.lower)),
    "upper end": lambda b: replace(b, upper=b.upper - 0.1 * (b.upper - b.lower)),
}

DOMAINS: dict[str, tuple[Any, Callable[[Program], None], Mapping[str, Smaller]]] = {
    "l2": (l2, check_l2, {"constant": lambda b: replace(b, norm=0.9 * b.norm),
                          "offset": lambda b: replace(b, offset=0.5 * b.offset)}),
    "linf": (linf, check_linf, {"constant": lambda c: 0.9 * c}),
    "box": (box, check_box, _NARROWER),
    "local": (local, check_local, {
        "reach": lambda r: replace(r, reach=0.9 * r.reach),
        "constant": lambda r: replace(r, constant=0.9 * r.constant),
        **{name: lambda r, smaller=smaller: replace(r, box=smaller(r.box)) for name, smaller in _NARROWER.items()},
    }),
    "rounding, l2": (l2, check_rounding, {"error": lambda b: replace(b, error=0.0, error_offset=0.0)}),
    "rounding, box": (box, check_rounding, {"error": lambda b: replace(b, error=torch.zeros_like(b.error))}),
}  # fmt: skip
"""By domain: where its table of rules is, the check, and what makes its answers too small."""


def names(table: Mapping[str, list[Case]], *ops: str) -> list[str]:
    """Of cases."""
    return [f"{op} {i}" for op in ops or table for i in range(len(table[op]))]


TABLES = (rule_cases.LINEAR, rule_cases.FUSED, rule_cases.CLIPS, rule_cases.ACTIVATIONS, rule_cases.OTHERS)

CASES = {f"{op} {i}": case for table in TABLES for op, found in table.items() for i, case in enumerate(found)}

AFFINE = {*names(rule_cases.LINEAR), *names(rule_cases.FUSED)}

OF_RULE = {
    **{op: names(table, op) for table in (rule_cases.ACTIVATIONS, rule_cases.OTHERS) for op in table},
    "clip": names(rule_cases.CLIPS),
    "affine": sorted(AFFINE),
}
"""Cases in which a rule is used, by its operation."""


@cache
def program(name: str, rows: bool = False) -> Program:
    return CASES[name].program(rows)


def forms(name: str) -> list[Program]:
    """The program of a case, and with two rows for each example where that is another path."""
    return [program(name, rows) for rows in ((False, True) if name in AFFINE else (False,))]


@pytest.mark.parametrize("name", CASES)
def test_every_rule_holds_where_it_is_attained(name: str) -> None:
    for form in forms(name):
        for check in CHECKS:
            check(form)


NONSENSE = (RuntimeError, ValueError, IndexError, TypeError)
"""What becomes of a proof with arguments that do not fit."""


def caught(cases: list[str], checks: tuple[Callable[[Program], None], ...] = CHECKS, also: Any = ()) -> bool:
    """Whether some check of some case, with or without rows, fails now."""
    for form in (form for name in cases for form in forms(name)):
        for check in checks:
            try:
                check(form)
            except (AssertionError, *also):
                return True
    return False


RULES = [(d, what, op) for d, (room, _, mutants) in DOMAINS.items() for what in mutants for op in sorted(room.RULES)]


@pytest.mark.parametrize(("domain", "what", "op"), RULES)
def test_a_rule_whose_answer_is_too_small_is_caught(
    domain: str, what: str, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, check, mutants = DOMAINS[domain]

    def broken(rule: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: mutants[what](rule(*args))

    if room is local and op == "affine":
        monkeypatch.setattr(local, "_affine", broken(local._affine))
    else:
        monkeypatch.setitem(room.RULES, op, broken(room.RULES[op]))
    assert caught(OF_RULE[op], (check,))


@pytest.mark.parametrize("op", sorted(linear.LINEAR))
def test_a_linear_operation_whose_weights_are_too_small_is_caught(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = linear.LINEAR[op]
    monkeypatch.setitem(linear.LINEAR, op, lambda a, x, f: 0.9 * whole(a, x, f))
    assert caught(names(rule_cases.LINEAR, op), (check_linf, check_box))


PARTS: dict[str, tuple[Any, str, Callable[[Any], Any], list[str]]] = {
    "norm of an operation": (affine, "norm_of", lambda n: n and 0.9 * n, names(rule_cases.LINEAR)),
    "norm of several": (affine, "conv_norm", lambda n: 0.9 * n, names(rule_cases.FUSED)),
    "kernel": (affine, "kernel_of", lambda k: k and replace(k, weight=0.9 * k.weight), names(rule_cases.LINEAR)),
    "sum of kernels": (affine, "summed", lambda k: k and replace(k, weight=0.9 * k.weight), names(rule_cases.FUSED)),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_affine_rule_that_is_too_small_is_caught(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    room, function, smaller, cases = PARTS[part]
    whole = getattr(room, function)
    monkeypatch.setattr(room, function, lambda *args: smaller(whole(*args)))
    assert caught(cases)


@pytest.mark.parametrize("op", sorted(operations.CLIPS))
@pytest.mark.parametrize("end", [0, 1])
def test_an_end_that_is_out_of_place_is_caught(op: str, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = operations.CLIPS[op]
    inward = (0.1, -0.1)[end]

    def moved(args: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(e if i != end or e is None else e + inward for i, e in enumerate(ends(args)))

    monkeypatch.setitem(operations.CLIPS, op, moved)
    has = any(ends(program(name).arguments(len(program(name).nodes) - 1))[end] is not None
              for name in names(rule_cases.CLIPS, op))  # fmt: skip
    assert caught(names(rule_cases.CLIPS, op), (check_box,)) == has


@pytest.mark.parametrize("op", [op for op, found in operations.ACTIVATIONS.items() if found.turns({"approximate": ""})])
def test_a_place_where_an_activation_turns_and_that_is_forgotten_is_caught(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = operations.ACTIVATIONS[op]
    monkeypatch.setitem(operations.ACTIVATIONS, op, replace(found, turns=lambda args: ()))
    assert caught(names(rule_cases.ACTIVATIONS, op), (check_box,))


def optional() -> list[tuple[str, str]]:
    """(case, argument) for all arguments of an operation that has a default, which the case does not have."""
    found = []
    for name, case in CASES.items():
        if name in names(rule_cases.FUSED):
            continue  # without its ends a clip is bounded by more
        op, args = case.operations[-1]
        schema = {a.name: a for a in operation(op)._schema.arguments}
        found += [(name, arg) for arg, value in args.items() if arg not in HARMLESS
                  and (schema[arg].has_default_value() or str(schema[arg].type).startswith("Optional"))
                  and value is not None and not isinstance(value, Ref)]  # fmt: skip
    return sorted(set(found))


HARMLESS = {"backend", "keepdim", "momentum", "cudnn_enabled", "training", "p", "running_mean", "running_var"}
"""Arguments that change no value, or without which a program is refused."""


@pytest.mark.parametrize(("case", "argument"), optional())
def test_an_argument_that_a_bound_ignores_is_caught(case: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, op = Program.arguments, CASES[case].operations[-1][0]
    default = next(a.default_value for a in operation(op)._schema.arguments if a.name == argument)

    def ignoring(self: Program, index: int) -> dict[str, Any]:
        args = whole(self, index)
        return {**args, argument: default} if self.nodes[index].op == op else args

    monkeypatch.setattr(Program, "arguments", ignoring)
    assert caught([case], also=NONSENSE)


def test_every_rule_has_a_case() -> None:
    for room in (l2, linf, box, local):
        assert set(room.RULES) == set(OF_RULE)
    assert set(linear.LINEAR) == set(rule_cases.LINEAR)
    assert set(operations.CLIPS) == set(rule_cases.CLIPS)
    assert set(operations.ACTIVATIONS) | set(operations.ORDERED) <= set(OF_RULE)
