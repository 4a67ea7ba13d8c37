"""Pictures: the curve of certified accuracy against radius, and a few certified images.

The curve is readable on paper and without colour.

Lines differ by dash pattern and by lightness as well as by colour; colours are those of Okabe and Ito, "Color Universal
Design" (2008), https://jfly.uni-koeln.de/color/, ordered so that neighbours differ most when printed in grey.
"""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..core.certificate import Record
from ..core.threat import THREATS
from .curve import Curve
from .labels import LETTERS
from .statistics import clopper_pearson
from .table import printable

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
PER_INCH = 10
"""Characters in a line of the legend; where they are too wide the picture becomes wider."""


@dataclass(frozen=True)
class Frame:
    """Sizes in inches, and a title."""

    width: float = 5.6
    height: float = 3.4
    """Of the chart; the legend stands below it and takes what it needs."""
    title: str = ""

    def __post_init__(self) -> None:
        if not (1 <= self.width <= 40 and 1 <= self.height <= 40):
            raise ValueError(f"width and height are inches from 1 to 40, got {self.width} and {self.height}")


USUAL = Frame()


def curve_figure(curves: Sequence[Curve], paths: Sequence[Path], frame: Frame = USUAL) -> None:
    """Draw certified accuracy with 95 % bands and save it under every path; the suffix decides the format."""
    with mpl.rc_context(STYLE):
        wide = max(10, round(PER_INCH * frame.width))
        labels = [_label(letter, curve, wide) for letter, curve in zip(LETTERS, curves, strict=False)]
        lines = sum(label.count("\n") + 1 for label in labels)
        figure = Figure(figsize=(frame.width, frame.height + 0.2 * lines), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(printable(frame.title), parse_math=False)
        shown = [(_points if curve.given_radii else _draw)(axes, curve, number) for number, curve in enumerate(curves)]
        _dress(axes, curves)
        legend = figure.legend(shown, labels, loc="outside lower left", frameon=False, handlelength=3.6)
        for text in legend.get_texts():
            text.set_parse_math(False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn instead
            for path in paths:
                figure.savefig(path, dpi=200, bbox_inches="tight")


def _label(letter: str, curve: Curve, wide: int) -> str:
    """The name in lines that fit: names of runs of one recipe differ at their end, so none is cut off."""
    acr = f" (ACR {curve.acr.value:.3f})" if curve.has_acr else ""
    told = printable(f"{letter}  {curve.label}{acr}")
    return textwrap.fill(told, wide, subsequent_indent="     ", break_on_hyphens=False, replace_whitespace=False)


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


def examples_figure(
    images: Float[NDArray, "example channel height width"],
    noisy: Float[NDArray, "example channel height width"],
    records: Sequence[Record],
    path: Path,
) -> None:
    """Draw images above their noisy copies, with label, prediction and radius below, and save the picture.

    Args:
        images: in [0, 1], with 1 or 3 channels.
        noisy: the same images with noise; values outside [0, 1] are shown clipped.
        records: the certificate of each image.
        path: the suffix decides the format.

    Raises:
        ValueError: the three do not belong together, or there are no images.
    """
    if len(records) != len(images) or images.shape != noisy.shape or not len(images):
        found = f"{images.shape} images, {noisy.shape} noisy, {len(records)} records"
        raise ValueError(f"expected as many images as noisy copies and records, at least one; got {found}")
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.15 * len(images) + 0.3, 3.1), layout="constrained")
        axes = figure.subplots(2, len(images), squeeze=False)
        for column, record in enumerate(records):
            _picture(axes[0, column], images[column])
            _picture(axes[1, column], noisy[column])
            axes[1, column].set_xlabel(_caption(record))
        axes[0, 0].set_ylabel("image")
        axes[1, 0].set_ylabel("with noise")
        figure.savefig(path, dpi=200)


def _picture(axes: Axes, image: Float[NDArray, "channel height width"]) -> None:
    shown = np.clip(image.transpose(1, 2, 0), 0, 1)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _caption(record: Record) -> str:
    proof = record.certificate
    if proof.prediction is None:
        return f"label {record.label}\nabstains"
    verdict = "right" if record.correct else "wrong"
    return f"label {record.label}\nsays {proof.prediction}: {verdict}\nradius {proof.radius:.2f}"
