"""What an epoch of each training method costs, as a ratio to an epoch of Gaussian training on the same machine.

    python benchmarks/methods.py [--sigma 0.50] [--device cpu] [--threads 1] [--repeats 5]

The recipes are the published ones for MNIST (LeNet). "Passes" is what the mathematics needs: how often a noisy copy of
an image goes forward and backward through the network, per image and epoch; Gaussian training needs 1. The last column
is the measured ratio divided by the passes: below 1 a method is cheaper than that many Gaussian steps (no gradients of
the weights during an attack), above 1 it pays for something else: the row "gaussian, 16 copies" shows what a batch of
4096 rows costs by itself.
All methods are timed in turn, so that a machine whose speed changes slows them alike; each keeps its fastest time.
"""

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from holdfast.core.recipe import DataInfo, Recipe
from holdfast.core.registry import RECIPES
from holdfast.nn import zoo

PASSES: dict[str, tuple[str, Callable[[dict], float]]] = {
    "gaussian": ("m", lambda o: o["copies"]),
    "gaussian, 16 copies": ("m", lambda o: o["copies"]),
    "stability": ("2", lambda o: 2),
    "macer": ("k", lambda o: o["copies"]),
    "consistency": ("m", lambda o: o["copies"]),
    "smoothadv": ("m (T + 1)", lambda o: o["copies"] * (o["steps"] + 1)),
    "smoothadv-consistency": ("m (T + 1)", lambda o: o["smoothadv"]["copies"] * (o["smoothadv"]["steps"] + 1)),
    "smoothmix": ("m (T + 2)", lambda o: o["copies"] * (o["steps"] + 2)),
    "smoothmix-onestep": ("m (T + 2)", lambda o: o["copies"] * (o["steps"] + 2)),
    "cat-rs": ("m (T + 2)", lambda o: o["copies"] * (o["steps"] + 2)),
}
"""By the name of the recipe, the formula and its value for the options of the method."""

MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sigma", default="0.50")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {name: recipe(name, args.sigma) for name in PASSES}
    best = dict.fromkeys(found, float("inf"))
    for _ in range(args.repeats + 1):  # the first round warms up
        for name, one in found.items():
            best[name] = min(best[name], seconds_per_image(one, torch.device(args.device)))
    show(found, best)


def recipe(name: str, sigma: str) -> Recipe:
    """The published one; CAT-RS without its teacher, whose votes are forward passes alone, and as many as one likes."""
    found = RECIPES[f"{name.split(',')[0]}-mnist-{sigma}"]
    changes = {"gaussian, 16 copies": {"copies": 16}, "cat-rs": {"teacher": ""}}.get(name, {})
    return found.replace(method=found.method.replace(**changes))


def seconds_per_image(recipe: Recipe, device: torch.device) -> float:
    """One optimiser step of the recipe at full strength (t = 1), divided by its images."""
    model = zoo.build(recipe.arch, MNIST).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = recipe.optimizer.build(model)
    x = torch.rand(recipe.batch_size, *MNIST.shape, device=device)
    y = torch.randint(MNIST.classes, (recipe.batch_size,), device=device)
    step(recipe, model, optimizer, x, y)
    started = clock(device)
    step(recipe, model, optimizer, x, y)
    return (clock(device) - started) / len(x)


def step(recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    loss = recipe.method.loss(model, x, y, 1.0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def clock(device: torch.device) -> float:
    """Processor time of this process on a CPU, so that a busy machine does not count; wall time elsewhere."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def show(found: dict[str, Recipe], best: dict[str, float]) -> None:
    table = Table("method", "images in a step", "needs", "passes", "measured ratio", "ratio / passes", box=None)
    for name, one in found.items():
        formula, passes = PASSES[name]
        needed, ratio = passes(one.method.to_dict()), best[name] / best["gaussian"]
        numbers = f"{needed:g}", f"{ratio:.1f}", f"{ratio / needed:.2f}"
        table.add_row(name, str(one.batch_size), formula, *numbers)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
