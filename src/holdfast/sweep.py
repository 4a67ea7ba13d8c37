"""Many runs by one command: recipes, seeds and other values of their fields; each is trained and certified.

What a folder holds already is not done again, and what was stopped continues. Runs share nothing, so that one which
fails leaves the others alone.
"""

from __future__ import annotations

import csv
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from .certification.run import prepare
from .certification.runtime import default_batch_size, seconds_per_image
from .certification.task import Certification
from .core.certifier import Certifier
from .core.recipe import Recipe
from .core.registry import RECIPES, unknown
from .data import Images, default_split, load
from .machine import choose, end_with
from .nn import zoo
from .opening import Source
from .runs import store
from .runs.records import count_records
from .training.launch import Machine
from .training.loop import train

FEW = 32
"""Images, at most, of the step that is timed to tell what a training will take."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """Of the recipe that it comes from."""
    recipe: Recipe
    certifier: Certifier
    runs: Path
    """Folder of all runs."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What `holdfast.certification.run.prepare` is told besides: split, every, limit, ..."""

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.runs / f"{self.name.replace(':', '-')}-{self.recipe.fingerprint()}"

    def trained(self) -> bool:
        """Whether the training is finished."""
        return (self.folder / "model.safetensors").exists()

    def certified(self) -> bool:
        """Whether all examples are certified by these settings."""
        wanted = _task(self).to_dict() | {"model": None}
        for path in self.folder.glob("certify-*/run.json"):
            facts = store.read_run(path.parent)
            alike = (facts.get("certification") or {}) | {"model": None} == wanted
            if alike and count_records(path.parent) == facts.get("total"):
                return True
        return False

    def missing(self) -> str:
        """What there is to do, in words; empty where there is nothing."""
        if not self.trained():
            begun = (self.folder / "metrics.csv").exists()
            return "continue, certify" if begun else "train, certify"
        return "" if self.certified() else "certify"

    def work(self, machine: Machine) -> Path:
        """Do what is missing; the run folder."""
        folder = train(self.recipe, self.name, self.runs, machine)
        device = {"gpu": "cuda"}.get(machine.accelerator, machine.accelerator)
        settings = {"device": device, "data_dir": machine.data_dir} | dict(self.settings)
        prepare(Source(str(folder)), self.recipe.dataset, self.certifier, **settings).run()
        return folder


def _task(cell: Cell) -> Certification:
    names = ("split", "every", "start", "limit", "seed", "precision")
    chosen = {name: cell.settings[name] for name in names if cell.settings.get(name)}
    chosen.setdefault("split", default_split(cell.recipe.dataset, cell.settings.get("data_dir")))
    return Certification(cell.certifier, "", cell.recipe.dataset, **chosen)


def named(word: str, sigmas: Sequence[float]) -> list[str]:
    """The recipes that a word stands for: itself, or one for each sigma, as smoothmix-mnist for smoothmix-mnist-0.25.

    Args:
        sigmas: those that were asked for; none: all that there are.

    Raises:
        ValueError: there is none; the nearest names are suggested.
    """
    if word in RECIPES and not sigmas:
        return [word]
    wanted = [f"{word}-{sigma:.2f}" for sigma in sigmas] or [n for n in RECIPES if _stem(n) == word]
    absent = [name for name in wanted if name not in RECIPES]
    if absent or not wanted:
        families = {stem for name in RECIPES if (stem := _stem(name))}
        raise unknown("recipe", (absent or [word])[0], {*RECIPES, *families}, "holdfast list recipes")
    return wanted


def _stem(name: str) -> str:
    """A name without the sigma at its end; empty where it has none."""
    stem, _, last = name.rpartition("-")
    left, _, right = last.partition(".")
    return stem if left.isdigit() and len(right) == 2 and right.isdigit() else ""


