"""The streams of noisy copies: the same bits whatever the batch, format, process or thread; what is refused."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.core.certifier import Seed
from holdfast.smoothing.noise import Batch, Float32, Lattice, Noise, definition
from holdfast.smoothing.noise.lattice import feature_step
from holdfast.smoothing.noise.numba_cpu import LatticeStream

SEED = Seed(2**64 - 3, 4711)
IMAGE = (torch.arange(3 * 9 * 7) * 37 % 256).view(3, 9, 7) / 255
NOISES = {
    "lattice": Lattice(),
    "dyadic": Lattice(2.0**-7),
    "seventh": Lattice(1 / 7),
    "float32": Float32(),
}


def draws(noise: Noise, x: Tensor, sizes: Sequence[int], sigma: float = 0.5, seed: Seed = SEED, **like) -> Tensor:
    """The first copies of x, asked for in parts of these sizes."""
    stream = noise.stream(x, sigma, seed)
    parts = [torch.empty((size, *x.shape), **like) for size in sizes]
    for part in parts:
        stream.fill(part)
    return torch.cat(parts)


def by_definition(x: Tensor, sigma: float, divisor: float, count: int) -> Tensor:
    values = x.double().flatten().tolist()
    q = [definition.noisy(values, sigma, divisor, SEED, draw) for draw in range(count)]
    return torch.from_numpy((np.array(q, np.float32) / np.float32(divisor)).reshape(count, *x.shape))


@pytest.mark.parametrize("sigma", [0.12, 1.0])
@pytest.mark.parametrize(
    ("x", "step"),
    [
        pytest.param(IMAGE, None, id="image on the lattice"),
        pytest.param(IMAGE * 0.987, None, id="image off the lattice"),
        pytest.param(IMAGE.double() / 3, None, id="float64"),
        pytest.param(torch.where(IMAGE > 0.5, IMAGE, IMAGE * 0.5), None, id="partly on the lattice"),
        pytest.param(IMAGE, 1 / 7, id="another step"),
        pytest.param(1e4 * (IMAGE.flatten() - 0.3), 2.0**-8, id="large features"),
        pytest.param(torch.tensor(0.25), 2.0**-5, id="one number"),
    ],
)
def test_copies_are_those_of_the_definition(x: Tensor, step: float | None, sigma: float) -> None:
    divisor = round(1 / (step or 1 / 255))
    found = draws(Lattice(step), x, [2], sigma)
    assert torch.equal(found, by_definition(x, sigma, divisor, 2))


def test_where_float64_cannot_tell_the_copy_is_still_that_of_the_definition() -> None:
    """Every coordinate is put as near to a boundary as float64 can."""
    h, sigma, count = 2.0**-7, 0.5, 70
    words = [definition.word(j, 0, SEED) for j in range(count)]
    z = definition.ndtri((np.array(words, float) + 0.5) * 2.0**-64)
    x = torch.from_numpy(np.round((np.arange(count) % 5 + 0.5) * h - sigma * z, 20))
    stream = Lattice(h).stream(x, sigma, SEED)
    assert isinstance(stream, LatticeStream)
    before, decided = definition.lattice_point, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definition, "lattice_point", lambda *args: decided.append(args) or before(*args))
        out = torch.empty(1, count)
        stream.fill(out)
    assert len(decided) > 30
    assert torch.equal(out, by_definition(x, sigma, 1 / h, 1))


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("sizes", [[1] * 71, [7] * 10 + [1], [64, 7], [0, 70, 0, 1]])
def test_the_size_of_batches_changes_nothing(noise: Noise, sizes: list[int]) -> None:
    assert torch.equal(draws(noise, IMAGE, [71]), draws(noise, IMAGE, sizes))


FORMATS = [IMAGE, IMAGE * 0.9, *(torch.rand(shape) for shape in ((5, 30, 41), (2, 16, 33), (20, 12, 13), (4, 1, 1)))]
"""Channels that the kernel joins by three, by two, by four, and that it does not join."""


@pytest.mark.parametrize("noise", [Lattice(), Lattice(1 / 7)])
@pytest.mark.parametrize("x", FORMATS)
def test_formats_and_dtypes_change_nothing(noise: Noise, x: Tensor) -> None:
    expected = draws(noise, x, [5])
    last = torch.empty(5, *x.shape).contiguous(memory_format=torch.channels_last)
    noise.stream(x, 0.5, SEED).fill(last)
    assert torch.equal(last, expected)
    holes = torch.empty(5, 2, *x.shape)[:, 1]
    noise.stream(x.contiguous(memory_format=torch.contiguous_format), 0.5, SEED).fill(holes)
    assert torch.equal(holes, expected)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(draws(noise, x, [5], dtype=dtype), expected.to(dtype))
        assert torch.equal(draws(noise, x.to(torch.float64), [5], dtype=dtype), expected.to(dtype))


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_rows_of_a_batch_that_is_written_again_get_the_same_copies(
    noise: Noise, dtype: torch.dtype, memory: torch.memory_format
) -> None:
    x = IMAGE.to(dtype)
    rows, stream = torch.zeros(7, *x.shape, dtype=dtype).contiguous(memory_format=memory), noise.stream(x, 0.5, SEED)
    batch = Batch(rows)
    stream.write(batch, 2, 7)
    assert not rows[:2].any()
    assert torch.equal(rows[2:], draws(noise, x, [5], dtype=dtype))
    stream.write(batch, 0, 1)
    assert torch.equal(rows[:1], draws(noise, x, [6], dtype=dtype)[5:])


def test_rows_on_the_lattice_share_what_they_have_no_need_of() -> None:
    """24 bytes a number would be 3.4 MiB for an image of 224 x 224, and a batch can hold the copies of many."""
    one, other = (Lattice().stream(x, 0.5, SEED) for x in (IMAGE, IMAGE.flip(0)))
    assert isinstance(one, LatticeStream)
    assert isinstance(other, LatticeStream)
    assert one.part_64 is other.part_64
    assert one.part is other.part
    assert not one.part.any()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_change_nothing(two_threads: None) -> None:
    x = torch.rand(3, 64, 64)
    together = draws(Lattice(), x, [5, 31])
    torch.set_num_threads(1)
    assert torch.equal(together, draws(Lattice(), x, [5, 31]))


X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the features of an x86-64 processor")


@pytest.mark.parametrize(
    "processor",
    [
        pytest.param({}, id="this one"),
        pytest.param({"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}, id="without AVX and FMA", marks=X86),
    ],
)
def test_another_process_or_processor_draws_the_same(processor: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import hashlib, torch; from holdfast.core.certifier import Seed; "
        "from holdfast.smoothing.noise import Lattice; x = torch.arange(6000).view(3, 40, 50) / 7650; "
        "out = torch.empty(9, 3, 40, 50); Lattice().stream(x, 0.5, Seed(2**64 - 3, 4711)).fill(out)\n"
        "for channels in (3, 4, 6):\n"
        "    last = torch.empty(9, channels, 120 // channels, 50).contiguous(memory_format=torch.channels_last)\n"
        "    Lattice().stream(x.view(last.shape[1:]), 0.5, Seed(2**64 - 3, 4711)).fill(last)\n"
        "    assert torch.equal(last.flatten(), out.flatten()), channels\n"
        "print(hashlib.sha256(out.numpy().tobytes()).hexdigest())"
    )
    environment = os.environ | processor | ({"NUMBA_CACHE_DIR": str(tmp_path)} if processor else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = draws(Lattice(), torch.arange(6000).view(3, 40, 50) / 7650, [9])
    assert hashlib.sha256(here.numpy().tobytes()).hexdigest() == done.stdout.strip()


def test_all_bits_of_the_seed_and_the_index_count() -> None:
    seeds = [Seed(s, i) for s in (0, 2**31, 2**32, 2**63) for i in (0, 1, 2**31)]
    copies = [draws(Lattice(), IMAGE, [1], seed=seed) for seed in seeds]
    assert len({copy.numpy().tobytes() for copy in copies}) == len(seeds)


def test_the_step_follows_from_sigma_alone() -> None:
    """If values chose it, the features of two images in one ball could be rounded by different functions."""
    inside, outside = draws(Lattice(), IMAGE, [1]), draws(Lattice(), 20 * IMAGE - 10, [1])
    for copies in (inside, outside):
        q = (copies * 255).round()
        assert torch.equal(copies, q / 255)
    assert {Lattice().on_features(sigma) for sigma in (0.4, 0.5, 0.6)} == {Lattice(2.0**-7)}
    assert feature_step(64.0) == 1.0
    assert Lattice(2.0**-3).on_features(0.5) == Lattice(2.0**-3)
    with pytest.raises(ValueError, match="a power of two, such as"):
        Lattice(1 / 255).on_features(0.5)


def test_a_step_may_be_typed_with_seven_digits() -> None:
    assert torch.equal(draws(Lattice(0.003921569), IMAGE, [2]), draws(Lattice(), IMAGE, [2]))


@pytest.mark.parametrize("step", [0.0, -0.5, 0.3, 1e-30, float("nan"), float("inf")])
def test_a_step_without_an_exact_lattice_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=r"expected a step of 1/m"):
        Lattice(step)


@pytest.mark.parametrize(
    ("x", "sigma", "seed", "message"),
    [
        (IMAGE / 0, 0.5, SEED, "expected finite values"),
        (1e8 * IMAGE, 0.5, SEED, "larger step"),
        (IMAGE, 0.0, SEED, "sigma must be positive"),
        (IMAGE, float("nan"), SEED, "sigma must be positive"),
        (IMAGE, 1000.0, SEED, "a step between sigma / 65536"),
        (IMAGE, 1e-6, SEED, "1024 sigma"),
        (IMAGE, 0.5, Seed(2**64, 0), "expected seed"),
        (IMAGE, 0.5, Seed(0, -1), "expected example"),
    ],
)
def test_what_cannot_be_drawn_is_refused(x: Tensor, sigma: float, seed: Seed, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lattice().stream(x, sigma, seed)


def test_batches_that_do_not_fit_are_refused() -> None:
    stream = Lattice().stream(IMAGE, 0.5, SEED)
    for wrong in (torch.empty(2, 3, 7, 9), torch.empty(2, 3, 9, 7, dtype=torch.int32)):
        with pytest.raises(ValueError, match="expected floating-point rows"):
            stream.fill(wrong)
    assert isinstance(stream, LatticeStream)
    stream.draw = 2**32 - 1
    with pytest.raises(ValueError, match="2\\^32 draws"):
        stream.fill(torch.empty(2, 3, 9, 7))
