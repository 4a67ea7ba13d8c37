"""Attack a Lipschitz network: inside its certified balls, where nothing may be found, and at a radius of choice."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console


@dataclass
class Options:
    """Gradient attacks in float64, in the norm that the network is certified in."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
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
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""


def main(args: list[str]) -> None:
    """holdfast attack RUN --epsilon E [options]; exit status 1 if a certificate is broken."""
    from ..certification.attack import attack
    from ..data import load as load_data
    from ..machine import choose
    from ..opening import load, recipe_of

    options = tyro.cli(Options, args=args, prog="holdfast attack", description="")
    device, recipe = choose(options.device), recipe_of(options.run)
    data = load_data(recipe.dataset, options.split, options.data_dir).to(device)
    sizes = {"limit": options.limit, "steps": options.steps, "batch_size": options.batch_size}
    found = attack(load(options.run).to(device), data, recipe.method.certifier(), options.epsilon, **sizes)
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{found.certified:,} of {found.total:,} images certified; inside their radii {found.broken:,} were broken\n"
        f"at {options.epsilon:g}: {100 * found.proven / found.total:.2f} % proven, "
        f"{100 * found.standing / found.total:.2f} % right under attack; the truth lies between"
    )
    if found.broken:
        sys.exit(1)
