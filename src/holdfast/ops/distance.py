"""The l_p distance of inputs to weights as one differentiable operation, p from 1 to inf.

Zhang, Cai, Lu, He & Wang, "Towards Certifying L-infinity Robustness using Neural Networks with L-inf-dist Neurons",
ICML 2021, https://arxiv.org/abs/2102.05363, section 3; p finite is the relaxation for training of section 5.2. Forward
keeps x, w and y for the backward pass, which computes x - w again: memory grows with batch * (inputs + outputs), never
with their product. At p = inf the gradient goes to the first of the farthest coordinates alone, which is a subgradient
also where several are tied.
"""

import importlib.util
import math
import warnings
from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from . import eager

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
    if not p >= 1:
        raise ValueError(f"expected an exponent p >= 1, got {p}")
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1] or x.shape[1] == 0:
        found = f"{tuple(x.shape)} and {tuple(w.shape)}"
        raise ValueError(f"expected inputs (batch, inputs) and weights (outputs, inputs), got {found}")
    if x.dtype != w.dtype or not x.is_floating_point():
        raise TypeError(f"expected floating-point inputs and weights of one type, got {x.dtype} and {w.dtype}")
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
