"""Every recipe on its own architecture and shape: built, two steps, one image certified; a file for each.

    python tests/recipe_steps.py LOGS                  # all recipes that have no file in LOGS yet, one after the other
    python tests/recipe_steps.py LOGS --seconds 2 2    # for a machine with little time: smaller batches
    python tests/recipe_steps.py LOGS --table          # what is there

Batches are the published ones where a step of them fits into `MEMORY` and `SECONDS`, see `affordable`; images are
random. Each recipe has a process of its own, so that its memory is given back and its failure stops no other. Recipes
of one `LARGE` architecture, data set and certifier share the proof of the first of them.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import re
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.certification.images import certify
from holdfast.certifiers.linf_box import LInfBox
from holdfast.core.recipe import DataInfo, Method, Recipe
from holdfast.core.registry import RECIPES
from holdfast.core.threat import l2
from holdfast.methods.denoise import Denoise
from holdfast.nn import zoo
from holdfast.nn.denoised import Denoised
from holdfast.nn.linf.layers import GROUP, distance_layers

MEMORY = 6.0
"""GiB that a process may take."""
SECONDS = 15.0, 2.0
"""Of the processor, for what one step does with its images: in the first of recipes that are alike, in the others."""
LONGEST = 1500
"""Seconds of the processor after which a recipe is stopped."""
LARGE = re.compile("5120x|12x|18x")
"""Architectures whose weights or proofs take minutes."""
GIB = 2**30
CLASSIFIERS = {"mnist": "lenet", "cifar10": "resnet110"}
"""What a denoiser learns to please, with random weights."""

SHAPES = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "mnist-5k": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "tiny-imagenet": ((3, 64, 64), 200),
    "tiny-imagenet@56/64": ((3, 56, 56), 200),
    "imagenet": ((3, 224, 224), 1000),
    "imagenet@64": ((3, 64, 64), 1000),
}


def info(dataset: str) -> DataInfo:
    """Of a data set, which need not be there."""
    shape, classes = SHAPES[dataset]
    return DataInfo(dataset, shape, classes, (0.5,) * shape[0], (0.25,) * shape[0])


class Kept:
    """Counts the bytes that backward passes keep, each storage once, and their peak."""

    def __init__(self) -> None:
        self.users: Counter[int] = Counter()
        self.now = self.peak = 0

    def pack(self, value: Tensor) -> "_Held":
        return _Held(self, value)


class _Held:
    def __init__(self, kept: Kept, value: Tensor) -> None:
        self.kept, self.value = kept, value
        self.storage, self.size = value.untyped_storage().data_ptr(), value.untyped_storage().nbytes()
        if not kept.users[self.storage]:
            kept.now += self.size
            kept.peak = max(kept.peak, kept.now)
        kept.users[self.storage] += 1

    def __del__(self) -> None:
        self.kept.users[self.storage] -= 1
        if not self.kept.users[self.storage]:
            self.kept.now -= self.size


def step(recipe: Recipe, network: nn.Module, batch: int, t: float) -> float:
    """The loss of random images and its gradients; returns the loss."""
    shape, classes = SHAPES[recipe.dataset]
    x, y = torch.rand(batch, *shape), torch.arange(batch) % classes
    network.train()
    recipe.method.before_step(network, t)
    loss = recipe.method.loss(network, x, y, t)
    for weight in network.parameters():
        weight.grad = None
    loss.backward()
    return float(loss.detach())


def affordable(recipe: Recipe, network: nn.Module, limits: tuple[float, ...]) -> list[tuple[int, str]]:
    """For each limit of seconds: the published batch size, or the largest power of two that fits, and what is short.

    Two small batches tell what an image more costs in bytes that are kept for the backward pass. Its seconds of the
    processor are its share of the larger one, which is more than in a large batch. A half of those bytes comes on top,
    for values that an operation needs while it runs (ResNet-50 takes 104 MiB an image where 80 are kept); besides,
    weights, gradients, two moments and 1 GiB of libraries.
    """
    few = GROUP if distance_layers(network) else 2  # sorted neurons draw inputs for every group
    costs: list[tuple[int, float]] = []
    if distance_layers(network):
        step(recipe, network, few, 0.6)  # compiles
    for images in (few, 2 * few):
        if costs and costs[0][1] >= max(limits):
            return [(few, "time")] * len(limits)
        kept, started = Kept(), time.process_time()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.value):
            step(recipe, network, images, 0.6)
        costs.append((kept.peak, time.process_time() - started))
    size, seconds = (costs[1][0] - costs[0][0]) / few, costs[1][1] / (2 * few)
    weights = 4 * sum(4 * weight.numel() for weight in network.parameters())
    fits = (MEMORY * GIB - GIB - weights) / max(1.5 * size, 1)
    found = []
    for limit in limits:
        most, short = min((fits, "memory"), (limit / max(seconds, 1e-6), "time"))
        enough = most >= recipe.batch_size
        found.append((recipe.batch_size, "") if enough else (2 ** int(math.log2(max(most, 2))), short))
    return found


def _alike(recipe: Recipe) -> str:
    """Names what a step costs: the recipes of one method that differ in sigma, epsilon or a weight cost the same."""
    method = recipe.method
    counts = [(key, value) for key, value in vars(method).items() if isinstance(value, bool | int | str)]
    inner = [type(value).__name__ for value in vars(method).values() if isinstance(value, Method)]
    return repr((type(method).__name__, counts, inner, recipe.arch, recipe.dataset, recipe.batch_size))


def take_steps(recipe: Recipe, folder: Path, limits: tuple[float, ...]) -> tuple[nn.Module, dict[str, Any]]:
    """Build, choose the batch size, take two steps; the network as it is certified, and the facts."""
    torch.manual_seed(0)
    network = zoo.build(recipe.arch, info(recipe.dataset))
    known = folder / "batches" / hashlib.sha256(_alike(recipe).encode()).hexdigest()
    if known.exists():
        batch, short = json.loads(known.read_text())
    else:
        (batch, short), more = affordable(recipe, network, limits)
        known.parent.mkdir(exist_ok=True)
        known.write_text(json.dumps(more))
    optimizer, losses, started = recipe.optimizer.build(network), [], time.process_time()
    for t in (0.0, 0.6):
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimizer.rate(max(t, 0.1))
        losses.append(step(recipe, network, batch, t))
        if recipe.clip:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
    recipe.optimizer.after_epoch(optimizer)
    recipe.method.before_step(network, 1.0)
    if not all(math.isfinite(loss) for loss in losses):
        raise ValueError(f"expected finite losses, got {losses}")
    facts = {"batch": batch, "published": recipe.batch_size, "short": short, "losses": losses}
    return network, facts | {"steps_s": round(time.process_time() - started, 1)}


def certify_one(recipe: Recipe, network: nn.Module) -> float:
    """The radius of a random image: with few samples, or as the recipe's certifier proves it."""
    x = torch.rand(1, *SHAPES[recipe.dataset][0], generator=torch.Generator().manual_seed(1))
    if not recipe.method.classifies:  # a denoiser is certified in front of a classifier
        network = Denoised(network, nn.Sequential(nn.Flatten(), nn.Linear(x.numel(), 10)))
    certifier = recipe.method.certifier()
    if certifier.sampling is not None:
        certifier = certifier.with_sampling(certifier.sampling.replace(n0=4, n=8, alpha=0.4))
    if isinstance(certifier, LInfBox):
        certifier = certifier.replace(steps=4)
    (found,) = certify(network.eval(), x, certifier, seed=0, batch_size=8)
    if not 0 <= found.radius <= l2.diameter(x.numel()):
        raise ValueError(f"expected a radius within the cube, got {found.radius}")
    return found.radius


