"""Show the recipes, certifiers, architectures and data sets there are."""

from rich.console import Console

from ..core.registry import unknown
from .train import show_recipes

KINDS = ("recipes", "certifiers", "architectures", "datasets")


def main(args: list[str]) -> None:
    """holdfast list [recipes | certifiers | architectures | datasets]."""
    from .. import data
    from ..core.registry import CERTIFIERS
    from ..nn import zoo as models

    if args and args[0] in ("-h", "--help"):
        Console().print(f"usage: holdfast list [{' | '.join(KINDS)}]", markup=False)
        return
    for kind in args:
        if kind not in KINDS:
            raise unknown("list", kind, KINDS)
    names = {
        "certifiers": {name: (type(found).__doc__ or "").splitlines()[0] for name, found in CERTIFIERS.items()},
        "architectures": dict.fromkeys(sorted(models.architectures()), ""),
        "datasets": dict.fromkeys([*data.names(), "hub:org/name", "folder:path"], ""),
    }
    console = Console()
    for kind in args or KINDS:
        console.print(f"[bold]{kind}[/bold]")
        if kind == "recipes":
            show_recipes()
        for name, words in names.get(kind, {}).items():
            console.print(f" {name:24} {words}", highlight=False)
        console.print()
