"""Which model this is: a hash of all that can change its answers, as far as it can be seen from outside."""

import ast
import hashlib
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..nn.denoised import Denoised
from ..nn.stored import captured, network_of, program_of

if TYPE_CHECKING:
    from .run import ModelSource

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Differs from process to process in what Python shows of an object."""

LIBRARIES = [Path(path).resolve() for path in (*site.getsitepackages(), site.getusersitepackages())]
LIBRARIES += [Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parents[1]]
"""Folders whose code is not the user's own: their versions are in log.jsonl."""


def model_hash(model: nn.Module, modules: Iterable[str] = ()) -> str:
    """16 hex digits of the SHA-256 of a program; of any other model those of its weights, buffers, classes, plain
    settings and `repr`, and of its files.

    Its files are the user's own sources of the model's classes and of the named modules, what these import, and every
    file that their text or an attribute of the model names; libraries and holdfast are left out.

    Args:
        modules: names of modules that made the model, such as that of a factory.
    """
    if program := program_of(model):
        return program.identity[:16]
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            _add_tensor(digest, name, value)
    for name, part in model.named_modules():
        digest.update(f"{name} is {type(part).__qualname__};".encode())
        if isinstance(part, torch.fx.GraphModule):  # its class says nothing of what it computes
            digest.update(part.code.encode())
        for key, value in sorted(vars(part).items()):
            if isinstance(value, Tensor):
                _add_tensor(digest, f"{name}.{key}", value)
            elif not key.startswith("_"):
                digest.update(f"{name}.{key} = {_plain(value)!r};".encode())
    digest.update(ADDRESS.sub("", repr(model)).encode())
    for path in files_of(model, modules):
        with path.open("rb") as file:
            digest.update(f"file {path.name};".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def as_program(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The program of a model, as a network that runs it; the model itself where it has none.

    What torch.compile made stays what it is: its program would be slower.
    """
    if program_of(model) is not None or hasattr(model, "_orig_mod"):
        return model
    try:
        return network_of(captured(model, shape))
    except ValueError:
        return model


def model_of(source: "ModelSource", shape: tuple[int, ...], identity: str) -> nn.Module:
    """The model of that identity: what a source loads, or its program."""
    model = source.load()
    return model if source.identity(model) == identity else as_program(model, shape)


def parts_of(model: nn.Module, places: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What run.json tells of a model with a denoiser: each part with its identity, and where it comes from if known."""
    if not isinstance(model, Denoised):
        return {}
    places, parts = places or {}, {"classifier": model.classifier, "denoiser": model.denoiser}
    froms = {name: {"from": place} for name, place in places.items()}
    return {"model": {name: {**froms.get(name, {}), "identity": model_hash(part)} for name, part in parts.items()}}


def files_of(model: nn.Module, modules: Iterable[str] = ()) -> list[Path]:
    """The user's own files that make a model what it is; see `model_hash`."""
    parts = list(model.modules())
    sources = _sources({*modules, *(type(part).__module__ for part in parts)})
    texts = {text for path in sources for text in _strings(path)}
    texts |= {str(value) for part in parts for value in vars(part).values() if isinstance(value, str | Path)}
    places = {Path.cwd(), *(path.parent for path in sources)}
    named = {place / text for text in texts for place in places if _is_file(place / text)}
    return sorted({path.resolve() for path in (*sources, *named)}, key=lambda path: (path.name, path))


def _sources(names: set[str]) -> set[Path]:
    """Source files of the user's own among these modules and all that they use."""
    seen: set[str] = set()
    found: set[Path] = set()
    while names:
        name = names.pop()
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if name in seen or not path or not path.endswith(".py") or not _own(Path(path).resolve()):
            continue
        seen.add(name)
        found.add(Path(path).resolve())
        for value in vars(module).values():
            used = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            names |= {used} if isinstance(used, str) else set()
    return found


def _own(path: Path) -> bool:
    return path.is_file() and not any(path.is_relative_to(folder) for folder in LIBRARIES)


def _strings(source: Path) -> Iterator[str]:
    """The string constants of a Python file that can name a file."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 256:
            yield node.value


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _plain(value: Any) -> Any:
    """Numbers and texts as they are, also in containers; of anything else the type."""
    if isinstance(value, bool | int | float | str | torch.dtype | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return type(value).__qualname__


def _add_tensor(digest: Any, name: str, value: Tensor) -> None:
    digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
    digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
