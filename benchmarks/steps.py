"""Optimiser steps per second of every training method: with the layers of PyTorch, as `holdfast train` runs them, and
with `--compile`, in each precision.

    python benchmarks/steps.py                                        # LeNet on MNIST, every smoothing method
    python benchmarks/steps.py --recipes gaussian-cifar10-0.50 --precisions bf16-mixed --device cuda

A step is what `holdfast train` does at full strength (t = 1), or at other `--times`, on random images of the right
shape: no data is needed. The sides take turns. On a CPU seconds are of the processor, so that
a busy machine does not count; else of the clock.
"""

import itertools
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import tyro
from timing import seconds

from holdfast.core.recipe import DataInfo, Recipe
from holdfast.core.registry import RECIPES
from holdfast.machine import kept_memory
from holdfast.nn import zoo
from holdfast.training.launch import Machine, start
from holdfast.training.network import check_compiler, compiled, quick

INFOS = {
    "digits": DataInfo("digits", (1, 8, 8), 10, (0.3,), (0.4,)),
    "mnist": DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,)),
    "cifar10": DataInfo("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": DataInfo("imagenet", (3, 224, 224), 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
METHODS = ("gaussian", "stability", "consistency", "macer", "smoothadv", "smoothadv-consistency", "smoothmix", "cat-rs")


@dataclass
class Options:
    """Steps per second."""

    recipes: tuple[str, ...] = tuple(f"{method}-mnist-0.50" for method in METHODS)
    precisions: tuple[str, ...] = ("32-true", "bf16-mixed")
    trained: bool = True
    """Time what `holdfast train` runs, too: some layers are quicker on a CPU (`training.network.quick`)."""
    compile: bool = True
    """Time the compiled side, too."""
    keep: bool = True
    """Keep the memory that is freed, as training does; else leave it to the C library."""
    times: tuple[float, ...] = (1.0,)
    """Shares of the training that are over: an l-inf-distance net changes its kernels on the way."""
    steps: int = 3
    """In a round."""
    rounds: int = 3
    device: str = "cpu"


def main(options: Options) -> None:
    """Print the table, row by row."""
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {options.device}, torch {torch.__version__}\n")
    sides = [f"{side} steps/s | ratio" for side in ("trained", "compiled") if side in _sides(options)]
    head = " | ".join(["recipe", "images a step", "precision", "eager steps/s", *sides])
    print(f"| {head} |" + " first step, s |" * options.compile)
    print("|---" * (4 + 2 * len(sides) + options.compile) + "|")
    for name, t, precision in itertools.product(options.recipes, options.times, options.precisions):
        with ExitStack() as stack:
            _row(options, name, t, precision, stack)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


def _row(options: Options, name: str, t: float, precision: str, stack: ExitStack) -> None:
    recipe = without_teacher(RECIPES[name])
    if options.keep:
        stack.enter_context(kept_memory(torch.device(options.device)))
    sides = [_stepper(recipe, t, precision, options.device, side, stack) for side in _sides(options)]
    started = time.perf_counter()
    sides[-1]()
    first = time.perf_counter() - started

    def several(step: Callable[[], None]) -> Callable[[], object]:
        return lambda: [step() for _ in range(options.steps)]

    clock = time.process_time if options.device == "cpu" else time.perf_counter
    taken = seconds(*map(several, sides), rounds=options.rounds, device=options.device, clock=clock)
    eager, *others = (options.steps / each for each in taken)
    cells = [name if t == 1 else f"{name} at {t:g}", str(recipe.batch_size), precision, f"{eager:.2f}"]
    cells += [f"{rate:.2f} | {rate / eager:.2f}" for rate in others] + [f"{first:.0f}"] * options.compile
    print(f"| {' | '.join(cells)} |", flush=True)


def _sides(options: Options) -> list[str]:
    return ["eager"] + ["trained"] * options.trained + ["compiled"] * options.compile


def without_teacher(recipe: Recipe) -> Recipe:
    """CAT-RS alone has one, whose votes are forward passes and as many as one likes."""
    return recipe.replace(method=recipe.method.replace(teacher="")) if hasattr(recipe.method, "teacher") else recipe


def _stepper(recipe: Recipe, t: float, precision: str, device: str, side: str, stack: ExitStack) -> Callable[[], None]:
    """A step as the training loop makes it."""
    torch.manual_seed(0)
    info = INFOS[recipe.dataset]
    plain = zoo.build(recipe.arch, info).train()
    plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    fabric = start(Machine(accelerator=device, precision=precision), recipe.batch_size)
    if side == "compiled":
        check_compiler(plain, fabric.device)
    model, optimizer = fabric.setup(plain, recipe.optimizer.build(plain))
    if side != "eager":
        stack.enter_context(quick(plain))
    stack.enter_context(compiled(plain, side == "compiled"))
    x = torch.rand(recipe.batch_size, *info.shape, device=fabric.device)
    y = torch.randint(info.classes, (recipe.batch_size,), device=fabric.device)

    def step() -> None:
        recipe.method.before_step(plain, t)
        with fabric.autocast():
            loss = recipe.method.loss(model, x, y, t)
        optimizer.zero_grad()
        fabric.backward(loss)
        if recipe.clip:
            fabric.clip_gradients(model, optimizer, max_norm=recipe.clip)
        optimizer.step()

    return step


if __name__ == "__main__":
    main(tyro.cli(Options))
