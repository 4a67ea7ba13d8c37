"""Norm bounds of convolutions and matrices, against dense singular values."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from holdfast.bounds.norms import Axis, TapProducts, conv2d_norm, matrix_norm, operator_blocks
from holdfast.bounds.verified import largest_norm, norm_of_grams

ROW5, ROW3 = torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 3, 3)
ROW5[0, 0, 2] = torch.tensor([1, 0, 0.1, 0, -1])
ROW3[0, 0, 1] = torch.tensor([1, 0.3, -1])


def dense_norm(layer: nn.Conv2d, size: tuple[int, int]) -> float:
    """Push every unit image through the layer; dense singular values."""
    shape = layer.in_channels, *size
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        return float(torch.linalg.matrix_norm(layer.double()(units).flatten(1), 2))


def bound(layer: nn.Conv2d, size: tuple[int, int]) -> float:
    return conv2d_norm(
        layer.weight, size, layer.stride, layer.padding, layer.padding_mode, layer.groups, layer.dilation
    )


def fourier_bound(kernel: Tensor, size: int, padding: int, stride: int = 1, extra: int = 0) -> float:
    """The bound on one enlarged grid, as used for operators that are too large to unroll."""
    waves = Axis(size, kernel.shape[2], stride, padding).waves(extra)
    return largest_norm(operator_blocks(kernel.double(), waves, waves))


def norm_on_circular_grid(kernel: Tensor, points: int) -> float:
    """The kernel wrapped around a grid of that size: the norm that circular codes use with points = image size."""
    grid = torch.zeros(points, points)
    for a, b in itertools.product(range(kernel.shape[2]), range(kernel.shape[3])):
        grid[a % points, b % points] += kernel[0, 0, a, b]
    return float(torch.fft.fft2(grid).abs().max())


@st.composite
def convolutions(draw: st.DrawFn, padding_mode: str = "zeros") -> tuple[nn.Conv2d, tuple[int, int]]:
    """A random small convolution that fits its images."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    size = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    groups, wide = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = nn.Conv2d(2 * groups, wide * groups, kernel, stride, padding, dilation, groups, False, padding_mode)  # pyright: ignore[reportArgumentType]
    return layer, size


@settings(max_examples=40, deadline=None, derandomize=True)
@given(convolutions())
def test_the_dense_norm_of_a_convolution_never_exceeds_the_bound(case: tuple[nn.Conv2d, tuple[int, int]]) -> None:
    layer, size = case
    exact = dense_norm(layer, size)
    assert exact <= bound(layer, size) <= exact * (1 + 1e-6) + 1e-100


@settings(max_examples=40, deadline=None, derandomize=True)
@given(convolutions(), st.integers(0, 3))
def test_every_basis_gives_an_upper_bound(case: tuple[nn.Conv2d, tuple[int, int]], extra: int) -> None:
    layer, size = case
    rows, columns = (
        Axis(size[i], layer.kernel_size[i], layer.stride[i], int(layer.padding[i]), layer.dilation[i]) for i in (0, 1)
    )
    groups = layer.weight.detach().double().chunk(layer.groups)
    exact = dense_norm(layer, size)
    for vertical in (rows.windows(), rows.waves(extra)):
        for horizontal in (columns.windows(), columns.waves(extra)):
            found = max(largest_norm(operator_blocks(group, vertical, horizontal)) for group in groups)
            assert exact <= found * (1 + 1e-12)


