"""Batches of training images: augmented on the device, or decoded and augmented in worker processes.

What the workers do to an image follows from (seed, epoch, index), so it is the same however many there are, on however
many devices, and in a training that was stopped and continued.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..core.recipe import Recipe
from ..data import Encoded, Images
from ..data.mixture import Mixture
from .augment import augment
from .views import View

PART = 64
"""Images that a worker hands over at a time: what is on its way stays small, however large a batch is."""

MOST_WORKERS = 16


class Feed:
    """The batches of one data set for one process.

    Args:
        recipe: says what happens to the images.
        data: what to train on, on the device of the process.
        workers: processes that decode and augment where that is not done on the device; 0 does it here.
    """

    def __init__(self, recipe: Recipe, data: Images | Mixture, workers: int) -> None:
        self.recipe, self.data = recipe, data
        real = data.real if isinstance(data, Mixture) else data
        self._loader = _Loader(recipe, real, workers) if _needs_pictures(recipe, real) else None

    def batches(self, epoch: int, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as float32 in [0, 1], (batch, channel, height, width), and labels (batch,), on the device.

        Args:
            epoch: of the training, from 0 on.
            order: the indices of each batch.
        """
        recipe = self.recipe
        for indices, (x, y) in zip(order, self._real(epoch, order), strict=True):
            if isinstance(self.data, Mixture):
                drawn, labels = self.data.drawn(len(indices))
                drawn = augment(drawn, recipe.crop // 2, recipe.flip, recipe.border)
                x, y = torch.cat([x, drawn.to(x.device)]), torch.cat([y, labels.to(y.device)])
            yield x, y

    def _real(self, epoch: int, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        recipe, data = self.recipe, self.data.real if isinstance(self.data, Mixture) else self.data
        if self._loader is None:
            for indices in order:
                pixels, y = data.batch(indices)
                yield augment(pixels, recipe.crop, recipe.flip, recipe.border), y
            return
        for indices, pixels in zip(order, self._loader.batches(epoch, order), strict=True):
            y = data.labels[indices.to(data.labels.device)]
            yield pixels.to(y.device, non_blocking=True).float().div_(255), y


def workers_for(asked: int | None, processes: int) -> int:
    """Worker processes beside each of the processes of a training on this node."""
    if asked is not None and asked < 0:
        raise ValueError(f"workers must be at least 0, got {asked}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // max(1, processes))) if asked is None else asked


def full_size(recipe: Recipe) -> bool:
    """Whether a recipe takes parts of images at their full size."""
    return bool(recipe.area or recipe.sides)


def _needs_pictures(recipe: Recipe, data: Images) -> bool:
    return isinstance(data, Encoded) or full_size(recipe) or recipe.randaugment > 0


@dataclass(frozen=True)
class _Pictures:
    """What a worker does; it is sent to each one once."""

    data: Images
    view: View
    seed: int

    def __getitems__(self, key: tuple[int, list[int]]) -> Tensor:
        """uint8, (image, channel, height, width)."""
        epoch, indices = key
        return torch.from_numpy(np.stack([self._one(epoch, index) for index in indices]))

    def _one(self, epoch: int, index: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, epoch, index])
        return self.view(self.data.picture(index), random)


class _Loader:
    """Worker processes that live as long as the training."""

    def __init__(self, recipe: Recipe, data: Images, workers: int) -> None:
        here = data.to("cpu")
        centre = here.source.size if isinstance(here, Encoded) else None
        height, width = data.info.shape[1:]
        pictures = _Pictures(here, View.of(recipe, (height, width), centre), recipe.seed)
        self._keys: list[tuple[int, list[int]]] = []
        self._loader = DataLoader(
            pictures,  # pyright: ignore[reportArgumentType]
            batch_sampler=_Current(self._keys),  # pyright: ignore[reportArgumentType]
            collate_fn=_as_it_is,  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
            pin_memory=data.labels.is_cuda,
            generator=torch.Generator(),  # or each epoch would take a number from the one that the noise is drawn from
        )

    def batches(self, epoch: int, order: list[Tensor]) -> Iterator[Tensor]:
        """uint8, (batch, channel, height, width), on the CPU."""
        parts = [part.tolist() for indices in order for part in indices.split(PART)]
        self._keys[:] = [(epoch, part) for part in parts]
        found = iter(self._loader)
        for indices in order:
            yield torch.cat([next(found) for _ in indices.split(PART)])


class _Current:
    """The keys of the epoch that is about to begin."""

    def __init__(self, keys: list[tuple[int, list[int]]]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return iter(list(self._keys))

    def __len__(self) -> int:
        return len(self._keys)


def _as_it_is(batch: Tensor) -> Tensor:
    return batch
