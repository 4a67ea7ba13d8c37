"""The day a GPU is there: everything that waits for one, in order of worth, in pieces of so many minutes.

    python benchmarks/gpu/run.py --out gpu-results --minutes 9

Run it again until it says that all is done: what is done is not done twice, and a training goes on where it was
stopped. What it needs: README.md. `--toy` takes tiny sizes, for a CPU.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import tyro

HERE = Path(__file__).resolve().parent
LEAST = 20.0
"""Seconds that must be left to begin something."""


@dataclass
class Options:
    """What waits for a GPU."""

    out: Path = Path("gpu-results")
    """Folder of the results: NAME.json of what is done, NAME.txt of what it printed, and runs."""
    minutes: float = 9.0
    """After which everything is stopped, by SIGTERM and Ctrl-C too."""
    only: tuple[str, ...] = ()
    """Names, or how they begin, of what to run; all by default."""
    device: str = "cuda"
    data_dir: Path | None = None
    """Where data sets lie; trainings need the training images of theirs, timings need none."""
    toy: bool = False
    """Tiny sizes: does it run at all?"""


@dataclass(frozen=True)
class Item:
    """One command; it is done when it ends with 0."""

    name: str
    command: tuple[str, ...]
    resumes: bool = False
    """Started again it goes on where it was stopped; else it begins anew."""


@dataclass(frozen=True)
class Training:
    """A recipe, the options of its training in full and as a toy, and the certificate of what comes out."""

    recipe: str
    toy: str
    certifier: tuple[str, ...]
    full: tuple[str, ...] = ("--precision", "bf16-mixed")
    changes: tuple[str, ...] = field(default=("--epochs", "1"))


SAMPLED = ("adaptive", "--every", "20", "--precision", "bf16-true")
TRAININGS = (
    Training("gaussian-cifar10-0.50", "gaussian-digits-0.25", SAMPLED),
    Training("smoothmix-cifar10-0.50", "smoothmix-digits-0.25", SAMPLED),
    Training("emma-cifar10", "emma-digits", ("margin",), ("--precision", "32-true")),
    Training("linf-dist-mnist-0.3", "linf-dist-digits-0.1", ("linf-box",), ("--precision", "32-true")),
)
METHODS = ("gaussian", "stability", "consistency", "macer", "smoothadv", "smoothadv-consistency", "smoothmix", "cat-rs")


def items(options: Options) -> Iterator[Item]:
    """All there is, in order."""
    toy, device = options.toy, ("--device", options.device)
    few = ("--rounds", "1") if toy else ()
    yield _script("noise", "noise.py", *device, *few, *(("--batch", "2", "--images", "MNIST") if toy else ()))
    small = ("--batch", "4", "--sizes", "9", "5")
    yield _script("linf", "gpu/linf_limit.py", *device, *few, *(small if toy else ()))
    yield _script("norms", "lipschitz.py", "bound", "--arch", _arch("liresnet-small", toy), *device)
    archs = ("lenet",) if toy else ("resnet110", "resnet50")
    less = ("--batches", "16") if toy else ()
    yield _script("throughput", "certification.py", "throughput", *device, *few, *less, "--archs", *archs)
    yield _script("proof", "lipschitz.py", "bound", "--arch", _arch("liresnet-12x512", toy), *device)
    recipes = ("gaussian-digits-0.25",) if toy else tuple(f"{name}-cifar10-0.50" for name in METHODS)
    more = ("--steps", "1", "--no-compile") if toy else ("--steps", "10")
    for recipe in recipes:  # each by itself: compiling takes minutes, and what is stopped begins anew
        for precision in ("32-true",) if toy else ("32-true", "bf16-mixed"):
            name = f"steps-{recipe}-{precision}"
            yield _script(name, "steps.py", *device, *few, *more, "--precisions", precision, "--recipes", recipe)
    others = () if toy else ("emma-cifar10", "gloro-cifar10-36", "linf-dist-mnist-0.3", "splitz-mnist-0.50")
    for recipe in others:
        times = ("--times", "0", "0.5", "1") if recipe.startswith("linf") else ()
        yield _script(f"steps-{recipe}", "steps.py", *device, "--no-compile", *times, "--recipes", recipe)
    for training in TRAININGS:
        yield from _trained(training, options)


def _arch(name: str, toy: bool) -> str:
    return "gloro-2c2f" if toy else name


def _script(name: str, path: str, *arguments: str) -> Item:
    return Item(name, (sys.executable, str(HERE.parent / path), *arguments))


def _trained(training: Training, options: Options) -> Iterator[Item]:
    """A training, and its certificate as soon as there is a model."""
    recipe = training.toy if options.toy else training.recipe
    runs = options.out / "runs"
    data = ("--data-dir", str(options.data_dir)) if options.data_dir else ()
    holdfast = (sys.executable, "-m", "holdfast")
    kind = training.changes if options.toy else training.full
    machine = ("--accelerator", options.device, "--checkpoint-minutes", "2", "--runs", str(runs), *data)
    yield Item(f"train-{recipe}", (*holdfast, "train", recipe, *kind, *machine), resumes=True)
    for model in sorted(runs.glob(f"{recipe}-*/model.safetensors")):
        few = ("--limit", "2") if options.toy else ()
        more = ("--device", options.device, *few, *data)
        command = (*holdfast, "certify", str(model.parent), *training.certifier, *more)
        yield Item(f"certify-{recipe}", command, resumes=True)


def main(options: Options) -> int:
    """Run what is not done yet until the time is up; how many are left."""
    options.out.mkdir(parents=True, exist_ok=True)
    until, left = time.monotonic() + 60 * options.minutes, []
    for item in items(options):
        if options.only and not item.name.startswith(options.only):
            continue
        if (options.out / f"{item.name}.json").exists():
            print(f"== {item.name}: done before", flush=True)
        elif until - time.monotonic() < LEAST or not run(item, options.out, until):
            left.append(item.name)
    print(f"\nleft: {', '.join(left)}; run this again" if left else "\nall done", flush=True)
    return len(left)


def run(item: Item, out: Path, until: float) -> bool:
    """Whether it was done before the time was up; what it printed is shown, and kept."""
    print(f"\n== {item.name}: {' '.join(item.command)}", flush=True)
    path, started = out / f"{item.name}.txt", time.monotonic()
    with path.open("w") as printed:
        process = subprocess.Popen(item.command, stdout=printed, stderr=subprocess.STDOUT, text=True)
        try:
            code = process.wait(max(0.0, until - started))
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            process.kill()  # a training is made for it: it continues from its last checkpoint
            process.wait()
            if isinstance(error, KeyboardInterrupt):
                raise
            code = None
    seconds, text = time.monotonic() - started, path.read_text()
    print(text if code == 0 else "\n".join(text.splitlines()[-5:]), flush=True)
    told = "time is up" + (", goes on next time" if item.resumes else "") if code is None else f"ended with {code}"
    print(f"== {item.name}: {'done' if code == 0 else told}, {seconds:.0f} s", flush=True)
    if code == 0:
        found = {"command": item.command, "seconds": seconds, "time": time.strftime("%F %T"), "tables": tables(text)}
        whole = out / f"{item.name}.json.part"
        whole.write_text(json.dumps(found, indent=1))
        whole.replace(out / f"{item.name}.json")
    return code == 0


def tables(text: str) -> list[dict[str, str]]:
    """The rows of all tables in a text, each by the names of its columns."""
    rows: list[dict[str, str]] = []
    head: list[str] = []
    for line, below in pairwise([*text.splitlines(), ""]):
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if not line.startswith("|"):
            head = []
        elif below.startswith("|---"):
            head = cells
        elif head and not line.startswith("|---"):
            rows.append(dict(zip(head, cells, strict=False)))
    return rows


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what runs is stopped, too
    sys.exit(1 if main(tyro.cli(Options)) else 0)
