"""Classifiers in files: ONNX, run by onnxruntime; what torch.export wrote, a .pt2 file; weights for a network at hand.

The bytes of an ONNX file are what the classifier is.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .extras import in_one_line, need


def logits_of(output: Any) -> Any:
    """The logits in what a classifier returned: itself, its `.logits`, or the only tensor in a tuple or list."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if isinstance(held := getattr(output, "logits", None), Tensor):
        return held
    return output[0] if isinstance(output, tuple | list) and len(output) == 1 else output


def in_batches(run: Callable[[Tensor], Tensor], x: Tensor, size: int | None) -> Tensor:
    """Run a function that takes batches of `size` rows only; the last batch is filled up with its first row."""
    if size is None or len(x) == size:
        return run(x)
    parts = []
    for part in x.split(size):
        missing = size - len(part)
        parts.append(run(torch.cat([part, part[:1].expand(missing, *part.shape[1:])]))[: len(part)])
    return torch.cat(parts)


class Logits(nn.Module):
    """A classifier that returns its logits in an object, as those of transformers do, returning the logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor) -> Any:
        return logits_of(self.model(x))


TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
"""Of images, as onnxruntime calls them."""


class OnnxClassifier(nn.Module):
    """A classifier in an ONNX file. It has no gradients, and computes in the precision that it was exported in.

    Images are given to its one input, whatever that is called, channels first or last as the file wants them. What it
    returns may be logits or probabilities: both have the same largest class.

    Args:
        source: the file, or its content where all weights are inside.

    Raises:
        ValueError: it is no ONNX file, has an operator that onnxruntime lacks, lacks a file of weights, or has inputs
            or outputs that are not those of a classifier of images.
    """

    digest: Tensor

    def __init__(self, source: Path | str | bytes) -> None:
        super().__init__()
        self._source = (source,)  # in a tuple: where a file lies is no part of what it is
        named = "the ONNX model" if isinstance(source, bytes) else str(source)
        self.register_buffer("digest", torch.tensor(list(_digest(source, named)), dtype=torch.uint8))
        runtime = need("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        with in_one_line(f"{named} cannot be run by onnxruntime"):
            content = source if isinstance(source, bytes) else str(source)
            self._session = runtime.InferenceSession(content, options, providers=_providers(runtime))
        image = _only_input(self._session, named)
        self._named, self._image = named, image.name
        self._dtype, self._shape = TYPES[image.type], list(image.shape)
        self._output = _logits(self._session, named)
        self.eval()

    def __deepcopy__(self, memo: Any) -> OnnxClassifier:
        """Itself: nothing in it ever changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes read the file again."""
        return OnnxClassifier, self._source

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float32, self._dtype):
            raise ValueError(
                f"{self._named} computes in {str(self._dtype).removeprefix('torch.')} and takes float32 images, got "
                f"{x.dtype}; leave the precision at 32-true"
            )
        size = self._shape[0] if self._shape and isinstance(self._shape[0], int) else None
        return in_batches(self._run, self._arranged(x), size).to(x.device, x.dtype)

    def _arranged(self, x: Tensor) -> Tensor:
        """The images as the file takes them, on the CPU."""
        channels, *sides = x.shape[1:]
        first, last = (channels, *sides), (*sides, channels)
        if not self._fits(first):
            if not self._fits(last):
                raise ValueError(f"{self._named} takes images of shape {self._shape[1:]}, got {first}")
            x = x.permute(0, *range(2, x.ndim), 1)
        return x.detach().to("cpu", self._dtype).contiguous()

    def _fits(self, shape: tuple[int, ...]) -> bool:
        expected = self._shape[1:]
        return len(shape) == len(expected) and all(
            not isinstance(side, int) or side == found for side, found in zip(expected, shape, strict=True)
        )

    def _run(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor:  # what torch.export follows operations with
            raise ValueError(f"onnxruntime computes {self._named}, so that its operations cannot be followed")
        with in_one_line(f"{self._named} failed"):
            (logits,) = self._session.run([self._output], {self._image: x.numpy()})
            return torch.from_numpy(logits)


def _digest(source: Path | str | bytes, named: str) -> bytes:
    """SHA-256 of the file, and of the files of weights that it names."""
    onnx = need("onnx", "onnx")
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise ValueError(f"there is no file {source}")
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    with in_one_line(f"{named} cannot be read as an ONNX file"):
        model = onnx.load_model_from_string(content)
    digest = hashlib.sha256(content)
    for name in sorted(_external(model.graph)):
        if isinstance(source, bytes):
            raise ValueError(f"{named} keeps weights in the file {name}; give the path of the ONNX file instead")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{named} names the file {name}, which is not in its own folder")
        path = Path(source).parent / name
        if not path.is_file():
            raise ValueError(f"{named} needs the file of weights {name} beside it, which is not there")
        digest.update(name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


def _external(graph: Any) -> set[str]:
    """Names of the files in which a graph, or one inside of it, keeps tensors."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    tensors = [*graph.initializer, *(one for a in attributes for one in (a.t, *a.tensors))]
    found = {entry.value for one in tensors for entry in one.external_data if entry.key == "location"}
    for inner in (one for a in attributes for one in (a.g, *a.graphs) if one.node):
        found |= _external(inner)
    return found


def _providers(runtime: Any) -> list[Any]:
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    here = torch.cuda.is_available() and cuda[0] in runtime.get_available_providers()
    return [*([cuda] if here else []), "CPUExecutionProvider"]