def grid(values: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Every combination of values of options, as arguments; a value with commas becomes several."""
    for chosen in itertools.product(*values.values()):
        yield [word for name, value in zip(values, chosen, strict=True) for word in (name, *value.split(","))]


@dataclass(frozen=True)
class Cost:
    """Seconds on one device, by a measured step; certification at most."""

    training: float
    certifying: float


def cost(cell: Cell, machine: Machine) -> Cost:
    """What is left of a run.

    Raises:
        ValueError: the recipe cannot be trained here, or needs another run first.
        FileNotFoundError: its data is not here.
    """
    device = choose({"gpu": "cuda"}.get(machine.accelerator, machine.accelerator))
    recipe, task = cell.recipe, _task(cell)
    data = _loaded(recipe.dataset, "train", machine.data_dir)
    test = _loaded(recipe.dataset, task.split, machine.data_dir)
    step, forward = _measured(recipe.replace(seed=0), machine.data_dir, device.type)
    left = 0 if cell.trained() else recipe.epochs - _epochs_done(cell.folder)
    samples = len(task.indices(len(test))) * cell.certifier.samples()
    return Cost(left * len(data) * step, 0.0 if cell.certified() else samples * forward)


@cache
def _loaded(name: str, split: str, data_dir: Path | None) -> Images:
    return load(name, split, data_dir)


@cache
def _measured(recipe: Recipe, data_dir: Path | None, device: str) -> tuple[float, float]:
    """Seconds for an image in a step of training, and in a forward pass."""
    data = _loaded(recipe.dataset, "train", data_dir)
    network = zoo.build(recipe.arch, data.info).to(device)
    optimizer = recipe.optimizer.build(network)
    x, y = (part.to(device) for part in data.batch(torch.arange(min(FEW, recipe.batch_size, len(data)))))
    started = time.perf_counter()
    for once in range(3):
        if once == 1:  # the first step is slower than all that follow
            started = time.perf_counter()
        recipe.method.before_step(network, 0.0)
        loss = recipe.method.loss(network.train(), x, y, 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss.detach())
    step = (time.perf_counter() - started) / 2 / len(x)
    forward = seconds_per_image(network.eval(), x[0], min(FEW, default_batch_size(torch.device(device))))
    return step, forward


def _epochs_done(folder: Path) -> int:
    path = folder / "metrics.csv"
    return len(list(csv.DictReader(path.read_text().splitlines()))) if path.exists() else 0


def devices_here(machine: Machine) -> int:
    """Runs at a time: one for each GPU, one on a CPU."""
    device = choose({"gpu": "cuda"}.get(machine.accelerator, machine.accelerator))
    return max(1, torch.cuda.device_count()) if device.type == "cuda" else 1


def run(cells: Sequence[Cell], machine: Machine, at_once: int) -> Iterator[tuple[Cell, Exception | None]]:
    """Do what is missing of every run; each as soon as it is done, with what went wrong if anything did.

    Args:
        at_once: runs at a time, each in a process of its own, on a GPU of its own where there are GPUs.
    """
    if at_once == 1:
        for cell in cells:
            yield cell, _attempt(cell, machine)
        return
    context = get_context("spawn")
    free = context.Queue()
    for place in gpus_for(at_once, os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()):
        free.put(place)
    threads = max(1, torch.get_num_threads() // at_once)
    begin = (os.getpid(), free, threads)
    with ProcessPoolExecutor(at_once, context, initializer=_begin, initargs=begin) as pool:
        working = {pool.submit(_quietly, cell, machine): cell for cell in cells}
        for done in as_completed(working):
            yield working[done], done.result()


def gpus_for(processes: int, visible: str | None, count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is to be for each of several processes, in turn; empty where there is no GPU.

    Args:
        visible: what it is for this process.
        count: GPUs that this process can see.
    """
    seen = visible.split(",")[:count] if visible else [str(place) for place in range(count)]
    return [seen[place % len(seen)] if seen else "" for place in range(processes)]


def _begin(starter: int, free: Any, threads: int) -> None:
    """A process sees one GPU, before it looks at any."""
    end_with(starter)
    os.environ["CUDA_VISIBLE_DEVICES"] = free.get()
    torch.set_num_threads(threads)


def _quietly(cell: Cell, machine: Machine) -> Exception | None:
    """Bars of several processes would tear each other."""
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        error = _attempt(cell, replace(machine, devices=1))
    return None if error is None else ValueError(str(error))  # whatever it was, it can be sent


def _attempt(cell: Cell, machine: Machine) -> Exception | None:
    try:
        cell.work(machine)
    except (ValueError, OSError) as error:
        return error
    return None
