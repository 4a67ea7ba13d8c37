"""How much memory a step of Gaussian training takes, by tensors that have a shape only, so that no device is needed.

    python benchmarks/memory.py gaussian-imagenet-0.50                   # the published batch, in 1, 2 and 4 parts
    python benchmarks/memory.py gaussian-imagenet-0.50 --check 4 8 16    # beside the peak of a process on this CPU

Counted are weights, gradients, the state of the optimizer, the activations that the backward pass needs, and the values
of each operation: the peak of what PyTorch allocates. Workspaces of cuDNN and the context of a device come on top.
"""

import resource
import subprocess
import sys
from dataclasses import dataclass

import torch
import tyro
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from holdfast.core.recipe import DataInfo, Recipe
from holdfast.core.registry import RECIPES
from holdfast.nn import zoo

GIB = 2**30
IMAGENET = DataInfo("imagenet", (3, 224, 224), 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass
class Options:
    """Memory of a training step."""

    recipe: tyro.conf.Positional[str]
    """A recipe of Gaussian training on ImageNet."""
    parts: tuple[int, ...] = (1, 2, 4)
    """In how many parts the batch is computed, as by --accumulate."""
    check: tuple[int, ...] = ()
    """Batches of which two steps run on this CPU, each in a process of its own."""
    measure: int = 0
    """Take two steps with this batch and print the peak memory of this process in bytes."""


def main() -> None:
    """Print the table that is asked for."""
    options = tyro.cli(Options)
    recipe = RECIPES[options.recipe]
    if options.measure:
        _steps(recipe, options.measure)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    print(f"{options.recipe}: {recipe.arch}, batch {recipe.batch_size}, counted")
    for parts in options.parts:
        images = -(-recipe.batch_size // parts)
        full, half = (_counted(recipe, images, mixed) / GIB for mixed in (False, True))
        print(f"--accumulate {parts}: {images} images at once, {full:.1f} GiB, bf16-mixed {half:.1f} GiB")
    found = [(n, _counted(recipe, n, mixed=False) / GIB, _measured(options.recipe, n) / GIB) for n in options.check]
    for images, counted, measured in found:
        print(f"batch {images}: {counted:.3f} GiB counted, {measured:.3f} GiB the process on this CPU")
    if len(found) > 1:
        rise = [(found[-1][i] - found[0][i]) / (found[-1][0] - found[0][0]) for i in (1, 2)]
        print(f"an image more: {rise[0] * 1024:.1f} MiB counted, {rise[1] * 1024:.1f} MiB measured")


def _steps(recipe: Recipe, images: int, mixed: bool = False, tracker: MemTracker | None = None) -> None:
    """Two steps of cross-entropy on noisy images: the state of the optimizer is there in the second."""
    network = zoo.build(recipe.arch, IMAGENET).train()
    optimizer = recipe.optimizer.build(network)
    x, y = torch.rand(images, *IMAGENET.shape), torch.zeros(images, dtype=torch.long)
    if tracker is not None:
        tracker.track_external(network, optimizer, x, y)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = torch.nn.functional.cross_entropy(network(x + 0.5 * torch.randn_like(x)), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if tracker is not None:
            tracker.reset_mod_stats()


def _counted(recipe: Recipe, images: int, mixed: bool) -> int:
    """Bytes at the peak."""
    tracker = MemTracker()
    with FakeTensorMode(), tracker:
        _steps(recipe, images, mixed, tracker)
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return next(value for name, value in peak.items() if str(name).endswith("Total"))


def _measured(recipe: str, images: int) -> int:
    command = [sys.executable, __file__, recipe, "--measure", str(images)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
