"""A progress bar with the time that is left; on anything but a terminal, a line now and then."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PACE = 5.0
"""Seconds that show how fast long work goes."""

LONG = 60.0
"""Seconds of work that it is worth foretelling."""


class Progress:
    """Shows how far long work is, on standard error."""

    def __init__(self, description: str, total: int, visible: bool = True, foretell: bool = False) -> None:
        self._console = Console(stderr=True)
        self._visible = visible
        self._live = visible and self._console.is_terminal
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task(description, total=total)
        self._description, self._total, self._done = description, total, 0
        self._started = self._spoke = time.monotonic()
        self._warm: tuple[float, int] | None = None
        """When the first were done, and how many."""
        self._foretell = foretell and visible

    def describe(self, text: str) -> None:
        """Change the words beside the bar."""
        self._description = text
        self._bar.update(self._task, description=text)

    def advance(self, steps: int) -> None:
        """That many more are done."""
        self._done += steps
        self._bar.advance(self._task, steps)
        now = time.monotonic()
        since, done = self._warm = self._warm or (now, self._done)
        if self._foretell:
            self._tell_the_pace(now - since, self._done - done)
        if steps and self._visible and not self._live and (now - self._spoke > 30 or self._done == self._total):
            self._spoke = now
            line = f"{self._description}: {self._done} of {self._total}, {clock(now - self._started)}"
            if self._done > done:  # what comes before the first, such as a proof of the network, comes once
                line += f", {clock((now - since) / (self._done - done) * (self._total - self._done))} left"
            say(line)

    def _tell_the_pace(self, seconds: float, steps: int) -> None:
        """Once, when some seconds have shown it, how long all will take; the very first steps are slower."""
        if seconds >= PACE:
            self._foretell = False
            whole = seconds / steps * self._total
            if whole >= LONG:
                self._console.print(f"about {clock(whole)} in all, by the pace of the first steps", highlight=False)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as short as possible: 45 s, 3:20, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def say(text: str) -> None:
    """Tell the user, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
