"""The input path of data sets larger than memory: images per second and per core, and peak memory.

    python benchmarks/input.py rate --images 400
    python benchmarks/input.py memory --batch-size 8 --steps 10

`rate` compares one worker, which decodes, cuts out, scales and mirrors, with plain PIL decoding of the same files; both
on one core, by turns. `memory` trains `gaussian-imagenet-0.50` for some steps on 20,000 JPEGs of 224 x 224 pixels,
which it generates, and certifies two test images; it tells the peak memory of the process and of its largest worker.
"""

import argparse
import io
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import timing
import torch
from PIL import Image

from holdfast.certification.run import certify_run
from holdfast.core.registry import RECIPES
from holdfast.data import Encoded, load
from holdfast.opening import Source
from holdfast.training import loop
from holdfast.training.feed import Feed, resized_crop
from holdfast.training.launch import Machine
from holdfast.training.loop import train

DIFFERENT = 64
"""Images that are generated; the others are links to these."""


def jpegs(folder: Path, split: str, count: int, side: tuple[int, int], classes: int = 10) -> None:
    """Smooth noise, which compresses about as well as photographs do."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / split / f"class{number % classes:04}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        first = folder / split / f"class{number % DIFFERENT % classes:04}" / f"{number % DIFFERENT:06}.jpg"
        if number < DIFFERENT:
            coarse = Image.fromarray(random.integers(0, 256, (side[1] // 8, side[0] // 8, 3), dtype=np.uint8))
            coarse.resize(side, Image.Resampling.BICUBIC).save(path, quality=90)
        else:
            os.link(first, path)


def rate(folder: Path, images: int, rounds: int) -> None:
    """One core: the whole of a worker's work beside plain decoding."""
    jpegs(folder, "train", images, (500, 375))
    recipe = RECIPES["gaussian-imagenet-0.50"].replace(dataset=f"folder:{folder}@224/256")
    data = load(recipe.dataset, "train", encoded=True)
    assert isinstance(data, Encoded)
    feed, order = Feed(recipe, data, 0), list(torch.arange(images).split(100))
    encoded = [Path(data.source.table[row]["image"]["path"]).read_bytes() for row in range(images)]

    def decoded() -> None:
        for content in encoded:
            Image.open(io.BytesIO(content)).convert("RGB")

    def cut() -> None:
        random = np.random.default_rng(0)
        for content in encoded:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
            np.asarray(resized_crop(picture, (224, 224), recipe.area, random))

    epoch = iter(range(10**6))
    times = timing.seconds(decoded, cut, lambda: list(feed.batches(next(epoch), order)), rounds=rounds)
    plain, by_pil, ours = (images / seconds for seconds in times)
    size = sum(map(len, encoded)) / images / 1024
    print(f"{images} JPEGs of 500 x 375, {size:.0f} KiB each, one core: images per second")
    print(f"plain PIL decoding {plain:.0f}")
    print(f"PIL decoding and a random resized crop {by_pil:.0f}")
    print(f"the input path: the same, mirrored, as batches of float32 {ours:.0f}, {ours / plain:.2f} of plain decoding")


def memory(folder: Path, images: int, batch_size: int, steps: int, workers: int) -> None:
    """Some steps of the published recipe, then two certificates."""
    jpegs(folder, "train", images, (224, 224))
    jpegs(folder, "test", DIFFERENT, (224, 224))
    recipe = RECIPES["gaussian-imagenet-0.50"].replace(
        dataset=f"folder:{folder}@224/256", epochs=1, batch_size=batch_size
    )
    whole, workers_peak = Feed.batches, [0.0]

    def some(self: Feed, epoch: int, order: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from islice(whole(self, epoch, order), steps)
        workers_peak[:] = [peak(child.pid) for child in multiprocessing.active_children()]

    Feed.batches = some
    run = train(recipe, "memory", folder / "runs", Machine(accelerator="cpu", workers=workers))
    certifier = replace(recipe.method.certifier(), n0=10, n=20, alpha=0.1)
    certify_run(Source(str(run)), recipe.dataset, certifier, limit=2, batch_size=batch_size, device="cpu")
    print(f"{images:,} JPEGs of 224 x 224, {steps} steps with {batch_size} images, {workers} workers")
    print(f"the process: peak {peak('self'):.2f} GiB")
    print(f"its workers: peak {', '.join(f'{found:.2f}' for found in workers_peak)} GiB")


def peak(process: object) -> float:
    """GiB of memory that a process held at most."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "memory"))
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shown", type=int, default=loop.SEEN, help="images that accuracy is shown on")
    asked = parser.parse_args()
    loop.SEEN = asked.shown
    with tempfile.TemporaryDirectory() as where:
        if asked.what == "rate":
            rate(Path(where), asked.images or 400, asked.rounds)
        else:
            memory(Path(where), asked.images or 20_000, asked.batch_size, asked.steps, asked.workers)
