"""Processes that start in a moment: forks of one that has imported what they need, workers of Ray among them.

A worker of Ray takes seconds of the processor to import torch, which is most of what its death costs. A node whose
`setup_worker_path` is this file asks the mold for a fork instead. That is all that is different: each fork is a
process of its own, that Ray talks to and that any signal ends as it would end another.

    mold = Mold("kills")                  # imports the module, calls its `warm()`, and waits
    child = mold.cast("certify", "a")     # a process that calls kills.certify("a")
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SOCKET = "HOLDFAST_MOLD"
"""Environment variable with the path of the mold's socket."""


def ask(path: str, function: str, arguments: list[str], output: list[int]) -> tuple[socket.socket, int]:
    """A connection that ends with the process that was begun, and the id of that process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    message = json.dumps([function, arguments, dict(os.environ), str(Path.cwd())]).encode()
    socket.send_fds(connection, [len(message).to_bytes(8, "big")], output)
    connection.sendall(message)
    if not (told := connection.recv(8)):
        raise ConnectionError(path)
    return connection, int.from_bytes(told, "big")


class Child:
    """A process that was cast."""

    def __init__(self, connection: socket.socket, process: int) -> None:
        self.process, self._connection = process, connection

    def ended(self, seconds: float) -> bool:
        """Whether it ends within that time."""
        self._connection.settimeout(max(seconds, 1e-3))
        try:
            return not self._connection.recv(1)
        except TimeoutError:
            return False
        except ConnectionError:
            return True


class Mold:
    """A process that forks itself."""

    def __init__(self, module: str) -> None:
        import subprocess
        import tempfile

        self._folder = tempfile.TemporaryDirectory(prefix="mold-")
        self._path = f"{self._folder.name}/socket"
        os.environ[SOCKET] = self._path
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", module, self._path], stdout=subprocess.PIPE
        )
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise RuntimeError("the mold has ended")

    def cast(self, function: str, *arguments: str, output: Path) -> Child:
        """A process that calls that function of the module, and writes what it says behind what `output` holds."""
        with output.open("ab") as file:
            return Child(*ask(self._path, function, list(arguments), [file.fileno()] * 2))

    def offspring(self) -> Iterator[tuple[int, str]]:
        """The processes that came of it and live, also where their parent has ended, by the names that they have."""
        mark = f"{SOCKET}={self._path}\0".encode()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (place / "environ").read_bytes():
                    yield int(place.name), (place / "cmdline").read_bytes().decode().rstrip("\0")

    def close(self) -> None:
        """End it, and with it all that it cast."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def worker(*arguments: str) -> None:
    """Be a worker of Ray: what Ray's own script does that sets one up, but for environments of its own."""
    import runpy

    script, *rest = [word for word in arguments if not word.startswith(("--language", "--serialized-runtime-env"))]
    sys.argv = [script, *rest]
    runpy.run_path(script, run_name="__main__")


def template(path: str) -> None:
    """Be a mold for the workers of one job on one node, with Ray imported, which reads its environment then."""
    importlib.import_module("ray._private.workers.default_worker")
    with contextlib.suppress(OSError):  # another one is that already
        _serve(sys.modules[__name__], path, idle=120)


def stand_for_a_worker(*arguments: str) -> None:
    """In the process that Ray begins: live as long as the fork that is the worker."""
    mold = os.environ[SOCKET]
    path = f"{mold}-{os.environ.get('RAY_JOB_ID')}-{os.environ.get('RAY_RAYLET_PID')}"
    waited = 0.0
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionError):
            ask(path, "worker", list(arguments), [1, 2])[0].recv(1)
            return
        if waited % 30 == 0:
            ask(mold, "template", [path], [1, 2])
        time.sleep(0.0625)
        waited += 0.0625


def _serve(module: object, path: str, idle: float) -> None:
    """Fork for everybody who asks, until the process that began this one ends, or nobody has asked for that long."""
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks for all of them
    begun_by, asked = os.getppid(), time.monotonic()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        listening.settimeout(2.0)
        print("ready", flush=True)
        while os.getppid() == begun_by and time.monotonic() - asked < idle:
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection, _ = listening.accept()
                length, output, *_ = socket.recv_fds(connection, 8, 2)
                asked = time.monotonic()
                if process := os.fork():
                    connection.sendall(process.to_bytes(8, "big"))
                    connection.close()
                    for file in output:
                        os.close(file)
                else:
                    listening.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _become(module, connection, int.from_bytes(length, "big"), output)
    Path(path).unlink(missing_ok=True)


def _become(module: object, connection: socket.socket, length: int, output: list[int]) -> None:
    """In a fork: take the environment and the output of who asked, and end when that one ends."""
    import threading
    import traceback

    connection.settimeout(None)
    message = b""
    while len(message) < length:
        message += connection.recv(length - len(message))
    function, arguments, environment, folder = json.loads(message)
    for file, place in zip(output, (1, 2), strict=True):
        os.dup2(file, place)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    own = {"worker": worker, "template": template}
    if function != "template":
        threading.Thread(target=lambda: connection.recv(1) or os._exit(1), daemon=True).start()
    code = 0
    try:
        (own.get(function) or getattr(module, function))(*arguments)
    except BaseException:
        code = 1
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        sys.path.insert(0, str(Path(__file__).parent))
        module = importlib.import_module(sys.argv[2])
        module.warm()
        _serve(module, sys.argv[3], idle=math.inf)
    else:
        stand_for_a_worker(*sys.argv[1:])
