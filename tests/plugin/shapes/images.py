"""A data set: digits in black on white."""

from pathlib import Path

from holdfast.data import Arrays
from holdfast.data.folders import digits


def negative_digits(split: str, data_dir: Path) -> Arrays:
    """scikit-learn's digits, inverted."""
    found = digits(split)
    return found._replace(images=255 - found.images)
