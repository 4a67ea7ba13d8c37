"""What a noisy value costs: lattice noise beside torch's `normal_` and `add`, taking turns on one thread; and delta.

    python benchmarks/noise.py

Both fill the same batch from one row; on a CPU seconds of the processor count. The reference (mpmath) is timed on a few
hundred values.
"""

import time

import torch
import tyro
from timing import busy, seconds

from holdfast.core.certifier import Seed
from holdfast.smoothing.noise import Lattice, definition
from holdfast.smoothing.noise.lattice import feature_step

IMAGES = {"MNIST": (1, 28, 28), "CIFAR-10": (3, 32, 32), "ImageNet": (3, 224, 224)}
FEATURES = {"lenet@conv1": (32, 28, 28), "256 features": (256,)}


def main(batch: int = 128, rounds: int = 30, device: str = "cpu", images: tuple[str, ...] = tuple(IMAGES)) -> None:
    """Print two tables.

    Args:
        batch: copies that one call draws; 32 of ImageNet.
        rounds: rounds that the median is taken over.
        device: where the batch lies.
        images: of which sizes: MNIST, CIFAR-10, ImageNet.
    """
    torch.set_num_threads(1)
    started = time.perf_counter()
    Lattice().stream(torch.zeros(1, 4, 4), 0.3, Seed(0, 0)).fill(torch.empty(1, 1, 4, 4))
    print(f"first call: {time.perf_counter() - started:.2f} s, compiling or loading the kernels included\n")
    print("| row | sigma | batch | ns per value | normal_ + add | ratio |\n|---|---|---|---|---|---|")
    for name in images:
        shape = IMAGES[name]
        x = torch.randint(0, 256, shape).float() / 255
        rows = 32 if name == "ImageNet" else batch
        for last in (False, True) if shape[0] > 1 else (False,):
            for sigma in (0.25, 1.0):
                _compare(name, x, sigma, rows, rounds, device, last)
            _compare(f"{name} off the lattice", 0.999 * x, 1.0, rows, rounds, device, last)
        _compare(name, x, 0.5, rows, rounds, device, False, torch.bfloat16)
    for name, shape in FEATURES.items():
        _compare(name, torch.randn(shape), 0.5, batch, rounds, device, False, step=feature_step(0.5))
    _reference()
    print("\n| images | sigma | d M 2^-64 | delta |\n|---|---|---|---|")
    for name in images:
        shape = IMAGES[name]
        for sigma in (0.25, 0.5, 1.0):
            d = torch.Size(shape).numel()
            proven = definition.total_variation(255 * sigma, d)
            print(f"| {name} | {sigma} | {proven:.1e} | {Lattice().delta(sigma, d):.1e} |")


def _compare(
    name: str,
    x: torch.Tensor,
    sigma: float,
    rows: int,
    rounds: int,
    device: str,
    channels_last: bool,
    dtype: torch.dtype = torch.float32,
    step: float | None = None,
) -> None:
    out = torch.empty(rows, *x.shape, dtype=dtype, device=device)
    if channels_last:
        out = out.contiguous(memory_format=torch.channels_last)
    noise, image = torch.empty(rows, *x.shape, dtype=dtype, device=device), x.to(device, dtype)
    generator = torch.Generator(device).manual_seed(1)
    stream = Lattice(step).stream(x.to(device), sigma, Seed(1, 2))

    def theirs() -> None:
        noise.normal_(generator=generator)
        torch.add(image, noise, alpha=sigma, out=out)

    ours, torch_time = (
        1e9 * t / out.numel()
        for t in seconds(lambda: stream.fill(out), theirs, rounds=rounds, device=device, clock=busy(device))
    )
    kind = f"{rows}, {str(dtype).removeprefix('torch.')}{', channels last' if channels_last else ''}"
    print(f"| {name} | {sigma} | {kind} | {ours:.2f} | {torch_time:.2f} | {ours / torch_time:.2f} |")


def _reference() -> None:
    values = [0.3] * 300
    started = time.perf_counter()
    definition.noisy(values, 0.5, 255.0, Seed(1, 2), 0)
    print(f"\nreference (mpmath): {(time.perf_counter() - started) / len(values) * 1e9:,.0f} ns per value")


if __name__ == "__main__":
    tyro.cli(main)
