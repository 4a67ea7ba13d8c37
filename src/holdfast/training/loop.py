"""The one training loop. It knows epochs, batches, devices and checkpoints; what is trained and how is the recipe's.

At the end, what a user sees of a training beside its result: what it is before, accuracies during it, what it was.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..core.recipe import Recipe
from ..data import Dataset, Images, load
from ..data.images import Mixture
from ..formats.opened import store_program
from ..machine import describe, end_with, kept_memory
from ..progress import Progress, clock, say
from ..runs import store
from .feed import Feed, full_size, workers_for
from .launch import Machine, first_process, mistake_of, start
from .network import Beginning, Checkpoint, check_compiler, compiled, quick, running_statistics, share_statistics

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    recipe: Recipe,
    name: str,
    runs: Path | str = "runs",
    machine: Machine | None = None,
    init: Path | str | None = None,
) -> Path:
    """Train by a recipe; killed and called again it continues from its last checkpoint.

    Args:
        recipe: what to train.
        name: of the run; its folder is runs/NAME-FINGERPRINT.
        runs: folder of all runs.
        machine: what it runs on; by default the best device there is.
        init: weights to start from, instead of random ones: a run folder or a file of weights. What they are, not where
            they lie, is part of the recorded settings and of the folder's name.

    Returns: the run folder, with run.json, model.safetensors, the program graph.json and metrics.csv.

    Raises:
        ValueError: a setting, the data, the machine or the weights do not fit, or the folder holds another run.
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(f"expected a recipe, such as holdfast.RECIPES['gaussian-mnist-0.50'], got {recipe!r:.80}")
    if not isinstance(name, str) or not re.fullmatch(r"[^/\\]+", name) or name in (".", ".."):
        raise ValueError(f"expected a name that a folder can have, got {name!r:.80}")
    if not isinstance(machine, Machine | None):
        raise ValueError(f"expected machine to be a Machine, got {machine!r:.80}")
    machine, begin = machine or Machine(), Beginning.read(init)
    folder = Path(runs) / f"{name.replace(':', '-')}-{begin.fingerprint(recipe)}"
    asked = {"recipe": recipe.to_dict()} | begin.asked()
    if (folder / "model.safetensors").exists():
        store.open_run(folder, asked, {})  # a fingerprint leaves out what was at its default then
        if first_process():
            say(_finished(folder, machine))
    else:
        _start(recipe, name, folder, machine, begin, asked)
    return folder


def _start(
    recipe: Recipe, name: str, folder: Path, machine: Machine, begin: Beginning, asked: Mapping[str, Any]
) -> None:
    """Check all that can be checked, then open the folder and train."""
    workers_for(machine.workers, machine.devices)
    fabric = start(machine, recipe.batch_size)
    data, shown = _training_set(recipe, machine)
    _try(recipe, data, begin)
    if machine.compile:
        check_compiler(begin.network(recipe.arch, data.info), fabric.device)
    facts = {"name": name, "data": dataclasses.asdict(data.info), "train_examples": len(data)} | begin.facts()
    _open(folder, asked, facts | {"train_checksums": _checksums(data)})
    held = store.lock(folder / LOCK, f"training {folder}") if fabric.is_global_zero else None
    settings = {"recipe": recipe, "begin": begin, "folder": folder, "data": data, "shown": shown}
    try:
        fabric.launch(partial(_follow, starter=os.getpid(), **settings, machine=machine))
    except Exception as error:
        store.discard(folder, {"run.json", "log.jsonl", LOCK})  # it never finished an epoch
        if mistake := mistake_of(error):
            raise mistake from error
        raise
    finally:
        if held:
            held.release()


