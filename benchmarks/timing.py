"""Times of things that take turns, so that other work on the machine slows all of them alike."""

import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch


def turns(
    *sides: Callable[[], object], rounds: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Time of each side in each round, after a round that does not count."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 1):
        for side, taken in zip(sides, times, strict=True):
            started = clock()
            side()
            if device != "cpu":
                torch.accelerator.synchronize()
            taken.append(clock() - started)
    return [taken[1:] for taken in times]


def seconds(
    *sides: Callable[[], object], rounds: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median time of each side, after a round that does not count."""
    return [statistics.median(taken) for taken in turns(*sides, rounds=rounds, device=device, clock=clock)]


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median of the ratios of neighbors: what slows a whole round is in both."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def busy(device: str) -> Callable[[], float]:
    """Seconds of the processor, where that does the work: those of other processes do not count. Else wall time."""
    return time.process_time if device == "cpu" else time.perf_counter


def machine(device: str) -> str:
    """What the numbers below it depend on."""
    return f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {device}"