def run(name: str, folder: Path, limits: tuple[float, ...] = SECONDS) -> dict[str, Any]:
    """What came of a recipe in a process of its own, which writes to `folder`: its facts, or its error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["holdfast.certification.driver", "holdfast.nn.denoised", "holdfast.nn.linf.layers"])
    process = context.Process(target=_run, args=(name, folder, limits))
    process.start()
    process.join()
    path = folder / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {"recipe": name}
    if process.exitcode:
        found.setdefault("error", f"the process ended with {process.exitcode}")
        path.write_text(json.dumps(found))
    return found


def _run(name: str, folder: Path, limits: tuple[float, ...]) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
    recipe = _without_other_runs(RECIPES[name])
    found: dict[str, Any] = {"recipe": name, "arch": recipe.arch, "dataset": recipe.dataset}
    try:
        network, facts = take_steps(recipe, folder, limits)
        _write(folder, found := found | facts)  # lest a proof that never ends loses the steps
        if other := proven(recipe, folder):
            found["as"] = other
        else:
            started = time.process_time()
            found |= {"radius": certify_one(recipe, network), "certify_s": round(time.process_time() - started, 1)}
    except Exception:
        found["error"] = traceback.format_exc()
    _write(folder, found)
    if "error" in found:
        sys.exit(1)


def proven(recipe: Recipe, folder: Path) -> str | None:
    """The recipe with the same large architecture, data set and certifier whose network has been certified."""
    if not LARGE.search(recipe.arch):
        return None
    wanted = recipe.arch, recipe.dataset, recipe.method.certifier()
    for name, other in RECIPES.items():
        path = folder / f"{name}.json"
        certified = path.exists() and "radius" in json.loads(path.read_text())
        if certified and wanted == (other.arch, other.dataset, other.method.certifier()):
            return name
    return None


def _without_other_runs(recipe: Recipe) -> Recipe:
    """No teacher; and a random network for the classifier that a denoiser is trained for."""
    if getattr(recipe.method, "teacher", ""):
        return recipe.replace(method=recipe.method.replace(teacher=""))
    if isinstance(recipe.method, Denoise) and recipe.method.objective == "stability":
        frozen = zoo.build(CLASSIFIERS[recipe.dataset], info(recipe.dataset)).eval().requires_grad_(False)
        vars(recipe.method)["_frozen"] = frozen  # what the cached property would open
    return recipe


def _write(folder: Path, found: dict[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    whole = found | {"seconds": round(time.process_time(), 1), "peak_gib": round(peak, 2)}
    (folder / f"{found['recipe']}.json").write_text(json.dumps(whole))


def table(folder: Path) -> str:
    """A line for every recipe, those that have not run last, and what they come to."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines = [f"{'recipe':<38} {'batch':>5} {'of':>5} {'short of':<8} {'s':>7} {'GiB':>5}  radius"]
    for one in found:
        batch, published, short = one.get("batch", "-"), one.get("published", "-"), one.get("short", "")
        proof = f"as {one['as']}" if "as" in one else f"{one.get('radius', math.nan):.4g}"
        result = "ERROR" if "error" in one else proof
        cost = f"{one.get('seconds', math.nan):>7} {one.get('peak_gib', math.nan):>5}"
        lines.append(f"{one['recipe']:<38} {batch:>5} {published:>5} {short:<8} {cost}  {result}")
    missing = [name for name in RECIPES if name not in {one["recipe"] for one in found}]
    lines += [f"{name:<38} {'-':>5} {'-':>5} {'':<8} {'-':>7} {'-':>5}  not tried" for name in missing]
    whole = [one for one in found if "radius" in one or "as" in one]
    shared = sum("as" in one for one in whole)
    full = sum(one["batch"] == one["published"] for one in whole)
    seconds = sum(one.get("seconds", 0) for one in found)
    peak = max((one.get("peak_gib", 0) for one in found), default=0)
    lines.append(
        f"{len(whole)} of {len(RECIPES)} recipes, {full} at the published batch size, "
        f"{shared} with the proof of another; {seconds / 60:.0f} minutes of the processor; largest memory {peak} GiB"
    )
    return "\n".join(lines)


