"""What is proven in front of a cut: global and local constants of the left half, on images of CIFAR-10.

python benchmarks/cuts.py --arch resnet20 --cuts conv1 layer1.2 layer2.2 --data-dir DATA
"""

from dataclasses import dataclass
from pathlib import Path
from time import process_time

import torch
import tyro

from holdfast import data
from holdfast.bounds import l2
from holdfast.bounds.local import local_bound
from holdfast.certifiers.split import Halves
from holdfast.nn.zoo import build


@dataclass
class Options:
    """Constants of left halves."""

    arch: str = "resnet20"
    cuts: tuple[str, ...] = ("conv1", "layer1.0", "layer1.2", "layer2.2")
    dataset: str = "cifar10"
    images: int = 20
    ball: float = 0.25
    """Radius of the ball around each image, in pixel units."""
    seed: int = 0
    """Of the weights, which are those of a fresh network."""
    data_dir: Path | None = None


def main() -> None:
    """Print one line a cut."""
    options = tyro.cli(Options)
    images = data.load(options.dataset, "test", options.data_dir)
    x = images.pixels(slice(0, options.images))
    print(f"{'cut':>24} {'features':>9} {'global':>10} {'local, mean':>12} {'largest':>10}", end="")
    print(f" {'reach / ball':>13} {'CPU s':>7}")
    for cut in options.cuts:
        torch.manual_seed(options.seed)
        model = build(f"{options.arch}@{cut}", images.info).eval()
        started = process_time()
        left = Halves.of(model, x).left
        everywhere = l2.network_bound(left).norm
        found = [local_bound(left, one[None], options.ball) for one in x]
        constants = torch.cat([region.constant for region in found])
        reach = torch.cat([region.reach for region in found]).mean() / options.ball
        numbers = f"{everywhere:>10.4g} {constants.mean():>12.4g} {constants.max():>10.4g} {reach:>13.4g}"
        features = found[0].value.numel()
        print(f"{options.arch + '@' + cut:>24} {features:>9} {numbers} {process_time() - started:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
