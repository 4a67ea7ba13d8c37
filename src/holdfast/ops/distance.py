"""Distances of inputs to weights as differentiable operations: in l_p, p from 1 to inf, and of sorted coordinates.

l_p: Zhang, Cai, Lu, He & Wang, "Towards Certifying L-infinity Robustness using Neural Networks with L-inf-dist
Neurons", ICML 2021, https://arxiv.org/abs/2102.05363, section 3; p finite is the relaxation for training of section
5.2. Forward keeps x, w and y for the backward pass, which computes x - w again: memory grows with
batch * (inputs + outputs), never with their product. At p = inf the gradient goes to the first of the farthest
coordinates alone, which is a subgradient also where several are tied.

Sorted coordinates are SortNet's neuron: Zhang, Jiang, He & Wang, "Rethinking Lipschitz Neural Networks and Certified
Robustness: A Boolean Function Perspective", NeurIPS 2022, https://arxiv.org/abs/2210.01787, section 4, with the weights
of their code. The absolute differences of an input and a neuron's weights, the largest first, are summed with geometric
weights. These fall and sum up to 1 at most, so that the sum is a norm, no larger than that of l-inf: the neuron is
1-Lipschitz in l-inf.
"""

import importlib.util
import math
import warnings
from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from . import eager
from .eager import slices

Backend = Literal["auto", "eager", "numba", "triton"]


def dist(x: Tensor, w: Tensor, p: float = math.inf, backend: Backend = "auto") -> Tensor:
    """The distances |x_b - w_o|_p.

    Args:
        x: inputs (batch, inputs), floating point.
        w: weights (outputs, inputs) of the same type, on the same device.
        p: from 1 to inf. Even integers are fast on a CPU, all integers up to 1024 on a GPU.
        backend: the kernels: numba (CPU), triton (GPU), eager (everywhere), or auto, the fastest that fits.

    Returns:
        (batch, outputs).

    Raises:
        ValueError: p < 1, shapes that do not match, or no inputs.
        TypeError: integer tensors, or two types.
    """
    _check(x, w, p)
    return _dist(x, w, float(p), backend)


@torch.library.custom_op("holdfast::linf_dist", mutates_args=())
def _dist(x: Tensor, w: Tensor, p: float, backend: str) -> Tensor:
    if x.numel() == 0 or w.numel() == 0:
        return x.new_empty(len(x), len(w))
    return _kernels(backend, x, p).forward(x, w, p)


@torch.library.custom_op("holdfast::linf_dist_backward", mutates_args=())
def _dist_backward(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float, backend: str) -> tuple[Tensor, Tensor]:
    if x.numel() == 0 or w.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(w)
    kernels = _kernels(backend, x, p)
    if p < math.inf:
        return kernels.backward(grad, x, w, y, p)
    first = kernels.farthest(x, w, y)
    towards = grad * (x.gather(1, first) - w.gather(1, first.T).T).sign()
    return (
        torch.zeros_like(x).scatter_add_(1, first, towards),
        torch.zeros_like(w).scatter_add_(1, first.T, -towards.T),
    )


@_dist.register_fake
def _(x: Tensor, w: Tensor, p: float, backend: str) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


@_dist_backward.register_fake
def _(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float, backend: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), w.new_empty(w.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float, str], output: Tensor) -> None:
    x, w, ctx.p, ctx.backend = inputs
    ctx.save_for_backward(x, w, output)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    return *_dist_backward(grad, *ctx.saved_tensors, ctx.p, ctx.backend), None, None


_dist.register_autograd(_differentiate, setup_context=_keep)


