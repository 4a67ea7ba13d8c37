"""Whether a classifier answers alike wherever a row stands in a batch.

A certificate is about a function of one image. Some kernels compute a row differently at another place, or in a batch
of another size: how often that changes a class is measured where a run starts, and told.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.certifier import Certifier, Classifier, Seed
from ..smoothing.votes import batch_like, winners

ROWS = 8
"""Images whose noisy copies are looked at."""

PROBED = 64
"""Noisy copies that two machines are compared by."""


@torch.inference_mode()
def determinism(
    model: Classifier, images: Tensor, certifier: Certifier, seeds: Sequence[Seed], batch_size: int
) -> dict[str, int]:
    """How many noisy copies of some images there were, and of how many the class changed; empty without sampling.

    One batch in its order, in another one, and in batches of a third of its size, where the model takes those.
    """
    if certifier.drawing is None:
        return {}
    batch, classifier = _noisy(model, images, certifier, seeds, batch_size)
    order = torch.randperm(batch_size, generator=torch.Generator().manual_seed(0)).to(batch.device)
    expected, found = _classes(classifier, batch), torch.empty(batch_size, dtype=torch.int64, device=batch.device)
    found[order] = winners(classifier(_in_order(batch, order)))
    changed = found != expected
    try:
        parts = [_classes(classifier, part) for part in batch.split(max(1, batch_size // 3))]
        changed |= torch.cat(parts) != expected
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        pass  # made for batches of one size: then there are no others
    return {"noisy_rows": batch_size, "changed_classes": int(changed.sum())}


@torch.inference_mode()
def moved(
    reference: Classifier,
    model: Classifier,
    images: Tensor,
    certifier: Certifier,
    seeds: Sequence[Seed],
    batch_size: int,
) -> int:
    """Of how many noisy copies the class differs between two ways to compute one classifier; without sampling 0."""
    if certifier.drawing is None:
        return 0
    batch, expected = _noisy(reference, images, certifier, seeds, batch_size)
    _, found = _noisy(model, images, certifier, seeds, batch_size)
    return int((_classes(expected, batch) != _classes(found, batch)).sum())


@torch.inference_mode()
def probe(model: Classifier, images: Tensor, certifier: Certifier, seeds: Sequence[Seed], batch_size: int) -> list[int]:
    """The class of each of PROBED noisy copies of some images; of the images themselves without sampling.

    Two machines on which it differs count votes of two functions.
    """
    if certifier.drawing is None:
        rows, classifier = images[:ROWS], model
    else:
        rows, classifier = _noisy(model, images, certifier, seeds, PROBED)
    found = []
    for part in rows.split(batch_size):  # full batches: a model may be made for one size
        batch = batch_like(part, batch_size)
        batch[: len(part)] = part
        found += _classes(classifier, batch)[: len(part)].tolist()
    return found


def _noisy(
    model: Classifier, images: Tensor, certifier: Certifier, seeds: Sequence[Seed], rows: int
) -> tuple[Tensor, Classifier]:
    """That many noisy copies, evenly of the first images, and the classifier that sees them."""
    drawing = certifier.drawing
    assert drawing is not None
    z, classifier = certifier.smoothed_part(model, images[:ROWS])
    batch = batch_like(z, rows)
    for row, seed, part in zip(z, seeds, batch.tensor_split(len(z)), strict=False):
        if row.isfinite().all():
            drawing.noise.stream(row, drawing.sigma, seed).fill(part)
    return batch, classifier


def _in_order(rows: Tensor, order: Tensor) -> Tensor:
    """A copy with rows[order], made a few at a time: a batch of large images takes much memory."""
    copied = batch_like(rows, len(rows))
    for some, places in zip(copied.split(ROWS), order.split(ROWS), strict=True):
        some.copy_(rows[places])
    return copied


def _classes(classifier: Classifier, rows: Tensor) -> Tensor:
    """Of a copy of the rows: what the classifier does to its input stays in the copy."""
    return winners(classifier(rows.clone()))
