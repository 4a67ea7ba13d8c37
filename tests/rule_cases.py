"""Small programs, one for every rule of bounds, that attain what the rule says: a smaller bound would be wrong.

Rules for what is not affine see one number x through an affine map, in the direction in which the operation stretches
most: then ball, box and all norms coincide, and points on a line show what is true.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.ops.distance import sort_weights
from holdfast.program import Batch, Program, Ref, Weight
from holdfast.program.graph import Graph

X = Ref(0)
Operation = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """Operations one after the other; the last one is what the case is about."""

    shape: tuple[int, ...]
    operations: tuple[Operation, ...]

    def program(self, rows: bool = False) -> Program:
        """Rows: two rows for each example go through, so that no affine operation is a convolution of images."""
        graph = Graph((2, *self.shape) if rows else self.shape, torch.float64)
        known = [X]
        if rows:
            known = [graph.add("aten.reshape.default", {"self": X, "shape": (Batch(2), *self.shape)})]
        for op, args in self.operations:
            known.append(graph.add(op, {name: _argument(arg, graph, known, rows) for name, arg in args.items()}))
        last, output = known[-1], graph[known[-1]].shape
        if rows:
            size = torch.Size(output).numel()
            last = graph.add("aten.reshape.default", {"self": last, "shape": (Batch(1), size)})
        return Program.of(graph, last)


def _argument(arg: Any, graph: Graph, known: list[Ref], rows: bool) -> Any:
    if isinstance(arg, tuple):
        return tuple(_argument(one, graph, known, rows) for one in arg)
    if isinstance(arg, Ref):
        return known[arg.node]
    if isinstance(arg, Batch):
        return Batch(2 * arg.times) if rows else arg
    if isinstance(arg, Tensor):
        graph.tensors[str(len(graph.tensors))] = arg
        return Weight(str(len(graph.tensors) - 1))
    return arg


def numbers(*shape: int) -> Tensor:
    """Different ones of both signs, the same everywhere; float32 holds them as well."""
    count = torch.Size(shape).numel()
    return (((torch.arange(count) * 37) % 101 - 49).double() / 64).reshape(shape)


def line(weights: list[float], shifts: list[float] | None = None) -> Operation:
    """x to weights * x + shifts."""
    bias = torch.tensor(shifts or [0.0] * len(weights), dtype=torch.float64)
    return "aten.linear.default", {"input": X, "weight": torch.tensor(weights)[:, None].double(), "bias": bias}


def shaped(*shape: int) -> Operation:
    """The first value in another shape."""
    return "aten.reshape.default", {"self": Ref(1), "shape": (Batch(1), *shape)}


def on_line(op: str, front: list[Operation] | None = None, **args: Any) -> Case:
    """An operation of x times 1.1, or of what stands in front; behind a shape that nothing is fused with."""
    front = front or [line([1.1], [0.25]), shaped(1, 1)]
    return Case((1,), (*front, (op, {"self": Ref(len(front)), **args})))


def pooled(weights: list[float], shifts: list[float], size: tuple[int, int], **args: Any) -> Case:
    return on_line("aten.max_pool2d.default", [line(weights, shifts), shaped(1, *size)], **args)


def ordered(first: str, second: str, then: list[Operation]) -> Case:
    """Maxima and minima of the halves of four numbers, of which each half moves faster than the other somewhere."""
    front = [line([1.1, 1.0, 3.0, 3.0], [0.0, 0.5, -1.0, 1.0])]
    halves = [
        ("aten.slice.Tensor", {"self": Ref(1), "dim": 1, "start": at, "end": at + 2}) for at in (0, 2)
    ]  # nodes 2 and 3
    both = [(op, {"self": Ref(2), "other": Ref(3)}) for op in (first, second)]
    return Case((1,), (*front, *halves, *both, *then))


APART = 10.0
"""Further than any value of a case moves."""


def two(op: str, here: float, there: float) -> Case:
    """Of two values, each of which is picked, and moves, in one place."""
    front = [line([1.1, 0.0], [here, there]), line([0.0, 1.1], [there, here])]
    return Case((1,), (*front, (op, {"self": Ref(1), "other": Ref(2)})))


def picked(others: float) -> Operation:
    """Six numbers, of which the third and the fourth move, and the others are so far away."""
    return line([0.0, 0.0, 1.1, 1.1, 0.0, 0.0], [others, others, 0.0, 0.0, others, others])


CLIPS: dict[str, list[Case]] = {
    "aten.relu.default": [on_line("aten.relu.default")],
    "aten.relu6.default": [on_line("aten.relu6.default", [line([3.3]), shaped(1, 1)])],
    "aten.hardtanh.default": [on_line("aten.hardtanh.default", min_val=-0.5, max_val=2.5)],
    "aten.clamp.default": [on_line("aten.clamp.default", min=0.5, max=2.5), on_line("aten.clamp.default", min=0.5)],
    "aten.clamp.Tensor": [
        on_line("aten.clamp.Tensor", min=torch.tensor([[0.5]]).double(), max=torch.tensor([[2.5]]).double())
    ],
    "aten.clamp_min.default": [on_line("aten.clamp_min.default", min=0.5)],
    "aten.clamp_max.default": [on_line("aten.clamp_max.default", max=-0.5)],
    "aten.maximum.default": [on_line("aten.maximum.default", other=torch.tensor([[0.5]]).double())],
    "aten.minimum.default": [on_line("aten.minimum.default", other=torch.tensor([[-0.5]]).double())],
}

ACTIVATIONS: dict[str, list[Case]] = {
    "aten.leaky_relu.default": [on_line("aten.leaky_relu.default", negative_slope=-1.5)],
    "aten.abs.default": [on_line("aten.abs.default")],
    "aten.tanh.default": [on_line("aten.tanh.default")],
    "aten.sigmoid.default": [on_line("aten.sigmoid.default")],
    "aten.elu.default": [
        on_line("aten.elu.default", alpha=1.75),
        on_line("aten.elu.default", scale=1.75),
        on_line("aten.elu.default", input_scale=1.75),
        on_line("aten.elu.default", alpha=-1.75),
    ],
    "aten.silu.default": [on_line("aten.silu.default")],
    "aten.gelu.default": [on_line("aten.gelu.default"), on_line("aten.gelu.default", approximate="tanh")],
    "aten.hardswish.default": [
        on_line("aten.hardswish.default", [line([1.1], [at]), shaped(1, 1)]) for at in (0.0, 3.0)
    ],
    "aten.hardsigmoid.default": [on_line("aten.hardsigmoid.default")],
}

PLANES = [line([1.1], [0.25]), line([2.2], [-0.5])]
"""Two values that move side by side."""

SORTED = sort_weights(0.6, 3)

OTHERS: dict[str, list[Case]] = {
    "minmax": [
        ordered("aten.minimum.default", "aten.maximum.default",
                [("aten.cat.default", {"tensors": (Ref(4), Ref(5)), "dim": 1})]),
        ordered("aten.maximum.default", "aten.minimum.default",
                [("aten.cat.default", {"tensors": (Ref(4), Ref(5)), "dim": 1})]),
    ],
    "maximum": [two("aten.maximum.default", 0.0, -APART), two("aten.maximum.default", 0.25, -0.25)],
    "minimum": [two("aten.minimum.default", 0.0, APART), two("aten.minimum.default", -0.25, 0.25)],
    "aten.max_pool2d.default": [
        pooled([1.1], [0.5], (1, 1), kernel_size=(2, 2), stride=(1, 1), padding=(1, 1)),
        pooled([1.1], [0.5], (1, 1), kernel_size=(2, 2), padding=(1, 1)),
        pooled([0.0, 0.0, 1.1, 0.0, 0.0], [-APART, -APART, 0.0, -APART, -APART], (1, 5),
               kernel_size=(1, 2), dilation=(1, 2)),
        pooled([0.0, 0.0, 1.1], [-APART, -APART, 0.0], (1, 3), kernel_size=(1, 2), ceil_mode=True),
    ],
    "aten.amax.default": [
        on_line("aten.amax.default", [picked(-APART), shaped(3, 2)], dim=(1,)),
        on_line("aten.amax.default", dim=(2,)),
    ],
    "aten.amin.default": [on_line("aten.amin.default", [picked(APART), shaped(3, 2)], dim=(1,)),
        on_line("aten.amin.default", dim=(2,)),
    ],
    "aten.cat.default": [Case((1,), (*PLANES, ("aten.cat.default", {"tensors": (Ref(1), Ref(2)), "dim": 1})))],
    "aten.stack.default": [Case((1,), (*PLANES, ("aten.stack.default", {"tensors": (Ref(1), Ref(2)), "dim": 1})))],
    "sum": [
        Case((1,), (line([1.1], [0.25]), ("aten.abs.default", {"self": Ref(1)}),
                    (op, {"self": Ref(2), "other": Ref(1), **more})))
        for op in ("aten.add.Tensor", "aten.sub.Tensor") for more in ({}, {"alpha": 2.0})
    ],
    "aten.softmax.int": [on_line("aten.softmax.int", [line([1.1, -1.1])], dim=1)],
    "aten.log_softmax.int": [on_line("aten.log_softmax.int", [line([1.1, -1.1])], dim=1)],
    "holdfast.linf_dist.default": [
        Case((1,), (line([1.1, 0.0]),
                    ("holdfast.linf_dist.default", {"x": Ref(1), "w": torch.tensor([[-2.5, 0.0]] * 3).double(),
                                                    "p": torch.inf, "backend": "eager"}))),
    ],
    "holdfast.sort_dist.default": [
        Case((1,), (line(steps),
                    ("holdfast.sort_dist.default", {"x": Ref(1), "w": torch.tensor([[-9.0, -9.5, -10.0]] * 3).double(),
                                                    "keep": 0.6, "terms": 3})))
        for steps in (SORTED[::-1], [1.1] * 3)
    ],
}  # fmt: skip

IMAGE, FEATURES = (2, 3, 4), (5,)


def linear(shape: tuple[int, ...], op: str, first: str = "self", /, **args: Any) -> Case:
    """One operation of an input."""
    return Case(shape, ((op, {first: X, **args}),))


VARIANCE = numbers(2).abs() + 0.25

LINEAR: dict[str, list[Case]] = {
    "aten.conv2d.default": [
        linear(IMAGE, "aten.conv2d.default", "input", weight=numbers(3, 2, 2, 3), bias=numbers(3), stride=(1, 2),
               padding=(1, 0)),
        linear((2, 5, 4), "aten.conv2d.default", "input", weight=numbers(4, 1, 2, 2), groups=2, dilation=(2, 1)),
    ],
    "aten.conv2d.padding": [
        linear(IMAGE, "aten.conv2d.padding", "input", weight=numbers(2, 2, 3, 3), bias=numbers(2), padding="same")
    ],
    "aten.conv_transpose2d.input": [
        linear(IMAGE, "aten.conv_transpose2d.input", "input", weight=numbers(2, 3, 2, 3), bias=numbers(3),
               stride=(2, 1), padding=(0, 1), output_padding=(1, 0)),
        linear(IMAGE, "aten.conv_transpose2d.input", "input", weight=numbers(2, 2, 2, 2), groups=2, dilation=(1, 2)),
    ],
    "aten.linear.default": [
        linear(FEATURES, "aten.linear.default", "input", weight=numbers(3, 5), bias=numbers(3)),
        linear((2, 4), "aten.linear.default", "input", weight=numbers(3, 4)),
    ],
    "aten.addmm.default": [
        linear(FEATURES, "aten.addmm.default", "mat1", self=numbers(3), mat2=numbers(5, 3), beta=0.5, alpha=-2.0),
        linear(FEATURES, "aten.addmm.default", "mat1", self=numbers(3), mat2=numbers(5, 3)),
    ],
    "aten.mm.default": [linear(FEATURES, "aten.mm.default", mat2=numbers(5, 3))],
    "aten.matmul.default": [
        linear((2, 4), "aten.matmul.default", other=numbers(4, 3)),
        linear((2, 4), "aten.matmul.default", "other", self=numbers(3, 2)),
    ],
    "aten.batch_norm.default": [
        linear(IMAGE, "aten.batch_norm.default", "input", weight=numbers(2) * 3, bias=numbers(2), training=False,
               running_mean=numbers(2), running_var=VARIANCE, momentum=0.0, eps=0.5, cudnn_enabled=True),
        linear(IMAGE, "aten.batch_norm.default", "input", weight=None, bias=None, training=False,
               running_mean=numbers(2), running_var=VARIANCE, momentum=0.0, eps=0.5, cudnn_enabled=True),
    ],
    "aten.mul.Tensor": [linear(IMAGE, "aten.mul.Tensor", other=numbers(3, 1)),
                        linear(IMAGE, "aten.mul.Tensor", "other", self=numbers(2, 1, 1))],
    "aten.div.Tensor": [linear(IMAGE, "aten.div.Tensor", other=numbers(2, 1, 1)),
                        linear(IMAGE, "aten.div.Tensor", other=-0.7)],
    "aten.add.Tensor": [linear(IMAGE, "aten.add.Tensor", other=numbers(3, 1), alpha=2.0),
                        linear(IMAGE, "aten.add.Tensor", "other", self=numbers(2, 1, 1), alpha=-2.0)],
    "aten.sub.Tensor": [linear(IMAGE, "aten.sub.Tensor", other=numbers(3, 1), alpha=2.0),
                        linear(IMAGE, "aten.sub.Tensor", "other", self=numbers(2, 1, 1), alpha=2.0)],
    "aten.rsub.Scalar": [linear(IMAGE, "aten.rsub.Scalar", other=0.7, alpha=2.0)],
    "aten.neg.default": [linear(IMAGE, "aten.neg.default")],
    "aten.sum.dim_IntList": [linear(IMAGE, "aten.sum.dim_IntList", dim=(1, 3)),
                             linear(IMAGE, "aten.sum.dim_IntList", dim=(2,), keepdim=True)],
    "aten.mean.dim": [linear(IMAGE, "aten.mean.dim", dim=(1, 3)),
                      linear(IMAGE, "aten.mean.dim", dim=(2,), keepdim=True)],
    "aten.avg_pool2d.default": [
        linear(IMAGE, "aten.avg_pool2d.default", kernel_size=(2, 3)),
        linear((1, 3, 3), "aten.avg_pool2d.default", kernel_size=(2, 2), stride=(1, 1), padding=(1, 0)),
    ],
    "aten.adaptive_avg_pool2d.default": [linear(IMAGE, "aten.adaptive_avg_pool2d.default", output_size=(3, 2)),
                                         linear(IMAGE, "aten.adaptive_avg_pool2d.default", output_size=(2, 3))],
    "aten.reshape.default": [linear(IMAGE, "aten.reshape.default", shape=(Batch(1), 6, 4))],
    "aten.expand.default": [linear((2, 1, 2), "aten.expand.default", size=(Batch(1), 2, 3, 2))],
    "aten.permute.default": [linear(IMAGE, "aten.permute.default", dims=(0, 3, 1, 2))],
    "aten.transpose.int": [linear(IMAGE, "aten.transpose.int", dim0=1, dim1=3)],
    "aten.unsqueeze.default": [linear(IMAGE, "aten.unsqueeze.default", dim=2)],
    "aten.squeeze.dim": [linear((1, 3), "aten.squeeze.dim", dim=1)],
    "aten.squeeze.dims": [linear((1, 3, 1), "aten.squeeze.dims", dim=(1, 3))],
    "aten.slice.Tensor": [linear(IMAGE, "aten.slice.Tensor", dim=3, start=1, end=3),
                          linear(IMAGE, "aten.slice.Tensor", dim=3, step=2),
                          linear(IMAGE, "aten.slice.Tensor", dim=2, start=1)],
    "aten.select.int": [linear(IMAGE, "aten.select.int", dim=2, index=1)],
    "aten.index_select.default": [linear(IMAGE, "aten.index_select.default", dim=2, index=torch.tensor([2, 0, 2]))],
    "aten.flip.default": [linear(IMAGE, "aten.flip.default", dims=(2, 3))],
    "aten.roll.default": [linear(IMAGE, "aten.roll.default", shifts=(1,), dims=(3,))],
    "aten.pad.default": [
        linear(IMAGE, "aten.pad.default", pad=(1, 2), value=3.0),
        linear(IMAGE, "aten.pad.default", pad=(2, 0, 1, 1), mode="reflect"),
    ],
    "aten.constant_pad_nd.default": [linear(IMAGE, "aten.constant_pad_nd.default", pad=(1, -1), value=-3.0)],
    "aten.im2col.default": [linear(IMAGE, "aten.im2col.default", kernel_size=(2, 2), dilation=(1, 2), padding=(1, 0),
                                   stride=(1, 1))],
    "aten.upsample_nearest2d.vec": [linear(IMAGE, "aten.upsample_nearest2d.vec", "input", output_size=None,
                                           scale_factors=(2.0, 1.0))],
    "aten.pixel_shuffle.default": [linear((4, 2, 2), "aten.pixel_shuffle.default", upscale_factor=2)],
    "aten.pixel_unshuffle.default": [linear((1, 2, 4), "aten.pixel_unshuffle.default", downscale_factor=2)],
}  # fmt: skip

NORMALIZED = {"weight": numbers(2) * 3, "bias": numbers(2), "training": False, "running_mean": numbers(2),
              "running_var": VARIANCE, "momentum": 0.0, "eps": 0.5, "cudnn_enabled": True}  # fmt: skip

FUSED: dict[str, list[Case]] = {
    "then": [
        Case(IMAGE, (("aten.conv2d.default", {"input": X, "weight": numbers(2, 2, 2, 2), "bias": numbers(2)}),
                     ("aten.batch_norm.default", {"input": Ref(1), **NORMALIZED}))),
        Case(IMAGE, (("aten.mul.Tensor", {"self": X, "other": numbers(2, 1, 1)}),
                     ("aten.conv2d.default", {"input": Ref(1), "weight": numbers(2, 2, 2, 2), "padding": (1, 1)}))),
    ],
    "plus": [
        Case(IMAGE, (("aten.conv2d.default", {"input": X, "weight": numbers(2, 2, 3, 3), "padding": (1, 1)}),
                     ("aten.add.Tensor", {"self": X, "other": Ref(1), "alpha": 2.0}))),
        Case(IMAGE, (("aten.conv2d.default", {"input": X, "weight": numbers(2, 2, 3, 3), "padding": (1, 1)}),
                     ("aten.conv2d.default", {"input": X, "weight": numbers(2, 2, 1, 1), "bias": numbers(2)}),
                     ("aten.sub.Tensor", {"self": Ref(1), "other": Ref(2)}))),
    ],
    "clipped": [
        Case((1, 2, 2), (("aten.conv2d.default", {"input": X, "weight": numbers(2, 1, 2, 2) * 4, "bias": numbers(2)}),
                         ("aten.relu.default", {"self": Ref(1)}))),
        Case((1, 2, 2), (("aten.conv2d.default", {"input": X, "weight": numbers(2, 1, 2, 2) * 4, "bias": numbers(2)}),
                         ("aten.clamp.default", {"self": Ref(1), "min": 0.5, "max": 1.0}))),
    ],
}  # fmt: skip
"""Several affine operations as one, and what is clipped behind them."""
