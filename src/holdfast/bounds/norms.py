"""Proven upper bounds on the l2 operator norms of convolutions and matrices, in float64.

A circular convolution is block diagonal in Fourier space (Sedghi, Gupta & Long, "The Singular Values of Convolutional
Layers", ICLR 2019, https://arxiv.org/abs/1805.10408). A zero-padded one is a restriction of the circular one on a grid
that is larger by the padding, so that nothing wraps around onto pixels; on the grid of the image itself the circular
norm can be too small. A strided one is a stride-1 convolution over the phases of its input (polyphase). An operator
that is small enough is unrolled instead, which is exact.

Power iteration has no place here: it approaches a norm from below.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.arguments import integer, sizes
from ..runs.store import cache, write_whole
from .verified import UNIT, largest_norm, norm_of_grams, up

UNROLLED_WORK = 2**36
"""Multiplications that may be spent on the Gram matrices of one operator for a tighter bound: about ten seconds."""

WIDE = 256
"""Channels from which on one Fourier grid is enough: others took four times as long and gave 1e-5 less at most."""

Pair = int | Sequence[int]


def matrix_norm(weight: Tensor) -> float:
    """A proven upper bound on the spectral norm of a matrix (out, in).

    Raises:
        ValueError: the weight is not a matrix, or holds inf or NaN.
    """
    _check_real(weight)
    if weight.dim() != 2:
        raise ValueError(f"expected a matrix (out, in), got a tensor of shape {tuple(weight.shape)}")
    matrix, scale = _scaled(weight)
    return up(scale * largest_norm(matrix[None]))


def conv2d_norm(
    weight: Tensor,
    input_size: tuple[int, int],
    stride: Pair = 1,
    padding: Pair | str = 0,
    padding_mode: str = "zeros",
    groups: int = 1,
    dilation: Pair = 1,
) -> float:
    """A proven upper bound on the l2 operator norm of a `torch.nn.Conv2d` on images of one size.

    Args:
        weight: the kernel (out, in / groups, height, width).
        input_size: (height, width) of the images that enter.
        stride, padding, padding_mode, groups, dilation: as in `torch.nn.Conv2d`; padding modes "zeros" and "circular".

    Raises:
        ValueError: the weight holds inf or NaN, the shapes do not fit, or there is no proof for the padding.
    """
    _check_real(weight)
    if weight.dim() != 4 or weight.shape[0] % integer("groups", groups, 1):
        raise ValueError(f"expected a kernel (out, in, height, width) for {groups} groups, got {tuple(weight.shape)}")
    if padding_mode not in ("zeros", "circular"):
        raise ValueError(f"no proof for padding mode {padding_mode!r}; use 'zeros' or 'circular'")
    strides, dilations = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
    sides = sizes("input_size", input_size, 2)
    paddings = _padding_in_pixels(padding, weight.shape[2:], dilations)
    rows, columns = (
        Axis(sides[i], weight.shape[2 + i], strides[i], paddings[i], dilations[i], padding_mode) for i in (0, 1)
    )
    return max(_group_norm(kernel, rows, columns) for kernel in weight.chunk(groups))


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution, seen as a stride-1 convolution over the `stride` phases of its input."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int = 1
    mode: str = "zeros"

    def __post_init__(self) -> None:
        if self.outputs < 1:
            raise ValueError(f"a kernel of {self.kernel} with dilation {self.dilation} does not fit {self.size} pixels")
        if self.circular and (self.size % self.stride or 2 * self.padding != self.dilation * (self.kernel - 1)):
            raise ValueError(
                "a circular convolution needs a size divisible by its stride and padding = dilation * (kernel - 1) / 2,"
                f" got size {self.size}, stride {self.stride}, padding {self.padding}"
            )

    @property
    def circular(self) -> bool:
        return self.mode == "circular" and self.padding > 0

    @property
    def outputs(self) -> int:
        return (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def taps(self) -> list[tuple[int, int]]:
        """(shift, phase) of every weight: it multiplies the input at stride * (output + shift) + phase."""
        return [divmod(self.dilation * a - self.padding, self.stride) for a in range(self.kernel)]

    @property
    def block_diagonal(self) -> bool:
        """No pixel belongs to two outputs, and there is no padding."""
        return all(shift == 0 for shift, _ in self.taps)

    def windows(self) -> Tensor:
        """(1, output, input, tap): which input each tap of each output reads."""
        windows = torch.zeros(1, self.outputs, self.size, self.kernel, dtype=torch.float64)
        for output in range(self.outputs):
            for tap, (shift, phase) in enumerate(self.taps):
                position = self.stride * (output + shift) + phase
                if self.circular or 0 <= position < self.size:
                    windows[0, output, position % self.size, tap] = 1
        return windows

    def waves(self, extra: int = 0) -> Tensor:
        """(frequency, 1, phase, tap): Fourier transform of every tap on a circular grid on which this axis embeds.

        A grid that is `extra` points longer than the smallest one is as valid.
        """
        points = self._smallest_grid + (0 if self.circular or self.block_diagonal else extra)
        waves = torch.zeros(points, 1, self.stride, self.kernel, dtype=torch.complex128)
        for tap, (shift, phase) in enumerate(self.taps):
            angles = (torch.arange(points) * shift % points).double() * (2 * math.pi / points)
            waves[:, 0, phase, tap] = torch.complex(angles.cos(), angles.sin())
        return waves

    @property
    def _smallest_grid(self) -> int:
        inputs = -(-self.size // self.stride)
        if self.circular or self.block_diagonal:
            return inputs if self.circular else 1
        shifts = [shift for shift, _ in self.taps]
        return max(inputs + max(0, -min(shifts)), self.outputs + max(0, max(shifts)))


def operator_blocks(kernel: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """The operator in a basis given per axis: blocks (block, out, in), one of each conjugate pair."""
    if horizontal.is_complex():
        horizontal = horizontal[: len(horizontal) // 2 + 1]
    dtype = torch.promote_types(vertical.dtype, horizontal.dtype)
    vertical, horizontal, kernel = (part.to(kernel.device, dtype) for part in (vertical, horizontal, kernel))
    blocks = torch.einsum("uyxa,vwzb,ocab->uvoywcxz", vertical, horizontal, kernel)
    return blocks.flatten(5, 7).flatten(2, 4).flatten(0, 1)


@dataclass(frozen=True)
class TapProducts:
    """F F^H for every block F of the operator in Fourier space, from the products of pairs of taps.

    F(w) = sum_a W_a exp(i w s_a), so that F F^H is a trigonometric polynomial, whose coefficients are the sums of
    W_a W_b^T over all taps that are s_a - s_b = d apart: they serve all frequencies of all grids.
    """

    sums: dict[tuple[int, int], Tensor]
    """By the distance d, of which one of d and -d is enough."""
    error: float
    """How far, in norm, rounding may take a matrix from the truth."""
    terms: int
    """Products in an entry."""

    @classmethod
    def of(cls, kernel: Tensor, rows: Axis, columns: Axis) -> "TapProducts":
        """Of a kernel (out, in, height, width); where it has no stride, the smaller side of it is taken."""
        if kernel.shape[0] > kernel.shape[1] * rows.stride * columns.stride:
            kernel = kernel.transpose(0, 1)
        sums: dict[tuple[int, int], Tensor] = {}
        taps = [(a, b, *row, *column) for a, row in enumerate(rows.taps) for b, column in enumerate(columns.taps)]
        for a, b, row, row_phase, column, column_phase in taps:
            for c, d, other, other_phase, another, another_phase in taps:
                lag = row - other, column - another
                if (row_phase, column_phase) == (other_phase, another_phase) and lag >= (0, 0):
                    product = kernel[:, :, a, b] @ kernel[:, :, c, d].T
                    sums[lag] = sums[lag] + product if lag in sums else product
        size = float(kernel.abs().sum((2, 3)).square().sum()) * (1 + 1e-6)  # at least the norm of |W|_i . |W|_j
        terms = kernel.shape[1] * len(taps)
        return cls(sums, 8 * UNIT * (kernel.shape[1] + len(taps) ** 2 + len(sums) + 256) * size, terms)

    def grams(self, points: tuple[int, int]) -> Tensor:
        """(block, out, out) on circular grids of so many points; of two that are conjugate, one at least."""
        angles = self._angles(points)
        real, imaginary = (
            (waves @ torch.stack([part(lag, summed) for lag, summed in self.sums.items()]).flatten(1))
            for waves, part in ((angles.cos(), _symmetric), (angles.sin(), _antisymmetric))
        )
        return torch.complex(real, imaginary).unflatten(1, self.sums[0, 0].shape)

    def _angles(self, points: tuple[int, int]) -> Tensor:
        """(block, lag): frequency times lag."""
        lags = torch.tensor(list(self.sums))
        vertical, horizontal = (
            (torch.arange(count)[:, None] * lags[:, axis] % points[axis]).double() * (2 * math.pi / points[axis])
            for axis, count in ((0, points[0]), (1, points[1] // 2 + 1))
        )
        return (vertical[:, None] + horizontal).flatten(0, 1).to(self.sums[0, 0].device)


def _symmetric(lag: tuple[int, int], summed: Tensor) -> Tensor:
    return summed if lag == (0, 0) else summed + summed.T


def _antisymmetric(lag: tuple[int, int], summed: Tensor) -> Tensor:
    return torch.zeros_like(summed) if lag == (0, 0) else summed - summed.T


def _group_norm(weight: Tensor, rows: Axis, columns: Axis) -> float:
    kernel, scale = _scaled(weight)
    bases = list(_bases(rows, columns, *kernel.shape[:2]))
    fourier = all(basis.is_complex() for both in bases for basis in both)
    products = TapProducts.of(kernel, rows, columns) if fourier and _many_channels(kernel, rows, columns) else None
    norm = math.inf
    for vertical, horizontal in bases:
        if products:
            grams = products.grams((len(vertical), len(horizontal)))
            found = norm_of_grams(grams, products.terms, products.error, below=norm)
        else:
            found = largest_norm(operator_blocks(kernel, vertical, horizontal), below=norm)
        norm = min(norm, found)
    return up(scale * norm * (1 + _transform_slack(kernel)))


def _many_channels(kernel: Tensor, rows: Axis, columns: Axis) -> bool:
    """Whether sums over pairs of taps are cheaper than a product for every frequency."""
    outputs, inputs, *taps = kernel.shape
    phases = rows.stride * columns.stride
    return min(outputs, inputs * phases) >= 32 and math.prod(taps) <= 25 and (phases == 1 or outputs <= inputs * phases)


def _bases(rows: Axis, columns: Axis, outputs: int, inputs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Bases of the two axes, each valid: unrolled, half unrolled or Fourier, as the size of the operator allows."""
    if all(axis.circular or axis.block_diagonal for axis in (rows, columns)):
        yield rows.waves(), columns.waves()
        return
    unrolled = outputs * rows.outputs * columns.outputs, inputs * rows.size * columns.size
    half_unrolled = outputs * rows.outputs, inputs * rows.size * columns.stride
    if math.prod(unrolled) * min(unrolled) <= UNROLLED_WORK:
        yield rows.windows(), columns.windows()
    elif columns.outputs * math.prod(half_unrolled) * min(half_unrolled) <= UNROLLED_WORK:
        yield from ((rows.windows(), columns.waves(extra)) for extra in range(4))
    else:
        grids = 4 if min(outputs, inputs) < WIDE else 1
        yield from ((rows.waves(extra), columns.waves(extra)) for extra in range(grids))