def ended(name: str, folder: Path) -> bool:
    """Whether a recipe was certified or failed; one that was stopped between its steps and its proof begins anew."""
    path = folder / f"{name}.json"
    return path.exists() and not {"radius", "as", "error"}.isdisjoint(json.loads(path.read_text()))


def in_order() -> list[str]:
    """All recipes: one of each that are alike first, the small ones before the large, those of `LARGE` last."""
    sizes = {name: math.prod(info(recipe.dataset).shape) for name, recipe in RECIPES.items()}
    seen: Counter[str] = Counter()
    ranks: dict[str, int] = {}
    for name in sorted(RECIPES, key=lambda name: (sizes[name], name)):
        ranks[name] = seen[_alike(RECIPES[name])]
        seen[_alike(RECIPES[name])] += 1
    large = {name: LARGE.search(recipe.arch) is not None for name, recipe in RECIPES.items()}
    return sorted(ranks, key=lambda name: (ranks[name] > 0, large[name], sizes[name], name))


def main() -> None:
    """Run what has no file yet, one of each kind first, and those of small data; or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", nargs="*", choices=list(RECIPES), metavar="RECIPE", help="these, in this order")
    parser.add_argument("--seconds", type=float, nargs=2, default=SECONDS, help="of a step: see SECONDS")
    options = parser.parse_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    if options.table:
        print(table(options.logs))
        return
    for name in [name for name in options.only or in_order() if not ended(name, options.logs)]:
        found = run(name, options.logs, tuple(options.seconds))
        print(name, {key: value for key, value in found.items() if key not in ("recipe", "arch", "losses")}, flush=True)


if __name__ == "__main__":
    main()