def dist_of_parts(
    x: Float[Tensor, "batch inputs"],
    w: Float[Tensor, "outputs inputs"],
    kept: Bool[Tensor, "groups inputs"],
    group: int,
    p: float = math.inf,
) -> Float[Tensor, "batch outputs"]:
    """`dist` over some of the coordinates, others for every `group` examples; 0 where there are none.

    The backward pass takes the parts of x and w again, one group after the other, so that none are kept for it: of
    5,120 neurons with as many inputs they are 105 MB for each group.

    Args:
        kept: the coordinates of each group of consecutive examples; the last group may be smaller.

    Raises:
        ValueError: p < 1, or shapes that do not match.
        TypeError: integer tensors, or two types.
    """
    _check(x, w, p)
    if kept.shape != (groups := -(-len(x) // group), x.shape[1]):
        raise ValueError(f"expected marks of shape {(groups, x.shape[1])}, got {tuple(kept.shape)}")
    return _dist_of_parts(x, w, kept, group, float(p))


def _parts(kept: Tensor, group: int) -> list[tuple[slice, Tensor]]:
    """The examples and the coordinates of each group that has some."""
    found = ((slice(i * group, (i + 1) * group), marks.nonzero()[:, 0]) for i, marks in enumerate(kept))
    return [(some, part) for some, part in found if len(part)]


@torch.library.custom_op("holdfast::linf_dist_of_parts", mutates_args=())
def _dist_of_parts(x: Tensor, w: Tensor, kept: Tensor, group: int, p: float) -> Tensor:
    y = x.new_zeros(len(x), len(w))
    for some, part in _parts(kept, group):
        y[some] = _dist(x[some].index_select(1, part), w.index_select(1, part), p, "auto")
    return y


@torch.library.custom_op("holdfast::linf_dist_of_parts_backward", mutates_args=())
def _dist_of_parts_backward(
    grad: Tensor, x: Tensor, w: Tensor, kept: Tensor, y: Tensor, group: int, p: float
) -> tuple[Tensor, Tensor]:
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
    for some, part in reversed(_parts(kept, group)):  # in this order autograd would sum, and floats remember
        here = x[some].index_select(1, part), w.index_select(1, part)
        slopes = _dist_backward(grad[some], *here, y[some], p, "auto")
        grad_x[some].index_add_(1, part, slopes[0])
        grad_w.index_add_(1, part, slopes[1])
    return grad_x, grad_w


@_dist_of_parts.register_fake
def _(x: Tensor, w: Tensor, kept: Tensor, group: int, p: float) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


@_dist_of_parts_backward.register_fake
def _(grad: Tensor, x: Tensor, w: Tensor, kept: Tensor, y: Tensor, group: int, p: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), w.new_empty(w.shape)


def _keep_parts(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, float], output: Tensor) -> None:
    x, w, kept, ctx.group, ctx.p = inputs
    ctx.save_for_backward(x, w, kept, output)


def _differentiate_parts(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    return *_dist_of_parts_backward(grad, *ctx.saved_tensors, ctx.group, ctx.p), None, None, None


_dist_of_parts.register_autograd(_differentiate_parts, setup_context=_keep_parts)


def _check(x: Tensor, w: Tensor, p: float) -> None:
    if not p >= 1:
        raise ValueError(f"expected an exponent p >= 1, got {p}")
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1] or x.shape[1] == 0:
        found = f"{tuple(x.shape)} and {tuple(w.shape)}"
        raise ValueError(f"expected inputs (batch, inputs) and weights (outputs, inputs), got {found}")
    if x.dtype != w.dtype or not x.is_floating_point():
        raise TypeError(f"expected floating-point inputs and weights of one type, got {x.dtype} and {w.dtype}")


def _kernels(backend: str, x: Tensor, p: float) -> ModuleType:
    """The kernels for this device, type and p. A GPU without its kernels is a surprise and worth one warning."""
    if backend != "auto":
        return _load(backend)
    name = {"cpu": "numba", "cuda": "triton"}.get(x.device.type)
    if name is None or importlib.util.find_spec(name) is None:
        _warn_slow(x.device.type)
        return eager
    kernels = _load(name)
    return kernels if kernels.supports(x, p) else eager


@cache
def _load(backend: str) -> ModuleType:
    names = {"eager": "eager", "numba": "numba_cpu", "triton": "triton_gpu"}
    return importlib.import_module(f"{__package__}.{names[backend]}")


@cache
def _warn_slow(device: str) -> None:
    warnings.warn(f"no fast l-inf distance on {device}: using plain PyTorch, many times slower", stacklevel=2)


MOST = 64
"""Coordinates that may count."""


def sort_weights(keep: float, terms: int) -> list[float]:
    """The weights of the sorted coordinates: keep * (1 - keep)^k, for k < terms, over their sum.

    They are rounded so that their true sum is below 1.

    Raises:
        ValueError: keep is not in (0, 1], or terms not from 1 to `MOST`.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"expected a share of coordinates to keep in (0, 1], got {keep}")
    if not 1 <= terms <= MOST:
        raise ValueError(f"expected 1 to {MOST} sorted coordinates, got {terms}")
    found = [(1 - keep) ** k for k in range(terms)]
    total = math.fsum(found) * (1 + 2.0**-48)
    return [weight / total for weight in found]


def sort_dist(
    x: Float[Tensor, "batch inputs"], w: Float[Tensor, "outputs inputs"], keep: float, terms: int = 10
) -> Float[Tensor, "batch outputs"]:
    """sum_k c_k a_(k), where a_(1) >= a_(2) >= ... are the numbers |x_bj - w_oj| and c is `sort_weights`.

    With all terms it is the mean over random sets, to which each j belongs with probability `keep`, of the largest
    |x_bj - w_oj| in the set (0 for none), divided by the probability of a set that is not empty.

    Args:
        keep: 1 is the distance in l-inf.
        terms: how many of the largest differences count; their code takes 10.

    Raises:
        ValueError: keep or terms are out of range, or the shapes do not match.
        TypeError: integer tensors, or two types.
    """
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
        found = f"{tuple(x.shape)} and {tuple(w.shape)}"
        raise ValueError(f"expected inputs (batch, inputs) and weights (outputs, inputs), got {found}")
    if x.dtype != w.dtype or not x.is_floating_point():
        raise TypeError(f"expected floating-point inputs and weights of one type, got {x.dtype} and {w.dtype}")
    return _sort_dist(x, w, keep, terms)


def sort_dist_bounds(
    lower: Float[Tensor, "batch inputs"],
    upper: Float[Tensor, "batch inputs"],
    w: Float[Tensor, "outputs inputs"],
    keep: float,
    terms: int,
) -> tuple[Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"]]:
    """The least and the largest `sort_dist` over lower <= x <= upper, up to its rounding; both are reached.

    Each difference has its extremes apart from all others, and the sum rises with every one of them.
    """
    weights = sort_weights(keep, terms)
    return _sums(lower, upper, w, weights), _sums(upper, lower, w, weights)


@torch.library.custom_op("holdfast::sort_dist", mutates_args=())
def _sort_dist(x: Tensor, w: Tensor, keep: float, terms: int) -> Tensor:
    return _sums(x, x, w, sort_weights(keep, terms))


@torch.library.custom_op("holdfast::sort_dist_backward", mutates_args=())
def _sort_dist_backward(grad: Tensor, x: Tensor, w: Tensor, keep: float, terms: int) -> tuple[Tensor, Tensor]:
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
    weights = x.new_tensor(sort_weights(keep, terms))
    for some in slices(x, w):
        difference = x[:, None] - w[some]
        _, places = difference.abs().topk(min(terms, x.shape[1]), dim=-1)
        slope = difference.gather(-1, places).sign() * weights[: places.shape[-1]] * grad[:, some, None]
        whole = torch.zeros_like(difference).scatter_(-1, places, slope)
        grad_x += whole.sum(1)
        grad_w[some] = -whole.sum(0)
    return grad_x, grad_w


@_sort_dist.register_fake
def _(x: Tensor, w: Tensor, keep: float, terms: int) -> Tensor:
    sort_weights(keep, terms)  # a stored graph may hold any numbers
    return x.new_empty(x.shape[0], w.shape[0])


@_sort_dist_backward.register_fake
def _(grad: Tensor, x: Tensor, w: Tensor, keep: float, terms: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), w.new_empty(w.shape)


def _keep_sorted(ctx: Any, inputs: tuple[Tensor, Tensor, float, int], output: Tensor) -> None:
    x, w, ctx.keep, ctx.terms = inputs
    ctx.save_for_backward(x, w)


def _differentiate_sorted(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    return *_sort_dist_backward(grad, *ctx.saved_tensors, ctx.keep, ctx.terms), None, None


_sort_dist.register_autograd(_differentiate_sorted, setup_context=_keep_sorted)


def _sums(below: Tensor, above: Tensor, w: Tensor, weights: list[float]) -> Tensor:
    """The weighted sums of the largest of max(below - w, w - above, 0)."""
    if below.numel() == 0 or w.numel() == 0:
        return below.new_zeros(len(below), len(w))
    fast = below.device.type == "cpu" and below.dtype in (torch.float32, torch.float64)
    if fast and importlib.util.find_spec("numba") is not None:
        from .numba_cpu import sorted_sums

        return sorted_sums(below, above, w, weights)
    y = below.new_empty(len(below), len(w))
    factors = below.new_tensor(weights[: below.shape[1]])
    for some in slices(below, w):
        gaps = torch.maximum(below[:, None] - w[some], w[some] - above[:, None]).clamp_(min=0)
        y[:, some] = gaps.topk(len(factors), dim=-1).values @ factors
    return y
