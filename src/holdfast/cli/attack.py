"""Attack a Lipschitz network: inside its certified balls, where nothing may be found, and at a radius of choice."""

import dataclasses
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from ..runs.store import write_whole

if TYPE_CHECKING:
    from ..certification.attack import Outcome


@dataclass
class Options:
    """Gradient attacks in float64, in the norm that the network is certified in."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of trained runs, or a folder of such folders."""
    epsilon: float
    """Besides its certified radius, attack every image at this one, in pixel units."""
    split: str = "test"
    """Split of the run's data set."""
    limit: int = 1000
    """Attack the first so many images."""
    steps: int = 40
    """Gradient steps of each attack."""
    batch_size: int = 250
    """Images in one forward pass."""
    seed: int = 0
    """Seed of the starts of the attacks on an l-inf-distance network."""
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
    """Attack, tell and keep what was found; how many certificates were broken."""
    from ..certification.attack import attack
    from ..data import load as load_data
    from ..machine import choose
    from ..opening import load, model_hash, recipe_of

    model, device = load(run), choose(options.device)
    recipe = recipe_of(run)
    certifier = recipe.method.certifier()
    names = ("epsilon", "split", "limit", "steps", "batch_size", "seed")
    settings = {name: getattr(options, name) for name in names}
    settings |= {"certifier": certifier.to_dict(), "dataset": recipe.dataset, "model": model_hash(model)}
    data = load_data(recipe.dataset, options.split, options.data_dir).to(device)
    numbers = {name: settings[name] for name in ("limit", "steps", "batch_size", "seed")}
    found = attack(model.to(device), data, certifier, options.epsilon, **numbers)
    path = _keep(run, settings, found)
    Console(soft_wrap=True, highlight=False).print(
        f"{found.certified:,} of {found.total:,} images certified; inside their radii {found.broken:,} were broken\n"
        f"at {options.epsilon:g}: {100 * found.proven / found.total:.2f} % proven, "
        f"{100 * found.standing / found.total:.2f} % right under attack; the truth lies between\nwritten: {path}"
    )
    return found.broken


def _keep(run: Path, settings: dict[str, Any], found: "Outcome") -> Path:
    """attack-FINGERPRINT.json: what was asked, the numbers, and what happened to every image."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    content = dataclasses.asdict(found)
    images = content.pop("images")
    path = run / f"attack-{digest}.json"
    write_whole(path, (json.dumps({"attack": settings, "found": content, "images": images}) + "\n").encode())
    return path
