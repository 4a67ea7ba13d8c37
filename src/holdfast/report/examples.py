"""A few certified images with one noisy copy of each: what the classifier saw, what it said, and how far that holds."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..core.certificate import Record


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
