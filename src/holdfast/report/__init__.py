"""Curves, tables and figures of certified runs, next to the published record. Nothing here imports torch.

import holdfast
holdfast.report("runs/NAME")
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .command import report as report
    from .summary import Report


class _Callable(ModuleType):
    """This package can be called: a report is what it makes."""

    def __call__(
        self,
        paths: Path | str | Iterable[Path | str],
        out: Path | str | None = None,
        radii: Sequence[float] = (),
        **options: Any,
    ) -> "Report":
        """See `holdfast.report.command.report`."""
        from .command import report

        return report(paths, out, radii, **options)


sys.modules[__name__].__class__ = _Callable
