"""Linear operations of a program, each as one function whose weights can be replaced: by absolute values, by squares,
by ones. From it follow sums of rows and columns, rounding errors, boxes, and for most a proven norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..program import Batch, Ref
from ..program.graph import operation, positional
from .norms import conv2d_norm, matrix_norm, remembered

Args = Mapping[str, Any]
"""By name, with tensors for constants and a `Ref` for what depends on the input."""

Change = Callable[[Tensor], Tensor]
"""What is done to the weights."""

Linear = Callable[[Args, Tensor, Change], Tensor]
"""(arguments, input, change of the weights) -> output, without what does not depend on the input."""


def run(op: str, args: Args, values: Callable[[Ref], Tensor], batch: int = 1) -> Tensor:
    """The operation itself, for a batch of so many examples."""

    def value(arg: Any) -> Any:
        if isinstance(arg, tuple):
            return [value(one) for one in arg]
        if isinstance(arg, Batch):
            return arg.times * batch
        return values(arg) if isinstance(arg, Ref) else arg

    call = operation(op)
    before, named = positional(call, {name: value(arg) for name, arg in args.items()})
    return call(*before, **named)


def is_linear(op: str, args: Args) -> bool:
    """Whether it is affine in the one argument that depends on the input."""
    refs = [one for arg in args.values() for one in (arg if isinstance(arg, tuple) else (arg,)) if isinstance(one, Ref)]
    if op not in LINEAR or len(refs) != 1:
        return False
    return not (op == "aten.div.Tensor" and isinstance(args["other"], Ref))


def _conv2d(a: Args, x: Tensor, f: Change) -> Tensor:
    return F.conv2d(x, f(a["weight"]), None, a["stride"], _padding(a), a["dilation"], a["groups"])


def _conv_transpose2d(a: Args, x: Tensor, f: Change) -> Tensor:
    geometry = (a["stride"], a["padding"], a["output_padding"], a["groups"], a["dilation"])
    return F.conv_transpose2d(x, f(a["weight"]), None, *geometry)


def _padding(a: Args) -> Any:
    return a["padding"] if isinstance(a["padding"], str) else list(a["padding"])


def _matmul(left: str, right: str) -> Linear:
    def apply(a: Args, x: Tensor, f: Change) -> Tensor:
        y = x @ f(a[right]) if isinstance(a[left], Ref) else f(a[left]) @ x
        return y * f(number(a["alpha"], x)) if "alpha" in a else y

    return apply


def _scaled(a: Args, x: Tensor, f: Change) -> Tensor:
    return x * f(number(a["self"] if isinstance(a["other"], Ref) else a["other"], x))


def _divided(a: Args, x: Tensor, f: Change) -> Tensor:
    if a.get("rounding_mode"):
        raise ValueError("division with rounding has no proof")
    return x * f(1 / number(a["other"], x))


def _added(sign: int, reverse: bool = False) -> Linear:
    """alpha multiplies the second; the constant is only broadcast."""

    def apply(a: Args, x: Tensor, f: Change) -> Tensor:
        second = isinstance(a["other"], Ref)
        factor = sign * a["alpha"] if second != reverse else 1
        constant = number(a["self"] if second else a["other"], x)
        return x * f(number(factor, x)) + torch.zeros_like(constant)

    return apply


def _negative(a: Args, x: Tensor, f: Change) -> Tensor:
    return x * f(number(-1, x))


def _batch_norm(a: Args, x: Tensor, f: Change) -> Tensor:
    return x * f(batch_norm_factor(a)).view(-1, *[1] * (x.dim() - 2))


def batch_norm_factor(a: Args) -> Tensor:
    """(channel,)."""
    factor = (a["running_var"] + a["eps"]).rsqrt()
    return factor if a["weight"] is None else factor * a["weight"]


def _sum(a: Args, x: Tensor, f: Change) -> Tensor:
    return x.sum(a["dim"], a["keepdim"])


def _mean(a: Args, x: Tensor, f: Change) -> Tensor:
    count = math.prod(x.shape[dim] for dim in a["dim"])
    return x.sum(a["dim"], a["keepdim"]) * f(number(1 / count, x))


def _avg_pool2d(a: Args, x: Tensor, f: Change) -> Tensor:
    kernel, padding = pair(a["kernel_size"]), pair(a["padding"])
    if a["ceil_mode"] or a["divisor_override"] or (any(padding) and not a["count_include_pad"]):
        raise ValueError("average pooling has a proof without ceil_mode, divisor_override and count_include_pad=False")
    total = F.avg_pool2d(x, kernel, a["stride"] or kernel, padding, divisor_override=1)
    return total * f(number(1 / math.prod(kernel), x))


def _adaptive_avg_pool2d(a: Args, x: Tensor, f: Change) -> Tensor:
    counts = [_window_sizes(size, wanted) for size, wanted in zip(x.shape[-2:], a["output_size"], strict=True)]
    count = counts[0][:, None] * counts[1]
    return F.adaptive_avg_pool2d(x, a["output_size"]) * count * f(1 / count)


def _window_sizes(size: int, wanted: int) -> Tensor:
    sizes = [-(-(i + 1) * size // wanted) - i * size // wanted for i in range(wanted)]
    return torch.tensor(sizes, dtype=torch.float64)


def _moved(op: str) -> Linear:
    """An operation that only moves, repeats or drops numbers, or adds zeros."""

    def apply(a: Args, x: Tensor, f: Change) -> Tensor:
        args = {**a, "value": 0} if op == "aten.constant_pad_nd.default" else dict(a)
        if op == "aten.pad.default" and a["mode"] == "constant":
            args["value"] = None
        return run(op, args, lambda _: x)

    return apply


def _reshape(a: Args, x: Tensor, f: Change) -> Tensor:
    return x.reshape(-1, *a["shape"][1:])


def _expand(a: Args, x: Tensor, f: Change) -> Tensor:
    return x.expand(-1, *a["size"][1:])


LINEAR: dict[str, Linear] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.conv_transpose2d.input": _conv_transpose2d,
    "aten.linear.default": lambda a, x, f: F.linear(x, f(a["weight"])),
    "aten.addmm.default": _matmul("mat1", "mat2"),
    "aten.mm.default": _matmul("self", "mat2"),
    "aten.matmul.default": _matmul("self", "other"),
    "aten.batch_norm.default": _batch_norm,
    "aten.mul.Tensor": _scaled,
    "aten.div.Tensor": _divided,
    "aten.add.Tensor": _added(1),
    "aten.sub.Tensor": _added(-1),
    "aten.rsub.Scalar": _added(-1, reverse=True),
    "aten.neg.default": _negative,
    "aten.sum.dim_IntList": _sum,
    "aten.mean.dim": _mean,
    "aten.avg_pool2d.default": _avg_pool2d,
    "aten.adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "aten.reshape.default": _reshape,
    "aten.expand.default": _expand,
    **{
        op: _moved(op)
        for op in [
            "aten.permute.default",
            "aten.transpose.int",
            "aten.unsqueeze.default",
            "aten.squeeze.dim",
            "aten.squeeze.dims",
            "aten.slice.Tensor",
            "aten.select.int",
            "aten.index_select.default",
            "aten.flip.default",
            "aten.roll.default",
            "aten.pad.default",
            "aten.constant_pad_nd.default",
            "aten.im2col.default",
            "aten.upsample_nearest2d.vec",
            "aten.pixel_shuffle.default",
            "aten.pixel_unshuffle.default",
        ]
    },
}
"""Operations that are affine in the one argument that depends on the input."""


def norm_of(op: str, a: Args, shape: tuple[int, ...], output: tuple[int, ...]) -> float | None:
    """The proven norm of an operation on inputs of that shape, where one is known that beats sums of rows."""
    if op in ("aten.linear.default", "aten.mm.default", "aten.addmm.default", "aten.matmul.default"):
        left = op == "aten.matmul.default" and isinstance(a["self"], Tensor) and a["self"].dim() == 2
        weight = a["self"] if left else matrix(op, a)
        scale = abs(float(a.get("alpha", 1)))
        return None if weight is None else remembered(matrix_norm, weight) * scale * (1 if scale == 1 else 1 + 1e-15)
    if op in ("aten.conv2d.default", "aten.conv2d.padding"):
        padding = a["padding"] if isinstance(a["padding"], str) else tuple(a["padding"])
        return conv_norm(a["weight"], shape[-2:], tuple(a["stride"]), padding, a["groups"], tuple(a["dilation"]))
    if op == "aten.conv_transpose2d.input":
        geometry = (tuple(a["stride"]), tuple(a["padding"]), a["groups"], tuple(a["dilation"]))
        return conv_norm(a["weight"], output[-2:], *geometry)
    if op == "aten.avg_pool2d.default":
        kernel = pair(a["kernel_size"])
        mean = torch.full((1, 1, *kernel), 1 / math.prod(kernel), dtype=torch.float64)
        return conv_norm(mean, shape[-2:], pair(a["stride"] or kernel), pair(a["padding"]), 1, (1, 1)) * (1 + 1e-15)
    return None


def conv_norm(weight: Tensor, size: Any, stride: Any, padding: Any, groups: int, dilation: Any) -> float:
    return remembered(conv2d_norm, weight, tuple(size), stride, padding, "zeros", groups, dilation)


def matrix(op: str, a: Args) -> Tensor | None:
    """(out, in), for an operation that multiplies rows by it."""
    if op == "aten.linear.default":
        return a["weight"] if a["weight"].dim() == 2 else None
    right = a.get("mat2", a.get("other"))
    if op in ("aten.mm.default", "aten.addmm.default", "aten.matmul.default") and isinstance(right, Tensor):
        return right.T if right.dim() == 2 else None
    return None


def number(value: Any, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def pair(value: Any) -> tuple[int, int]:
    value = (value,) if isinstance(value, int) else tuple(value)
    return (value[0], value[-1])