def _open(folder: Path, asked: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Create the run folder, or make sure that it holds this training, begun on these images."""
    store.open_run(folder, asked, facts)
    told = store.read_run(folder).get("train_checksums", facts["train_checksums"])  # older versions kept none
    if told != facts["train_checksums"]:
        raise ValueError(
            f"the training images or labels changed since {folder} was started; bring the old ones back, or move that "
            "folder away to start a new one"
        )


def _checksums(data: Images | Mixture) -> list[dict[str, str]]:
    """Of the images to train on, and of extra ones; of a data set that stays encoded, SEEN images stand for all."""
    if isinstance(data, Mixture):
        return [*_checksums(data.real), *_checksums(data.extra)]
    count = len(data) if isinstance(data, Dataset) else min(SEEN, len(data))
    return [data.checksums(torch.linspace(0, len(data) - 1, count, dtype=torch.float64).long().tolist())]


LOCK = ".train.lock"
"""Of the process that trains into a folder; two would write the same checkpoints."""


def _try(recipe: Recipe, data: Images | Mixture, begin: Beginning) -> None:
    """The loss of two images: a method that cannot train this network fails here, before anything is written."""
    few = torch.arange(min(2, len(data)))
    recipe.method.loss(begin.network(recipe.arch, data.info), *data.batch(few), 0.0)


def _training_set(recipe: Recipe, machine: Machine) -> tuple[Images | Mixture, Dataset]:
    """The images to train on, without those that are held out and with extra ones, and those to show accuracy on."""
    data = load(recipe.dataset, "train", machine.data_dir, encoded=full_size(recipe))
    if recipe.held_out:
        held = data.every(recipe.held_out)
        data, shown = data.where(~held), _some(data.where(held), "held_out")
    else:
        shown = _some(data, "training")
    if not recipe.extra_data:
        return data, shown
    return Mixture(data, load(recipe.extra_data, "train", machine.data_dir), recipe.extra_ratio), shown


def _follow(fabric: Fabric, starter: int, **settings: Any) -> None:
    """Train, while the process lives that holds the lock."""
    end_with(starter)
    _train(fabric, **settings)


def _train(
    fabric: Fabric,
    recipe: Recipe,
    begin: Beginning,
    folder: Path,
    data: Images | Mixture,
    shown: Dataset,
    machine: Machine,
) -> None:
    torch.manual_seed(recipe.seed)
    plain = begin.network(recipe.arch, data.info)
    plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model, optimizer = fabric.setup(plain, recipe.optimizer.build(plain))
    data, shown = data.to(fabric.device), shown.to(fabric.device)
    feed = Feed(recipe, data, workers_for(machine.workers, machine.devices))
    checkpoint = Checkpoint(fabric, folder, plain, optimizer, machine.checkpoint_minutes)
    rows = checkpoint.resume()
    if fabric.is_global_zero:
        facts = {"epoch": len(rows), "processes": fabric.world_size, "precision": machine.precision}
        store.log(folder, event="train", **facts, compiled=machine.compile, **describe(fabric.device))
        say(_banner(recipe, folder, plain, len(data), shown, machine.told(fabric)) + begin.told())
    steps = -(-len(data) // recipe.batch_size) * (recipe.epochs - len(rows))
    whole = Progress("training", steps, visible=fabric.is_global_zero, foretell=True)
    with whole as progress, kept_memory(fabric.device), quick(plain), compiled(plain, machine.compile):
        for epoch in range(len(rows), recipe.epochs):
            state = (model, plain, optimizer, feed)
            rows.append(_epoch(fabric, recipe, *state, epoch, progress, checkpoint, machine.accumulate))
            if fabric.is_global_zero:
                rows[-1] |= _accuracies(fabric, recipe, plain, shown)
                progress.describe(f"training, {_told(rows[-1], shown)}")
                _save(folder, checkpoint)
    plain.eval()
    recipe.method.finish(plain, (data.pixels(part) for part in torch.arange(len(data)).split(recipe.batch_size)))
    if fabric.is_global_zero:
        _keep(folder, plain)
        reached, seconds = _accuracies(fabric, recipe, plain, shown), sum(row["seconds"] for row in rows)
        store.log(folder, event="trained", seconds=round(seconds, 1), **reached)
        say(f"trained in {clock(seconds)}: {_told(rows[-1] | reached, shown)}")
        checkpoint.remove()
    fabric.barrier()


def _keep(folder: Path, model: nn.Module) -> None:
    """Write the program and the weights, which come last: with them the run is finished."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    store_program(folder, weights)
    store.write_whole(folder / "model.safetensors", save(weights))


def _epoch(
    fabric: Fabric,
    recipe: Recipe,
    model: nn.Module,
    plain: nn.Module,
    optimizer: torch.optim.Optimizer,
    feed: Feed,
    epoch: int,
    progress: Progress,
    checkpoint: Checkpoint,
    parts: int = 1,
) -> dict[str, float]:
    """One pass over the data. Its randomness follows from (seed, epoch, process), so resuming needs no RNG state,
    except in the middle of it: see `Checkpoint`."""
    started, worked = time.perf_counter(), time.process_time()
    _begin(fabric, recipe, plain, epoch)
    order, kept = list(_batches(fabric, recipe, len(feed.data), epoch)), running_statistics(plain)
    losses = checkpoint.begun()
    progress.advance(done := len(losses))
    for step, (x, y) in enumerate(feed.batches(epoch, order[done:]), done):
        t = (epoch + step / len(order)) / recipe.epochs
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimizer.rate(t)
        recipe.method.before_step(plain, t)
        losses.append(_backward(fabric, recipe, model, optimizer, x, y, t, parts))
        if recipe.clip:
            fabric.clip_gradients(model, optimizer, max_norm=recipe.clip)
        optimizer.step()
        share_statistics(fabric, kept)
        progress.advance(1)
        checkpoint.after_step(losses)
    recipe.optimizer.after_epoch(getattr(optimizer, "optimizer", optimizer))  # what is inside of Fabric's wrapper
    mean = float(fabric.all_reduce(torch.stack(losses).float().mean()))  # pyright: ignore[reportArgumentType]
    if not np.isfinite(mean):
        raise ValueError(f"the loss became {mean} in epoch {epoch}; lower the learning rate or start with another seed")
    rate = recipe.optimizer.rate(epoch / recipe.epochs)
    return {"epoch": epoch, "loss": mean, "rate": rate, **_spent(fabric, started, worked)}


def _spent(fabric: Fabric, started: float, worked: float) -> dict[str, float]:
    """Seconds since then by the clock, and of the processor, in all processes of the training together."""
    seconds, own = time.perf_counter() - started, time.process_time() - worked
    of_all = fabric.all_reduce(torch.tensor(own, dtype=torch.float32), reduce_op="sum")
    return {"seconds": seconds, "processor_seconds": float(of_all)}  # pyright: ignore[reportArgumentType]


def _begin(fabric: Fabric, recipe: Recipe, plain: nn.Module, epoch: int) -> None:
    """Bring the network into training mode, in all processes with the same vectors for its power iteration; then each
    process draws numbers of its own."""
    torch.manual_seed(_derive(recipe.seed, epoch, 0))
    plain.train()  # not the wrapper around it, which would draw those vectors twice
    if fabric.global_rank:
        torch.manual_seed(_derive(recipe.seed, epoch, fabric.global_rank))


def _backward(
    fabric: Fabric,
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    t: float,
    parts: int,
) -> Tensor:
    """Set the gradients of the loss of a batch, part by part, each with its weight; that loss."""
    total = torch.zeros((), device=x.device)
    pairs = list(zip(x.chunk(parts), y.chunk(parts), strict=True))
    for number, (images, labels) in enumerate(pairs):
        with fabric.no_backward_sync(model, enabled=number + 1 < len(pairs)):  # pyright: ignore[reportArgumentType]
            with fabric.autocast():  # for what a method computes outside of `model`, such as an attack on the inner one
                loss = recipe.method.loss(model, images, labels, t) * (len(images) / len(x))
            if number == 0:
                optimizer.zero_grad()
            fabric.backward(loss)
        total += loss.detach()
    return total


def _batches(fabric: Fabric, recipe: Recipe, examples: int, epoch: int) -> Iterator[Tensor]:
    """This process's part of every batch; the order of the images is the same in all processes.

    Parts are equally large: of a last batch that the processes do not divide, the remainder is left out of the epoch.
    """
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(_derive(recipe.seed, epoch)))
    for batch in order.to(fabric.device).split(recipe.batch_size):
        equal = len(batch) // fabric.world_size * fabric.world_size
        if equal:
            yield batch[:equal][fabric.global_rank :: fabric.world_size]


