"""Times of things that take turns, so that other work on the machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable

import torch


def seconds(
    *sides: Callable[[], object], rounds: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median time of each side, after a round that does not count."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 1):
        for side, taken in zip(sides, times, strict=True):
            started = clock()
            side()
            if device != "cpu":
                torch.accelerator.synchronize()
            taken.append(clock() - started)
    return [statistics.median(taken[1:]) for taken in times]
