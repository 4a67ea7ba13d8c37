"""The curve of certified accuracy against radius, as PNG and PDF, readable on paper and without colour.

Lines differ by dash pattern and by lightness as well as by colour; colours are those of Okabe and Ito, "Color Universal
Design" (2008), https://jfly.uni-koeln.de/color/, ordered so that neighbours differ most when printed in grey.
"""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.threat import THREATS
from .curve import Curve
from .estimate import clopper_pearson
from .notes import LETTERS
from .text import printable

COLOURS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#009E73", "#D55E00", "#56B4E9")
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 2),
    (1.5, 1.5),
    (7, 2, 1.5, 2),
    (3, 1.5),
    (9, 2),
    (4, 1.5, 1, 1.5, 1, 1.5),
)
MARKERS = "osD^vPX"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "axes.unicode_minus": True,
}
WIDTH = 58
"""Characters in a line of the legend; where they are too wide the picture becomes wider."""


def curve_figure(curves: Sequence[Curve], paths: Sequence[Path]) -> None:
    """Draw certified accuracy with 95 % bands and save it under every path; the suffix decides the format."""
    with mpl.rc_context(STYLE):
        labels = [_label(letter, curve) for letter, curve in zip(LETTERS, curves, strict=False)]
        lines = sum(label.count("\n") + 1 for label in labels)
        figure = Figure(figsize=(5.6, 3.4 + 0.2 * lines), layout="constrained")
        axes = figure.add_subplot()
        shown = [(_points if curve.given_radii else _draw)(axes, curve, number) for number, curve in enumerate(curves)]
        _dress(axes, curves)
        legend = figure.legend(shown, labels, loc="outside lower left", frameon=False, handlelength=3.6)
        for text in legend.get_texts():
            text.set_parse_math(False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn instead
            for path in paths:
                figure.savefig(path, dpi=200, bbox_inches="tight")


def _label(letter: str, curve: Curve) -> str:
    """The name in lines that fit: names of runs of one recipe differ at their end, so none is cut off."""
    acr = f" (ACR {curve.acr.value:.3f})" if curve.has_acr else ""
    told = printable(f"{letter}  {curve.label}{acr}")
    return textwrap.fill(told, WIDTH, subsequent_indent="     ", break_on_hyphens=False, replace_whitespace=False)


def look(number: int) -> tuple[str, Any]:
    """Colour and line style of a curve; the styles move on by one when the colours begin again."""
    dashes = DASHES[(number + number // len(COLOURS)) % len(DASHES)]
    return COLOURS[number % len(COLOURS)], (0, dashes) if dashes else "solid"


def _draw(axes: Axes, curve: Curve, number: int) -> Any:
    """A step at every radius, on a grid finer than a printed dot; the band is the exact pointwise interval."""
    radii = np.append(np.linspace(0, curve.largest, 1001), np.nextafter(curve.largest, np.inf))
    counts = curve.counts(radii)
    low, high = clopper_pearson(counts, len(curve))
    colour, dashes = look(number)
    axes.fill_between(radii, 100 * low, 100 * high, step="pre", color=colour, alpha=0.18, linewidth=0)
    shares = 100 * counts / len(curve)
    return axes.step(radii, shares, where="pre", color=colour, linestyle=dashes, linewidth=1.4)[0]


def _points(axes: Axes, curve: Curve, number: int) -> Any:
    """A point at every given radius, with its exact interval as a bar."""
    found = [curve.accuracy(radius) for radius in curve.given_radii]
    values = np.array([100 * point.value for point in found])
    low, high = np.array([[100 * point.low, 100 * point.high] for point in found]).T
    bars = np.maximum([values - low, high - values], 0)
    shape, (colour, _) = MARKERS[number % len(MARKERS)], look(number)
    return axes.errorbar(curve.given_radii, values, bars, fmt=shape, color=colour, capsize=2.5, markersize=5)


def _dress(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.set_xlim(0, max(max(curve.largest, *curve.given_radii, 0) for curve in curves) * 1.02 or 1)
    axes.set_ylim(0, 100)
    threat = THREATS[curves[0].norm]
    axes.set_xlabel(f"{threat.symbol} radius ({threat.unit})")
    axes.set_ylabel("certified accuracy (%)")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
