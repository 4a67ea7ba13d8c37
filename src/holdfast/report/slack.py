"""Where the proven constant of a Lipschitz network is slack, and what an unproven one would have claimed.

Hu et al., NeurIPS 2023, https://arxiv.org/abs/2301.12549, compare an upper and a lower bound of the whole network.
"""

from collections.abc import Sequence

from .curve import Curve
from .notes import LETTERS
from .table import Table
from .tables import radius_text


def slack(curves: Sequence[Curve], radii: Sequence[float]) -> list[Table]:
    """Two tables for every run whose certifier has explained its Lipschitz constant."""
    lettered = zip(LETTERS, curves, strict=False)
    explained = [(letter, curve) for letter, curve in lettered if "power_iteration" in curve.explanation]
    return [table for letter, curve in explained for table in (_bounds(letter, curve), _claims(letter, curve, radii))]


def _bounds(letter: str, curve: Curve) -> Table:
    found = curve.explanation
    rows = [(name, f"{bound:.6g}") for name, bound in found["layers"].items() if bound != 1]
    rows += [
        ("all layers together, proven", f"{found['upper']:.6g}"),
        ("power iteration, not proven", f"{found['power_iteration']:.6g}"),
        ("reached by a pair of images", f"{found['lower']:.6g}"),
        ("reached / proven", f"{found['lower'] / found['upper']:.3f}"),
    ]
    title = f"{letter}: Lipschitz constants of the layers before the last; the others have exactly 1"
    return Table(title, ("layer", "constant"), tuple(rows))


def _claims(letter: str, curve: Curve, radii: Sequence[float]) -> Table:
    """Radii are margins over constants, so those of another constant are a multiple of the proven ones."""
    shrink = curve.explanation["power_iteration"] / curve.explanation["upper"]
    accuracies = [(at, 100 * curve.accuracy(at).value, 100 * curve.accuracy(at * shrink).value) for at in radii]
    rows = [(radius_text(at), f"{ours:.2f}", f"{claim:.2f}", f"{claim - ours:.2f}") for at, ours, claim in accuracies]
    header = ("radius", "proven", "power iteration", "not proven")
    title = f"{letter}: certified accuracy in %, proven and as power iteration would claim it"
    return Table(title, header, tuple(rows))
