"""A certify folder in an object store: s3://, gs://, file://, or whatever else fsspec knows.

Object stores cannot append, and network file systems lock badly. So each machine writes to its own disk, and sends what
is new now and then as a part: a file of records that is never changed. What others have sent is brought at the start: a
machine that begins where another one was taken away does none of its work again. The parts are records files like
others: a copy of the folder, made by any tool, is a certify folder.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..progress import say
from .store import read_run, write_whole

EVERY = 60.0
"""Seconds between two parts: what a machine can lose."""

WHOLE = ("run.json", "probe.json", "explanation.json")
"""Files that are written once."""

SAME = ("certification", "checksums", "revises")
"""What run.json tells that decides the records, and the alpha that they cost."""

STATE = ".sent.json"
"""Who we are, and how much of each records file is sent."""


class Remote:
    """The copy of a folder under a URL.

    Raises:
        ValueError: there is no such store, or no library for it.
    """

    def __init__(self, url: str, folder: Path) -> None:
        import fsspec

        self.folder, self.url = folder, f"{url.rstrip('/')}/{folder.parent.name}/{folder.name}"
        try:
            self._files, self._root = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"cannot use {url}: {error}") from error

    @property
    def begun(self) -> bool:
        """Whether a machine has sent the settings of this run."""
        self._files.invalidate_cache()
        return bool(self._files.exists(f"{self._root}/run.json"))

    def bring(self) -> None:
        """Copy what is there and not here.

        Raises:
            ValueError: the settings there are others.
        """
        if not self.begun:
            return
        names = [path.rsplit("/", 1)[-1] for path in self._files.ls(self._root, detail=False)]
        if (self.folder / "run.json").exists():
            self._refuse_another()
        self.folder.mkdir(parents=True, exist_ok=True)
        own = f"records-part-{self._state()['name']}-"
        for name in sorted(names, key=lambda name: name != "run.json"):
            wanted = name in WHOLE or (name.startswith("records-part-") and not name.startswith(own))
            if wanted and not (self.folder / name).exists():
                write_whole(self.folder / name, self._files.cat_file(f"{self._root}/{name}"))

    def _refuse_another(self) -> None:
        there, here = json.loads(self._files.cat_file(f"{self._root}/run.json")), read_run(self.folder)
        if other := [name for name in SAME if there.get(name) != here.get(name)]:
            found = f"{self.url} holds a run of another {' and '.join(other)} than {self.folder}"
            raise ValueError(f"{found}; choose another --store")

    def send(self) -> None:
        """Copy what is here and not there: files that are written once, and what is new of our records as a part.

        Raises:
            ValueError: the settings there are others: another machine may have begun at the same moment.
        """
        self._files.makedirs(self._root, exist_ok=True)
        for name in WHOLE:
            if (self.folder / name).exists() and not self._files.exists(f"{self._root}/{name}"):
                self._files.pipe_file(f"{self._root}/{name}", (self.folder / name).read_bytes())
        self._refuse_another()
        state = self._state()
        new = []
        for path in sorted(self.folder.glob("records-*-of-*.jsonl")):
            begun = state["sent"].get(path.name, 0)
            with path.open("rb") as file:
                file.seek(begun)
                content = file.read()
            content = content[: content.rfind(b"\n") + 1]
            state["sent"][path.name] = begun + len(content)
            new.append(content)
        if any(new):
            self._files.pipe_file(
                f"{self._root}/records-part-{state['name']}-{state['parts']:06d}.jsonl", b"".join(new)
            )
            state["parts"] += 1
            write_whole(self.folder / STATE, json.dumps(state).encode())

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Send now and then, and at the end, also when what is done meanwhile fails."""
        stop = threading.Event()
        sender = threading.Thread(target=self._send_until, args=(stop,), daemon=True)
        sender.start()
        try:
            yield
        finally:
            stop.set()
            sender.join()
            self.send()

    def _send_until(self, stop: threading.Event) -> None:
        while not stop.wait(EVERY):
            try:
                self.send()
            except Exception as error:  # of any library; the network may be back the next time
                say(f"could not send records to {self.url} ({error}); they are kept here, and sent later")

    def _state(self) -> dict[str, Any]:
        path = self.folder / STATE
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"name": uuid.uuid4().hex[:12], "parts": 0, "sent": {}}).encode())
        return json.loads(path.read_text())
