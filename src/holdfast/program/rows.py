"""The operations that a program may hold, and for each the rule that keeps examples of a batch apart.

A value has `rows` if its dimension 0 is the batch, whole and in order. Each rule looks at the arguments of an operation
and refuses it where an example could see another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Value:
    """A tensor among the arguments."""

    shape: tuple[int, ...]
    """For one example, if it has rows."""
    rows: bool


Args = Mapping[str, Any]
Rule = Callable[[Args, list[Value], tuple[int, ...]], None]
"""(arguments, those with rows, shape of the result for the whole batch) -> refuses by a ValueError."""

MIXED = "examples of a batch would influence each other"


def check_rows(op: str, args: Args | None, shape: tuple[int, ...], batch: int) -> bool:
    """Whether the result has rows; args=None asks only whether the operation is known.

    Raises:
        ValueError: the operation is not allowed, or mixes the examples of a batch.
    """
    if op not in ROWS and op not in CONSTANT:
        raise ValueError(
            REFUSED.get(op.split(".")[1] if "." in op else op, "this operation is not allowed in a program")
        )
    if args is None:
        return False
    found = [one for arg in args.values() for one in (arg if isinstance(arg, tuple) else (arg,))]
    _refuse_sizes(op, found, args)
    with_rows = [one for one in found if isinstance(one, Value) and one.rows]
    if not with_rows and not (op == "aten.expand.default" and _counts_examples(args["size"])):
        return False
    if op not in ROWS:
        raise ValueError("this operation is allowed on constants only")
    ROWS[op](args, with_rows, shape)
    if not shape or shape[0] % batch:
        raise ValueError(MIXED)
    return True


def _counts_examples(sides: Any) -> bool:
    return bool(sides) and hasattr(sides[0], "times")


def _refuse_sizes(op: str, found: list[Any], args: Args) -> None:
    """The number of examples may only be the first side of a shape, and only of a value that has rows or gets them."""
    counts = sum(hasattr(one, "times") for one in found)
    sides = args.get("shape", args.get("size")) if op in ("aten.reshape.default", "aten.expand.default") else None
    of = args.get("self")
    if counts != int(_counts_examples(sides)) or (
        counts and op == "aten.reshape.default" and not (isinstance(of, Value) and of.rows)
    ):
        raise ValueError("the number of examples is no argument that is allowed here")


def _refuse_one_for_each(constants: list[Value], dimensions: int) -> None:
    """A constant with a part for each example would make the answer depend on an example's place in the batch."""
    _refuse_if(any(len(one.shape) >= dimensions and one.shape[0] != 1 for one in constants))


def _constants(args: Args) -> list[Value]:
    found = [one for arg in args.values() for one in (arg if isinstance(arg, tuple) else (arg,))]
    return [one for one in found if isinstance(one, Value) and not one.rows]


def _refuse_if(wrong: bool) -> None:
    if wrong:
        raise ValueError(MIXED)


