"""The help of a command, remembered: what it lists is in files whose import takes seconds."""

import contextlib
import hashlib
import io
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

NAME = re.compile(r"[\w.-]+")
"""What the help of our own files can follow from, unless it is a file here."""


def asked(args: Sequence[str]) -> bool:
    """Whether the help is all that is asked for."""
    return "--help" in args or "-h" in args


def show(command: str, args: Sequence[str], main: Callable[[list[str]], None]) -> None:
    """Write the help, as `main` does."""
    if any(not NAME.fullmatch(arg) or Path(arg).exists() for arg in args):
        main(list(args))
        return
    from ..catalog import remembered

    look = f"{command} {args} {shutil.get_terminal_size().columns} {sys.stdout.encoding}"
    name = f"help-{command}-{hashlib.sha256(look.encode()).hexdigest()[:12]}"
    sys.stdout.write(remembered(name, lambda: _captured(main, args)))


def _captured(main: Callable[[list[str]], None], args: Sequence[str]) -> str:
    text = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding, newline="")  # its frames depend on it
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main(list(args))
    text.seek(0)
    return text.read()
