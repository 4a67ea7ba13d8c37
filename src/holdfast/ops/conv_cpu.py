"""Two operations of convolutional networks for CPUs, where PyTorch's own take most of the time of a small network.

`max_pool` of windows of 2x2, the same bits as PyTorch's; `conv2d`, whose gradient by the image is a product of matrices
and a few sums, in float32 also where the network computes in bfloat16. Both serve images in channels-last layout on a
CPU; what they do not serve is PyTorch's.
"""

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BITS = {
    torch.float32: (torch.int32, np.int32(0x7FFFFFFF), np.int32(0x7F800000)),
    torch.bfloat16: (torch.int16, np.int16(0x7FFF), np.int16(0x7F80)),
}
"""By type: the integers of the same size, their largest, and the infinity among them."""

THREADS = 2
"""Up to as many, the kernels, which run on one, are faster than PyTorch's."""

CHUNK = 64
"""Images of which the gradient is taken at a time, so that the planes of products stay in a cache."""

_compiled = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def _order(bits, largest, infinity):
    """An integer that orders as the number with these bits: both zeros alike, and no number above what is none."""
    order = bits ^ largest if bits < 0 else bits
    return largest if bits & largest > infinity else order + (order == -1)


@_compiled
def _pool(x, y, places, largest, infinity):
    """The first of the largest in each window of 2x2, and its place there."""
    images, height, width, channels = y.shape
    for n in range(images):
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    a, b = x[n, 2 * i, 2 * j, c], x[n, 2 * i, 2 * j + 1, c]
                    d, e = x[n, 2 * i + 1, 2 * j, c], x[n, 2 * i + 1, 2 * j + 1, c]
                    order_a, order_b = _order(a, largest, infinity), _order(b, largest, infinity)
                    order_d, order_e = _order(d, largest, infinity), _order(e, largest, infinity)
                    upper, lower = order_b > order_a, order_e > order_d
                    below = max(order_d, order_e) > max(order_a, order_b)
                    y[n, i, j, c] = (e if lower else d) if below else (b if upper else a)
                    places[n, i, j, c] = 2 + lower if below else 0 + upper


@_compiled
def _unpool(gradient, places, x):
    """The gradient of each window at the place of its largest, and 0 beside it."""
    images, height, width, channels = gradient.shape
    for n in range(images):
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    place, value = places[n, i, j, c], gradient[n, i, j, c]
                    x[n, 2 * i, 2 * j, c] = value if place == 0 else 0
                    x[n, 2 * i, 2 * j + 1, c] = value if place == 1 else 0
                    x[n, 2 * i + 1, 2 * j, c] = value if place == 2 else 0
                    x[n, 2 * i + 1, 2 * j + 1, c] = value if place == 3 else 0


def _bits(x: Tensor) -> np.ndarray:
    """Integers for the numbers; a copy only where they do not lie in order."""
    return x.detach().contiguous().view(BITS[x.dtype][0]).numpy()


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        images, channels, height, width = ctx.size = x.shape
        y = torch.empty(images, height // 2, width // 2, channels, dtype=x.dtype)
        places = torch.empty(y.shape, dtype=torch.int8)
        _, *limits = BITS[x.dtype]
        _pool(_bits(x.permute(0, 2, 3, 1)), _bits(y), places.numpy(), *limits)
        ctx.save_for_backward(places)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,), (gradient,) = ctx.saved_tensors, gradients
        images, channels, height, width = ctx.size
        new = torch.zeros if height % 2 or width % 2 else torch.empty
        x = new(images, height, width, channels, dtype=gradient.dtype)
        _unpool(_bits(gradient.permute(0, 2, 3, 1)), places.numpy(), _bits(x))
        return x.permute(0, 3, 1, 2)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        _, *wanted = ctx.needs_input_grad
        by_weights = [None, None]
        if any(wanted):
            like = x.to(gradient.dtype), weight.to(gradient.dtype), [len(weight)]
            conv = [1, 1], [0, 0], [1, 1], False, [0, 0], 1
            _, *found = torch.ops.aten.convolution_backward(gradient, *like, *conv, [False, *wanted])
            by_weights = [None if value is None else value.to(weight.dtype) for value in found]
        return _by_image(gradient, weight).to(x.dtype), *by_weights


def _by_image(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient by images of one channel: for each tap of the kernel a plane of products, moved to its place."""
    (images, channels, height, width), (*_, rows, columns) = gradient.shape, weight.shape
    taps = weight.detach().float().reshape(channels, -1).t()
    total = gradient.new_zeros(images, height + rows - 1, width + columns - 1, dtype=torch.float32)
    for part, into in zip(gradient.permute(0, 2, 3, 1).split(CHUNK), total.split(CHUNK), strict=True):
        planes = (taps @ part.reshape(-1, channels).float().t()).view(-1, len(part), height, width)
        for tap, plane in enumerate(planes):
            i, j = divmod(tap, columns)
            into[:, i : i + height, j : j + width] += plane
    return total[:, None]


def max_pool(layer: nn.MaxPool2d, x: Tensor) -> Tensor:
    """What the layer computes.

    Args:
        x: (N, C, H, W).
    """
    own = _is(layer.kernel_size, 2) and _is(layer.stride, 2) and _is(layer.padding, 0) and _is(layer.dilation, 1)
    own = own and not (layer.ceil_mode or layer.return_indices) and torch.get_num_threads() <= THREADS
    if own and _serves(x) and min(x.shape[2:]) > 1:
        return cast(Tensor, _MaxPool.apply(x))
    return cast(Tensor, nn.MaxPool2d.forward(layer, x))


def conv2d(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What the layer computes; its own gradient only for images of one channel, where PyTorch's is slow.

    Args:
        x: (N, C, H, W).
    """
    simple = layer.in_channels == 1 and layer.padding_mode == "zeros" and _is(layer.padding, 0)
    simple = simple and _is(layer.stride, 1) and _is(layer.dilation, 1) and layer.weight.dtype == torch.float32
    if simple and _serves(x) and x.requires_grad and torch.is_grad_enabled():
        return cast(Tensor, _Conv.apply(x, layer.weight, layer.bias))
    return nn.Conv2d.forward(layer, x)


def _serves(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype in BITS and x.ndim == 4 and len(x) > 0
    return plain and x.is_contiguous(memory_format=torch.channels_last) and not torch.compiler.is_compiling()


def _is(setting: int | str | tuple[int, ...], value: int) -> bool:
    """Whether a setting of a layer is that number in both directions."""
    return setting in (value, (value, value))