def _derive(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _save(folder: Path, checkpoint: Checkpoint) -> None:
    checkpoint.write()
    rows = checkpoint.rows
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    store.write_whole(folder / "metrics.csv", text.getvalue().encode())


SEEN = 1000
"""Images that accuracy is shown on."""


def _some(data: Images, split: str) -> Dataset:
    """At most SEEN images, spread evenly over the data set, in memory."""
    chosen = torch.linspace(0, len(data) - 1, min(SEEN, len(data))).long()
    return data.take(chosen, split)


def _banner(recipe: Recipe, folder: Path, model: nn.Module, examples: int, shown: Dataset, machine: str) -> str:
    """What is going to be trained, on what, and where it goes."""
    data, parameters = shown.info, sum(parameter.numel() for parameter in model.parameters())
    held = f", every {recipe.held_out}th of each class held out" if recipe.held_out else ""
    extra = f", and {recipe.extra_ratio:g} of {recipe.extra_data} for each of them" if recipe.extra_data else ""
    size = "x".join(map(str, data.shape))
    steps = -(-examples // recipe.batch_size)
    return (
        f"data     {data.name}: {examples:,} training images of {size} in {data.classes} classes{held}{extra}\n"
        f"network  {recipe.arch}: {parameters:,} parameters\n"
        f"method   {recipe.method}\n"
        f"epochs   {recipe.epochs}, of {steps:,} steps with {recipe.batch_size} images each\n"
        f"machine  {machine}\n"
        f"folder   {folder}"
    )


@torch.no_grad()
def _accuracies(fabric: Fabric, recipe: Recipe, model: nn.Module, shown: Dataset) -> dict[str, float]:
    """The share of the shown images that are classified correctly, plainly and, where the method has noise, under it.

    Leaves the model in eval mode. Nothing that the training draws its random numbers from is touched: the noise has a
    generator of its own, and is the same in every epoch.

    Args:
        model: the plain one, not what training wraps around it; one process evaluates it alone.
        shown: images on the device of the model, with what they are as their split.
    """
    model.eval()
    if not recipe.method.classifies:
        return {}
    generator = torch.Generator(fabric.device).manual_seed(0)
    dtype = next(model.parameters()).dtype
    right, noisy = 0, None
    for part in torch.arange(len(shown), device=fabric.device).split(recipe.batch_size):
        x, y = shown.batch(part)
        with fabric.autocast():
            right += int((model(x.to(dtype)).argmax(1) == y).sum())
            logits = recipe.method.noisy(model, x.to(dtype), generator)
        if logits is not None:
            noisy = (noisy or 0) + int((logits.argmax(1) == y).sum())
    name = f"{shown.split}_accuracy"
    return {name: right / len(shown)} | ({} if noisy is None else {f"noisy_{name}": noisy / len(shown)})


def _told(row: dict[str, float], shown: Dataset) -> str:
    """An epoch of metrics.csv in words."""
    name = f"{shown.split}_accuracy"
    if name not in row:
        return f"loss {row['loss']:.4f}"
    noisy = f", {100 * row[f'noisy_{name}']:.1f} % with noise" if f"noisy_{name}" in row else ""
    images = f"{len(shown):,} {shown.split.replace('_', '-')} images"
    return f"loss {row['loss']:.4f}, accuracy {100 * row[name]:.1f} %{noisy}, on {images}"


def _finished(folder: Path, machine: Machine) -> str:
    """What a finished run was trained with, and which of the settings asked for now it therefore does not have."""
    device = {"auto": None, "cuda": None, "gpu": None}.get(machine.accelerator, machine.accelerator)
    processes, fast = machine.devices * machine.nodes, machine.compile or None  # None: anything will do
    asked = {"precision": machine.precision, "processes": processes, "device": device, "compiled": fast}
    starts = [entry for entry in store.entries(folder) if entry.get("event") == "train"]
    had = {name: list(dict.fromkeys(str(start.get(name, "?")) for start in starts)) for name in asked}
    with_what = ", ".join(f"{name} {' then '.join(values) or '?'}" for name, values in had.items())
    text = f"{folder} is finished; it was trained with {with_what}"
    other = [f"{name} {value}" for name, value in asked.items() if value is not None and had[name] != [str(value)]]
    if other:
        text += f"\nasked for now: {', '.join(other)}. That trains nothing; to train anew, say --runs OTHER-FOLDER"
    return text