def _transform_slack(kernel: Tensor) -> float:
    """Relative rounding error of the blocks: each entry sums the taps of one pair of channels times computed waves."""
    taps = kernel.shape[2] * kernel.shape[3]
    return UNIT * taps * (taps + 8) * math.sqrt(max(kernel.shape[:2]))


def _check_real(weight: object) -> None:
    """Refuse what has no norm that is proven here; of complex numbers `double` keeps the real part alone."""
    if not isinstance(weight, Tensor):
        raise ValueError(f"expected a torch.Tensor, got {type(weight).__name__}")
    if weight.is_complex() or weight.layout != torch.strided or not weight.numel():
        found = f"{tuple(weight.shape)} of {weight.dtype} ({weight.layout})"
        raise ValueError(f"expected dense real numbers, one or more, got {found}")


def _scaled(weight: Tensor) -> tuple[Tensor, float]:
    """The weight in float64 divided by a power of two, which is exact, so that no square under- or overflows."""
    weight = weight.detach().double()
    if not torch.isfinite(weight).all():
        raise ValueError("the weight holds inf or NaN, so it has no norm; was it trained or loaded in a small dtype?")
    largest = float(weight.abs().max()) if weight.numel() else 0.0
    scale = 2.0 ** math.frexp(largest)[1] if largest else 0.0
    return (weight / scale if scale else weight), scale


