"""The distance kernels for CPUs, seen from PyTorch: padding, panels, threads. For float32 and float64, p even or inf.

Inputs are padded and cut into panels whose last axis has LANES numbers, so that every inner loop has a constant length
and no remainder, and a panel stays in the second-level cache. Padding adds |0 - 0| = 0 to a distance. The panels are
shared out over `torch.get_num_threads()` threads; a kernel runs without the interpreter lock.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import numba_kernels as kernels
from .numba_kernels import LANES, ROWS

NEGLIGIBLE = 2.0**-60
"""Terms smaller than this beside the largest one are dropped: they would only cost denormal arithmetic."""
SMALLEST = 2.0**-16
"""Distances below this fraction of the largest input have no gradient at p = 8: float32 cannot hold their powers."""


def supports(x: Tensor, p: float) -> bool:
    """Whether these kernels compute this case."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and (p == math.inf or p % 2 == 0)


def forward(x: Tensor, w: Tensor, p: float) -> Tensor:
    """See `eager.forward`."""
    rows, panels, largest = _pad(x, ROWS, 1), _output_panels(w), _largest(x, w)
    y = x.new_zeros(len(panels), len(rows), LANES)
    if p == 8:
        scale = _scale(largest)
        _share(kernels.eighth_powers, [panels.div_(scale), y], rows / scale)
        y = y.sqrt_().sqrt_().sqrt_().mul_(scale)
    else:
        _share(kernels.largest, [panels, y], rows, rows.new_ones(1))
    if 8 != p < math.inf:
        total = torch.zeros_like(y)
        _share(kernels.powers(int(p)), [panels, _inverse(y), total], rows, NEGLIGIBLE ** (1 / p))
        y *= total.pow_(1 / p)
    y = _join(y, len(x), len(w))
    return y if largest < math.inf else y + _nan_if_not_finite(x) + _nan_if_not_finite(w).T


def backward(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """See `eager.backward`."""
    scale = _scale(_largest(x, w))
    x_panels, w_panels, y = _input_panels(x / scale), _input_panels(w / scale), y / scale
    grad_x, grad_w = torch.zeros_like(x_panels), torch.zeros_like(w_panels)
    results = [x_panels, w_panels, grad_x, grad_w]
    if p == 8:
        inverse = torch.where(y > SMALLEST, 1 / y, 0)
        square = inverse * inverse
        factor = grad * inverse * square * (square * square)
        _share(kernels.eighth_slopes, results, _pad(factor, ROWS, ROWS).T.contiguous())
    else:
        factors = [_pad(factor, ROWS, ROWS).T.contiguous() for factor in (grad, _inverse(y))]
        _share(kernels.slopes(int(p) - 1), results, *factors, NEGLIGIBLE ** (1 / (p - 1)))
    return _join(grad_x, *x.shape), _join(grad_w, *w.shape)


def farthest(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """See `eager.farthest`; y is the distance at p = inf."""
    rows, panels = _pad(x, ROWS, 1), _output_panels(w)
    found = torch.zeros(len(panels), len(rows), LANES, dtype=torch.int32)
    distance = _pad(y, ROWS, LANES).view(len(rows), -1, LANES).transpose(0, 1).contiguous()
    _share(kernels.first_equal, [panels, distance, found], rows)
    return _join(found, len(x), len(w)).long()


def _share(kernel: Callable[..., None], panels: list[Tensor], *rest: Tensor | float) -> None:
    """Call a kernel on the panels, a part of them on each thread."""
    threads = min(torch.get_num_threads(), len(panels[0]))
    parts = zip(*(np.array_split(panel.numpy(), threads) for panel in panels), strict=True)
    common = [value.numpy() if isinstance(value, Tensor) else value for value in rest]
    if threads == 1:
        kernel(*next(parts), *common)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(kernel, *part, *common) for part in parts]:
            done.result()


def _pad(value: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros at the end of both axes, up to multiples of `rows` and `columns`; no copy where nothing is missing."""
    missing = (0, -value.shape[1] % columns, 0, -value.shape[0] % rows)
    return (F.pad(value.detach(), missing) if any(missing) else value.detach()).contiguous()


def _output_panels(w: Tensor) -> Tensor:
    """(outputs, inputs) -> (panel, inputs, LANES), a copy: neighbouring outputs side by side."""
    padded = _pad(w, LANES, 1)
    return padded.view(-1, LANES, padded.shape[1]).transpose(1, 2).contiguous()


def _input_panels(value: Tensor) -> Tensor:
    """(rows, inputs) -> (panel, rows, LANES): neighbouring inputs side by side."""
    padded = _pad(value, ROWS, LANES)
    return padded.view(len(padded), -1, LANES).transpose(0, 1).contiguous()


def _join(panels: Tensor, rows: int, columns: int) -> Tensor:
    """(panel, rows, LANES) -> (rows, columns), without the padding."""
    return panels.transpose(0, 1).flatten(1)[:rows, :columns].contiguous()


def _largest(x: Tensor, w: Tensor) -> float:
    """The largest absolute value; NaN if there is one."""
    return torch.stack([*x.aminmax(), *w.aminmax()]).abs().max().item()


def _scale(largest: float) -> float:
    """The power of two next to the largest number: dividing by it is exact and keeps eighth powers in range."""
    return 2.0 ** math.frexp(largest)[1] if 0 < largest < math.inf else 1.0


def _inverse(y: Tensor) -> Tensor:
    return torch.where(y > 0, 1 / y, 0)


def _nan_if_not_finite(value: Tensor) -> Tensor:
    """(rows, 1): 0, but NaN in a row that holds NaN or inf, for which the compiled kernels promise nothing."""
    return (value * 0).sum(dim=1, keepdim=True)