def _only_input(session: Any, named: str) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(repr(one.name) for one in inputs)
        raise ValueError(f"{named} has {len(inputs)} inputs ({names}); expected one, the images")
    if inputs[0].type not in TYPES:
        raise ValueError(
            f"{named} takes {inputs[0].type} as {inputs[0].name!r}; expected floating-point images in [0, 1], with "
            "what makes them integers inside of the file"
        )
    return inputs[0]


def _logits(session: Any, named: str) -> str:
    """The name of the output that holds one number for each class."""
    outputs = [one for one in session.get_outputs() if one.type in TYPES]
    chosen = [one for one in outputs if one.name == "logits"] or outputs
    if len(chosen) > 1:
        chosen = [one for one in outputs if len(one.shape or ()) == 2]
    if len(chosen) != 1:
        told = ", ".join(f"{one.name!r} {one.type} {one.shape}" for one in session.get_outputs())
        raise ValueError(f"{named} returns {told}; expected one tensor (batch, class), or one that is called 'logits'")
    return chosen[0].name


class ExportedClassifier(nn.Module):
    """A classifier out of a `torch.export.ExportedProgram`; exported for one batch size, it gets batches of that.

    Raises:
        ValueError: it takes other things than one batch of images.
    """

    def __init__(self, program: Any) -> None:
        super().__init__()
        names = program.graph_signature.user_inputs
        (*_, inputs) = [[n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]]
        if len(inputs) != 1 or not isinstance(inputs[0].meta.get("val"), Tensor):
            raise ValueError(
                f"the exported program takes {len(names)} inputs ({', '.join(names)}); expected one: images"
            )
        self.program = program.module()
        side = inputs[0].meta["val"].shape[0]
        self.batch = side if isinstance(side, int) else None
        for part in self.modules():  # an exported program has no modes, and refuses .eval()
            part.training = False

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedClassifier:
        twin = ExportedClassifier.__new__(ExportedClassifier)
        nn.Module.__init__(twin)
        with warnings.catch_warnings():  # torch's own, about how it copies the structure of arguments
            warnings.simplefilter("ignore")
            twin.program, twin.batch = copy.deepcopy(self.program, memo), self.batch
        twin.training = False
        return twin

    def train(self, mode: bool = True) -> ExportedClassifier:
        if mode:
            raise ValueError("an exported program cannot be trained")
        return self

    def forward(self, x: Tensor) -> Tensor:
        return in_batches(lambda part: logits_of(self.program(part)), x, self.batch)


def read_exported(path: Path, allow_pickle: bool) -> ExportedClassifier:
    """The classifier in a .pt2 file.

    Raises:
        ValueError: reading it was not allowed, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if not allow_pickle:
        raise ValueError(
            f"{path} is read by torch.export.load, which runs pickles that its author may have put there; if you trust "
            "it, add --allow-pickle"
        )
    with in_one_line(f"{path} cannot be read as what torch.export.save writes"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path)
    return ExportedClassifier(program)


WRAPPERS = ("module", "_orig_mod")
"""What DistributedDataParallel, DataParallel and torch.compile put into the names of weights."""


def read_weights(path: Path, allow_pickle: bool | None = False) -> dict[str, Tensor]:
    """The state_dict in a file, on the CPU.

    Args:
        path: a .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt): a state_dict, alone or in a dictionary.
        allow_pickle: read a file that holds more than tensors, which runs whatever its author put there; None where
            nobody can allow it, and no message should say how.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of weights {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    return _state_dict(_unpickled(path, allow_pickle), path)


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The model with these weights; names of wrappers in theirs are ignored.

    Raises:
        ValueError: they do not fit; it says what is missing, too much, or of another shape.
    """
    expected, state = model.state_dict(), dict(state)
    if not set(state) <= set(expected):
        state = {".".join(part for part in key.split(".") if part not in WRAPPERS): state[key] for key in state}
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        found = _misfit(state, expected) or str(error).splitlines()[0]
        raise ValueError(f"the weights in {path} do not fit the model: {found}") from error
    return model


def checksum(state: Mapping[str, Tensor]) -> str:
    """16 hex digits of the SHA-256 of weights: of names, types, shapes and values, whatever the file is."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _unpickled(path: Path, allow_pickle: bool | None) -> Any:
    """What torch.save wrote: tensors and plain values need no trust, objects do."""
    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except Exception as error:  # a pickle may raise anything
        allowing = "" if allow_pickle is None else "add --allow-pickle, or "
        if not allow_pickle and isinstance(error, pickle.UnpicklingError):
            raise ValueError(
                f"{path} holds more than tensors: it is a pickle of objects, and reading that runs whatever code its "
                f"author put there; if you trust it, {allowing}save its state_dict alone"
            ) from None
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} cannot be read as what torch.save writes: {found}") from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint: a state_dict, a module, or a dictionary that holds one of them."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if isinstance(content, Mapping):
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(key), Mapping | nn.Module):
                return _state_dict(content[key], path)
        if any(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
    found = f"the keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else type(content)
    raise ValueError(f"expected a state_dict in {path}, alone or under 'state_dict' or 'model', found {found}")


def _misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """In what two state_dicts differ, the first few of each kind."""
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in state.keys() & expected.keys()
        if state[key].shape != expected[key].shape
    ]
    kinds = {
        "the file lacks": [key for key in expected if key not in state],
        "the model lacks": [key for key in state if key not in expected],
        "other shapes:": sorted(shapes),
    }
    return "; ".join(f"{kind} {_few(names)}" for kind, names in kinds.items() if names)


def _few(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