def _padding_in_pixels(padding: Pair | str, kernel: Sequence[int], dilation: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(padding, str):
        return _pair("padding", padding, 0)
    overlap = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    if padding not in ("same", "valid") or any(pixels % 2 for pixels in overlap):
        raise ValueError(f"no proof for padding {padding!r} of a {kernel[0]}x{kernel[1]} kernel; give it as numbers")
    return overlap[0] // 2, overlap[1] // 2


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    both = value if isinstance(value, Sequence) else (value, value)
    if len(both) != 2:
        raise ValueError(f"expected {name} to be one number or two, got {value!r:.80}")
    return integer(name, both[0], least), integer(name, both[1], least)


def remembered(norm: Callable[..., float], weight: Tensor, *geometry: Any) -> float:
    """norm(weight, *geometry), computed once for each content of the weight and version of the code.

    What took longer than `LONG` is kept on disk, see `holdfast.runs.store.cache`, and trusted as the code beside it is.
    """
    content = weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    key = (norm.__name__, hashlib.sha256(content).hexdigest(), weight.dtype, tuple(weight.shape), *geometry)
    if key not in _KNOWN:
        _KNOWN[key] = _kept(key) or _timed(key, lambda: norm(weight, *geometry))
    return _KNOWN[key]


LONG = 0.5
"""Seconds."""


def _timed(key: tuple[Any, ...], compute: Callable[[], float]) -> float:
    started = time.perf_counter()
    found = compute()
    if time.perf_counter() - started > LONG:
        with suppress(OSError):  # a home that cannot be written to: slower, and nothing else
            _file(key).parent.mkdir(parents=True, exist_ok=True)
            write_whole(_file(key), json.dumps({"norm": found.hex()}).encode())
    return found


def _kept(key: tuple[Any, ...]) -> float | None:
    try:
        found = float.fromhex(json.loads(_file(key).read_text())["norm"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if 0 < found < math.inf else None


def _file(key: tuple[Any, ...]) -> Path:
    """Another version of the code that proves norms has other files."""
    return cache() / "norms" / hashlib.sha256(f"{_code()} {key}".encode()).hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    here = Path(__file__)
    return hashlib.sha256(b"".join(path.read_bytes() for path in (here, here.with_name("verified.py")))).hexdigest()


_KNOWN: dict[tuple[Any, ...], float] = {}
