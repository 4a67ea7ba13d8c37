"""Attack a run: inside its certified balls, where nothing may be found, and at a radius of choice."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclass
class Options:
    """Gradient attacks in the norm of the certificates; of a smoothed classifier, on its expectation over noise."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(at least one)")]
    """Folders of trained runs, or a folder of such folders."""
    epsilon: float
    """Besides its certified radius, attack every image at this one, in pixel units."""
    split: str = ""
    """Split of the run's data set; default: its test split."""
    limit: int = 1000
    """Attack the first so many images."""
    steps: int = 40
    """Gradient steps of each attack."""
    batch_size: int = 250
    """Images in one forward pass."""
    seed: int = 0
    """Seed of the starts of the attacks on an l-inf-distance network, and of noise."""
    copies: int = 16
    """Of a smoothed classifier: noisy copies in each step of the attack."""
    n: int = 1000
    """Of a smoothed classifier: noise samples that decide each of its answers."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""


def main(args: list[str]) -> None:
    """holdfast attack RUN... --epsilon E [options]; exit status 1 if a certificate is broken."""
    from ._runs import attempt, conclude, expand
    from ._words import options as known
    from ._words import split

    words, rest = split(args, known(Options((), 0.0)))
    options = tyro.cli(Options, args=[*words, *rest], prog="holdfast attack")
    if not options.runs:
        raise ValueError("expected at least one run folder, as in: holdfast attack runs/NAME --epsilon 0.3")
    runs = expand(options.runs)
    broken, left = attempt(runs, lambda run: _attack(run, options))
    conclude(runs, left)
    if any(broken.values()):
        sys.exit(1)


def _attack(run: Path, options: Options) -> int:
    """Attack, and tell what was found; how many certificates were broken."""
    from ..certification.attack import attack_run
    from ..core.registry import trusted
    from ..formats.trained import layers_of
    from ..opening import load, recipe_of

    recipe = recipe_of(run)
    names = ("split", "limit", "steps", "batch_size", "seed", "copies", "n", "device", "data_dir")
    settings = {name: getattr(options, name) for name in names}
    settings["layers"] = layers_of(run)
    certifier = recipe.method.certifier()
    found, path = attack_run(load(run), trusted(recipe.dataset), certifier, options.epsilon, run, **settings)
    fewer = not found.certified and certifier.drawing is not None
    hint = f"\nNone of these images is certified; first: holdfast certify {run}" if fewer else ""
    Console(soft_wrap=True, highlight=False).print(
        f"{found.certified:,} of {found.total:,} images certified; inside their radii {found.broken:,} were broken\n"
        f"at {options.epsilon:g}: {100 * found.proven / found.total:.2f} % proven, "
        f"{100 * found.standing / found.total:.2f} % right under attack; the truth lies between{hint}\nwritten: {path}"
    )
    return found.broken
