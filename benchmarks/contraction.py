"""What makes the left half of SPLITZ contract locally: a small study on MNIST, one change of the recipe at a time.

    python benchmarks/contraction.py FOLDER --data-dir DATA [--epochs 2] [--only base 'theta 0']

Every row trains `splitz-mnist-0.50` without every second training image, then certifies some of those held out
(never the test set). Finished rows are kept in FOLDER, and a stopped one goes on.

    constant   of the left half that holds everywhere
    local      largest movement of the features / gamma on the ball of radius gamma around an image, the mean; what it
               is below `constant` is all that SPLITZ can gain over dividing by a constant
    ends       share of the units that stay at one end of their ReLU on the whole ball
    ACR        average certified radius in pixels; and by `constant` alone, from the same votes
"""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast import Gaussian, Split, certify_run
from holdfast.bounds.local import local_bound
from holdfast.certifiers.split import Halves
from holdfast.core.certifier import Classifier
from holdfast.core.recipe import DataInfo, Recipe
from holdfast.core.registry import RECIPES
from holdfast.data import load
from holdfast.methods.splitz import Splitz
from holdfast.nn.lipschitz.layers import ClippedReLU
from holdfast.nn.zoo import build
from holdfast.opening import Source
from holdfast.optim import SGD
from holdfast.training.launch import Machine
from holdfast.training.loop import train

SPLIT, BALLS = "held-out-2", (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class AtOnce(Splitz):
    """The weight has its last value from the first step on."""

    def loss(self, model: Classifier, x: Tensor, y: Tensor, t: float) -> Tensor:
        return super().loss(model, x, y, 1.0)


def threshold(info: DataInfo, start: float, gain: float = 1.0) -> nn.Module:
    """LeNet behind its first convolution, whose clipped ReLU starts with that threshold, and whose constant is gain."""
    model = build("lenet@conv1", info)
    for layer in model.modules():
        if isinstance(layer, ClippedReLU):
            layer.raw.data.fill_(start)
    with torch.no_grad():
        model.left[0].weight *= gain  # pyright: ignore
    return model


def low_threshold(info: DataInfo) -> nn.Module:
    return threshold(info, 0.25)


def steep(info: DataInfo) -> nn.Module:
    """Starts as nearly a step: most units are at an end, and the constant is large."""
    return threshold(info, 1.0, gain=8.0)


def variants(epochs: int) -> dict[str, Recipe]:
    """By name; the first is the recipe as it is."""
    recipe = RECIPES["splitz-mnist-0.50"].replace(epochs=epochs, held_out=2)
    method = recipe.method

    def other(**changes: float) -> Recipe:
        return recipe.replace(method=method.replace(**changes))

    at_once = AtOnce(**{name: getattr(method, name) for name in (field.name for field in fields(method))})
    return {
        "base": recipe,
        "weight 1 (no constant in the loss)": other(weight=1.0),
        "weight 0.4": other(weight=0.4),
        "weight 0.1": other(weight=0.1),
        "theta 0": other(theta=0.0),
        "theta 0, weight 0.4": other(theta=0.0, weight=0.4),
        "ball 0.5": other(ball=0.5),
        "weight at once": recipe.replace(method=at_once),
        "power steps 1": other(power_steps=1),
        "power steps 20": other(power_steps=20),
        "threshold from 0.25": recipe.replace(arch="contraction:low_threshold"),
        "steep start": recipe.replace(arch="contraction:steep"),
        "steep start, theta 0, weight 0.4": other(theta=0.0, weight=0.4).replace(arch="contraction:steep"),
        "no weight decay": recipe.replace(optimizer=SGD(lr=0.05, weight_decay=0.0, drops=(0.6, 0.9))),
        "weight decay 0.002": recipe.replace(optimizer=SGD(lr=0.05, weight_decay=2e-3, drops=(0.6, 0.9))),
        "cut behind the pool": recipe.replace(arch="lenet@pool1"),
        "four filters before a whole LeNet": recipe.replace(arch="front-lenet@front"),
    }


def row(name: str, recipe: Recipe, args: argparse.Namespace) -> str:
    """Train, certify, and tell."""
    folder = train(recipe, "contraction", args.folder, Machine("cpu", data_dir=args.data_dir))
    source = Source(str(folder))
    splitter = Split(Gaussian(sigma=0.5, n0=100, n=1000), bisections=5)
    run = certify_run(source, "mnist", splitter, split=SPLIT, every=args.every, data_dir=args.data_dir, batch_size=256)
    x, _ = load("mnist", SPLIT, args.data_dir).batch(torch.arange(0, 20 * args.every, args.every))
    halves = Halves.of(source.load(), x)
    constant = halves.everywhere.norm
    within = []
    for ball in BALLS:
        region = local_bound(halves.left, x.double(), ball)
        ends = ((region.box.upper - region.box.lower) < 1e-6).double().mean()
        within.append(f"{float((region.reach / ball).mean()):.4f} / {100 * float(ends):.0f} %")
    kept = [record.certificate.evidence for record in run.records if record.correct and record.certificate.radius > 0]
    plainly = sum(one["feature_radius"] - one["rounding"] for one in kept) / constant / len(run)
    certified = 100 * run.reaches(0.5).mean()
    cells = [name, f"{constant:.4f}", *within, f"{certified:.1f} %", f"{run.radii.mean():.4f} / {plainly:.4f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--every", type=int, default=750, help="certify every k-th held-out image")
    parser.add_argument("--only", nargs="*", default=())
    args = parser.parse_args()
    balls = " | ".join(f"local / ends at gamma {ball}" for ball in BALLS)
    print(f"| change | constant | {balls} | certified at 0.5 | ACR / by the constant |\n|---|---|---|---|---|---|---|")
    for name, recipe in variants(args.epochs).items():
        if not args.only or name in args.only:
            print(row(name, recipe, args), flush=True)


if __name__ == "__main__":
    main()