def _pointwise(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    """Tensors broadcast; all that have rows have them in the same dimension."""
    _refuse_if(any(len(one.shape) != len(shape) or one.shape[0] != rows[0].shape[0] for one in rows))
    _refuse_one_for_each(_constants(args), len(shape))


def _only_first(dimensions: int, exact: bool = True) -> Rule:
    """One tensor with rows, the first argument, with so many dimensions: else torch would take rows for channels."""

    def rule(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
        first = next(iter(args.values()))
        if not isinstance(first, Value) or not first.rows or len(rows) > 1:
            raise ValueError("only its first argument may depend on the input")
        count = len(first.shape)
        _refuse_if(count < dimensions or (exact and count > dimensions))

    return rule


def _batch_norm(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    if args.get("training") or args.get("running_mean") is None or args.get("running_var") is None:
        raise ValueError("batch normalization without running statistics depends on the batch; use running statistics")
    _only_first(2, exact=False)(args, rows, shape)


def _layer_norm(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    _only_first(1 + len(args["normalized_shape"]), exact=False)(args, rows, shape)


def _addmm(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    _refuse_if(args["self"].rows or not args["mat1"].rows or args["mat2"].rows)
    _refuse_one_for_each([args["self"]], 2)


def _matmul(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    left, right = list(args.values())[:2]
    a, b = len(left.shape), len(right.shape)
    _refuse_if((right.rows and b < 3) or (left.rows and a < 2) or (left.rows and right.rows and a != b))
    _refuse_if((left.rows and b > max(a, 2)) or (right.rows and a > b))
    _refuse_one_for_each(_constants(args), max(a, b, 3))


def _along(name: str, default: Any = 0) -> Rule:
    """Works along given dimensions, of which none may be the batch; no dimension means all of them."""

    def rule(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
        count = len(rows[0].shape)
        found = args.get(name, default)
        dims = found if isinstance(found, tuple) else (found,)
        _refuse_if(not dims or any(dim is None or not isinstance(dim, int) or dim % count == 0 for dim in dims))
        _refuse_if(any(len(one.shape) != count for one in rows))

    return rule


def _stack(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    _refuse_if(args.get("dim", 0) % len(shape) == 0 or bool(_constants(args)))


def _cat(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    _along("dim")(args, rows, shape)
    _refuse_if(bool(_constants(args)) or any(one.shape[0] != rows[0].shape[0] for one in rows))


def _transpose(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    count = len(rows[0].shape)
    _refuse_if(args["dim0"] % count == 0 or args["dim1"] % count == 0)


def _permute(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    _refuse_if(args["dims"][0] % len(rows[0].shape) != 0)


def _unsqueeze(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    _refuse_if(args["dim"] % (len(rows[0].shape) + 1) == 0)


def _reshape(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    """Rows of one example lie together, so that any shape whose first side counts examples keeps them together."""
    sides = args.get("shape", args.get("size"))
    _refuse_if(not _counts_examples(sides))


def _expand(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    if not rows:
        _refuse_one_for_each(_constants(args), len(shape))
        return
    _reshape(args, rows, shape)
    _refuse_if(len(shape) != len(rows[0].shape) or args["size"][0].times != rows[0].shape[0])


def _pad(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    _refuse_if(len(args["pad"]) // 2 >= len(rows[0].shape))
    _refuse_if(args.get("mode", "constant") != "constant" and len(rows[0].shape) != len(args["pad"]) // 2 + 2)


def _attention(args: Args, rows: list[Value], shape: tuple[int, ...]) -> None:
    if args.get("dropout_p"):
        raise ValueError(REFUSED["dropout"])
    _refuse_if(any(len(one.shape) < 3 or one.shape[0] != rows[0].shape[0] for one in rows))
    _refuse_if(not all(args[name].rows for name in ("query", "key", "value")))
    _refuse_one_for_each(_constants(args), len(shape))


def _aten(names: str, rule: Rule) -> dict[str, Rule]:
    return {f"aten.{name}" if "." in name else f"aten.{name}.default": rule for name in names.split()}


ROWS: dict[str, Rule] = {
    **_aten(
        "relu relu6 leaky_relu elu selu celu gelu silu mish tanh sigmoid softplus hardtanh hardsigmoid hardswish "
        "log_sigmoid abs neg exp log sqrt rsqrt reciprocal sin cos erf square clamp clamp.Tensor clamp_min clamp_max "
        "maximum minimum add.Tensor sub.Tensor mul.Tensor div.Tensor rsub.Scalar add.Scalar sub.Scalar mul.Scalar "
        "div.Scalar pow.Tensor_Scalar pow.Tensor_Tensor gt.Tensor ge.Tensor lt.Tensor le.Tensor eq.Tensor ne.Tensor "
        "gt.Scalar ge.Scalar lt.Scalar le.Scalar eq.Scalar ne.Scalar where.self where.ScalarOther where.ScalarSelf "
        "logical_and logical_or logical_not masked_fill.Scalar prelu _to_copy sign floor round",
        _pointwise,
    ),
    **_aten(
        "conv2d conv2d.padding conv_transpose2d.input max_pool2d avg_pool2d adaptive_avg_pool2d im2col "
        "upsample_nearest2d.vec upsample_bilinear2d.vec upsample_bicubic2d.vec _upsample_bilinear2d_aa.vec "
        "_upsample_bicubic2d_aa.vec",
        _only_first(4),
    ),
    **_aten("conv1d conv1d.padding max_pool1d avg_pool1d adaptive_avg_pool1d", _only_first(3)),
    **_aten("pixel_shuffle pixel_unshuffle channel_shuffle", _only_first(4, exact=False)),
    **_aten("linear group_norm", _only_first(2, exact=False)),
    **_aten("mm", _only_first(2)),
    **_aten("batch_norm", _batch_norm),
    **_aten("layer_norm rms_norm", _layer_norm),
    **_aten("addmm", _addmm),
    **_aten("matmul bmm", _matmul),
    **_aten("mean.dim sum.dim_IntList var.correction std.correction amax amin", _along("dim", ())),
    **_aten("linalg_vector_norm", _along("dim", None)),
    **_aten("logsumexp softmax.int log_softmax.int slice.Tensor select.int index_select", _along("dim")),
    **_aten("cat", _cat),
    **_aten("stack", _stack),
    **_aten("flip roll", _along("dims", ())),
    **_aten("squeeze.dims squeeze.dim", _along("dim", ())),
    **_aten("transpose.int", _transpose),
    **_aten("permute", _permute),
    **_aten("unsqueeze", _unsqueeze),
    **_aten("reshape", _reshape),
    **_aten("expand", _expand),
    **_aten("pad constant_pad_nd", _pad),
    **_aten("scaled_dot_product_attention", _attention),
    **dict.fromkeys(("holdfast.linf_dist.default", "holdfast.sort_dist.default"), _only_first(2)),
}
"""Operations on values that depend on the input."""

CONSTANT = frozenset(
    _aten(
        "eye arange arange.start arange.start_step full zeros ones diagonal diag_embed tril triu mean sum prod.dim_int "
        "linalg_cholesky linalg_solve_triangular linalg_inv linalg_inv_ex linalg_matrix_exp linalg_vector_norm.default "
        "outer full_like zeros_like ones_like maximum minimum sum.default t flatten.using_ints index.Tensor "
        "mv dot vdot _weight_norm matrix_exp linalg_householder_product",
        _pointwise,
    )
)
"""More operations, for weights that are functions of stored tensors."""

REFUSED = {
    "dropout": "the classifier draws random numbers: sampling noise inside of a program is refused",
    "_native_batch_norm_legit": "batch normalization without running statistics depends on the batch",
    "instance_norm": "instance normalization is not supported; write it with mean and var over pixels",
}
"""Reasons for some operations that are often met."""