@pytest.mark.parametrize("extra", [0, 2])
def test_an_axis_is_part_of_the_circular_grid_on_which_it_is_bounded(extra: int) -> None:
    """Every grid of up to 7 pixels: no tap that should meet the padding comes round to a pixel."""
    for size, kernel, stride, padding, dilation in itertools.product(
        range(1, 8), range(1, 5), (1, 2, 3), range(5), (1, 2)
    ):
        if size + 2 * padding <= dilation * (kernel - 1):
            continue
        axis = Axis(size, kernel, stride, padding, dilation)
        if axis.block_diagonal:
            continue
        waves = axis.waves(extra)[:, 0]  # (frequency, phase, tap)
        reads = torch.fft.fft(waves, dim=0).real / len(waves)  # 1 where block output + shift holds what a tap reads
        blocks = torch.arange(len(waves))
        around = reads[(blocks - blocks[:, None]) % len(waves)]  # (output, block, phase, tap)
        pixels = around[: axis.outputs].flatten(1, 2)[:, :size]
        assert torch.allclose(pixels, axis.windows()[0], atol=1e-9), axis


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions(), st.integers(0, 3))
def test_sums_over_pairs_of_taps_give_the_norm_of_the_blocks(
    case: tuple[nn.Conv2d, tuple[int, int]], extra: int
) -> None:
    """What bounds layers of many channels, here on few."""
    layer, size = case
    rows, columns = (
        Axis(size[i], layer.kernel_size[i], layer.stride[i], int(layer.padding[i]), layer.dilation[i]) for i in (0, 1)
    )
    kernel = layer.weight.detach().double()[: layer.out_channels // layer.groups]
    assume(rows.stride * columns.stride == 1 or len(kernel) <= kernel.shape[1] * rows.stride * columns.stride)
    vertical, horizontal = rows.waves(extra), columns.waves(extra)
    exact = float(torch.linalg.matrix_norm(operator_blocks(kernel, vertical, horizontal), 2).max())
    products = TapProducts.of(kernel, rows, columns)
    found = norm_of_grams(products.grams((len(vertical), len(horizontal))), products.terms, products.error)
    assert exact * (1 - 1e-12) <= found <= exact * (1 + 1e-6)


@pytest.mark.parametrize(("stride", "kernel", "size"), [(1, 3, 5), (1, 5, 4), (2, 3, 6), (1, 3, 1), (3, 5, 9)])
def test_a_circular_convolution_has_exactly_its_bound(stride: int, kernel: int, size: int) -> None:
    torch.manual_seed(size)
    weight = torch.randn(3, 2, kernel, kernel, dtype=torch.float64)
    units = torch.eye(2 * size**2, dtype=torch.float64).view(-1, 2, size, size)
    wrapped = torch.arange(-(kernel // 2), size + kernel // 2) % size
    padded = units[:, :, wrapped][:, :, :, wrapped]
    exact = float(torch.linalg.matrix_norm(conv2d(padded, weight, stride=stride).flatten(1), 2))
    found = conv2d_norm(weight, (size, size), stride, kernel // 2, "circular")
    assert exact <= found <= exact * (1 + 1e-9)


@pytest.mark.parametrize(
    ("kernel", "size", "padding", "exact", "wrong", "enlarged"),
    [(ROW5, 4, 2, 1.00499, 0.1, 1.73494), (ROW3, 2, 1, 1.04403, 0.3, 1.75784)],
)
def test_the_grid_of_the_image_is_too_small_for_zero_padding(
    kernel: Tensor, size: int, padding: int, exact: float, wrong: float, enlarged: float
) -> None:
    layer = nn.Conv2d(1, 1, kernel.shape[2:], padding=padding, bias=False)  # pyright: ignore[reportArgumentType]
    layer.weight.data = kernel
    assert dense_norm(layer, (size, size)) == pytest.approx(exact, abs=1e-5)
    assert norm_on_circular_grid(kernel, size) == pytest.approx(wrong, abs=1e-5)
    assert fourier_bound(kernel, size, padding) == pytest.approx(enlarged, abs=1e-5)
    assert bound(layer, (size, size)) == pytest.approx(exact, abs=1e-5)


def largest_by_lanczos(kernel: Tensor, size: int, padding: int, stride: int = 1) -> float:
    """The norm of a zero-padded convolution that is too large for dense singular values."""
    shape = kernel.shape[1], size, size
    left_over = (size + 2 * padding - kernel.shape[2]) % stride

    def gram(vector):
        image = torch.from_numpy(vector).reshape(1, *shape)
        out = conv2d(image, kernel, stride=stride, padding=padding)
        back = conv_transpose2d(out, kernel, stride=stride, padding=padding, output_padding=left_over)
        return back.numpy().ravel()

    operator = LinearOperator((math.prod(shape),) * 2, matvec=gram, dtype="float64")  # pyright: ignore
    start = torch.rand(math.prod(shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return math.sqrt(eigsh(operator, k=1, v0=start.numpy(), tol=1e-8, return_eigenvectors=False)[0])  # pyright: ignore[reportArgumentType]


def test_the_strided_stem_is_within_half_a_percent() -> None:
    torch.manual_seed(0)
    kernel = nn.init.orthogonal_(torch.empty(64, 3, 5, 5, dtype=torch.float64))
    exact = largest_by_lanczos(kernel, 32, 2, 2)
    assert exact <= fourier_bound(kernel, 32, 2, 2) <= 1.005 * exact


def residual_kernel(scale: float) -> Tensor:
    torch.manual_seed(1)
    kernel = scale * torch.randn(64, 64, 3, 3, dtype=torch.float64) / 576 / math.sqrt(12)
    return kernel + nn.init.dirac_(torch.empty_like(kernel))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_64_channels_on_16x16_pixels_are_within_half_a_percent_even_without_unrolling(scale: float) -> None:
    kernel = residual_kernel(scale)
    exact = largest_by_lanczos(kernel, 16, 1)
    tightest = min(fourier_bound(kernel, 16, 1, extra=extra) for extra in range(4))
    assert exact <= tightest <= 1.005 * exact


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [residual_kernel(30), torch.randn(64, 64, 3, 3, dtype=torch.float64) / 24])
def test_64_channels_on_16x16_pixels_are_within_half_a_percent(kernel: Tensor) -> None:
    exact = largest_by_lanczos(kernel, 16, 1)
    assert exact <= conv2d_norm(kernel, (16, 16), padding=1) <= 1.005 * exact


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (40, 9), (9, 40)])
def test_the_bound_of_a_matrix_is_its_spectral_norm_rounded_up(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    exact = float(torch.linalg.matrix_norm(weight, 2))
    assert exact <= matrix_norm(weight) <= exact * (1 + 1e-9)


def test_groups_take_the_largest_norm_and_not_the_product() -> None:
    weight = torch.tensor([0.5, 0.25]).view(2, 1, 1, 1)
    assert conv2d_norm(weight, (4, 4), groups=2) == pytest.approx(0.5)


@pytest.mark.parametrize("exponent", [-1000, -500, -60, 60, 500, 900])
def test_a_power_of_two_comes_out_of_a_norm_unchanged(exponent: int) -> None:
    torch.manual_seed(0)
    kernel, matrix = torch.randn(3, 2, 3, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    factor = 2.0**exponent
    assert conv2d_norm(factor * kernel, (5, 5), padding=1) == factor * conv2d_norm(kernel, (5, 5), padding=1)
    assert matrix_norm(factor * matrix) == factor * matrix_norm(matrix)


def test_zeros_have_norm_zero_also_beside_other_blocks() -> None:
    assert matrix_norm(torch.zeros(3, 4)) == 0
    assert conv2d_norm(torch.zeros(2, 2, 3, 3), (6, 6), padding=1) == 0
    mean = torch.ones(1, 1, 3, 3)  # its transform vanishes on the grid of 3x3 pixels, but for the constant
    assert conv2d_norm(mean, (3, 3), 1, 1, "circular") == pytest.approx(9)
    assert conv2d_norm(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1), (4, 4), groups=2) == pytest.approx(1)


def test_an_eigenvalue_solver_that_is_wrong_cannot_make_the_bound_false(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    blocks = torch.randn(20, 6, 6, dtype=torch.complex128)
    exact = float(torch.linalg.matrix_norm(blocks, 2).max())
    right = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda a: right(a) * (1 - 1e-8))
    assert exact <= largest_norm(blocks) <= exact * (1 + 1e-7)


def test_a_search_that_cannot_win_stops_with_infinity() -> None:
    blocks = torch.eye(3, dtype=torch.float64)[None]
    assert largest_norm(blocks, below=0.9) == math.inf
    assert largest_norm(blocks, below=1.1) == pytest.approx(1)


def test_padding_may_be_given_by_name() -> None:
    torch.manual_seed(0)
    kernel = torch.randn(2, 2, 3, 5)
    assert conv2d_norm(kernel, (6, 6), padding="same") == conv2d_norm(kernel, (6, 6), padding=(1, 2))
    assert conv2d_norm(kernel, (6, 6), padding="valid") == conv2d_norm(kernel, (6, 6), padding=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding_mode": "reflect"}, "no proof for padding mode 'reflect'"),
        ({"padding": "same", "weight": torch.ones(1, 1, 4, 4)}, "give it as numbers"),
        ({"weight": torch.full((1, 1, 3, 3), float("nan"))}, "inf or NaN"),
        ({"weight": torch.full((1, 1, 3, 3), float("inf"))}, "inf or NaN"),
        ({"weight": torch.ones(1, 1, 9, 9)}, "does not fit 5 pixels"),
        ({"weight": torch.ones(3, 3)}, "expected a kernel"),
        ({"groups": 2}, "for 2 groups"),
        ({"padding_mode": "circular", "padding": 2}, "a circular convolution needs"),
        ({"padding_mode": "circular", "padding": 1, "stride": 2}, "divisible by its stride"),
    ],
)
def test_what_has_no_proof_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv2d_norm(**{"weight": torch.ones(1, 1, 3, 3), "input_size": (5, 5)} | arguments)


def test_a_matrix_norm_wants_a_finite_matrix() -> None:
    with pytest.raises(ValueError, match="expected a matrix"):
        matrix_norm(torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="inf or NaN"):
        matrix_norm(torch.tensor([[1e39]], dtype=torch.float32))
