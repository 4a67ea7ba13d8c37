"""A device that is not the CPU, played by the CPU, with the rules of a GPU: tensors of two devices do not mix, random
numbers come from a generator of the device, and NumPy sees none of it.

    python tests/other_device.py

certifies images on both, in every case, and prints both lists as JSON. It runs in a process of its own, for it
registers the device.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as tree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast import Gaussian
from holdfast.bounds import norms
from holdfast.certifiers.linf_box import LInfBox
from holdfast.certifiers.margin import Margin
from holdfast.core.certifier import Seed
from holdfast.core.recipe import DataInfo
from holdfast.core.registry import RECIPES
from holdfast.nn import zoo
from holdfast.program import capture

backend_registration._setup_privateuseone_for_python_backend("gpu")
GPU = torch.device("gpu:0")

MIXES = (
    "aten::_to_copy",
    "aten::copy_",
    "aten::index",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::index_put",
)
"""They take tensors of both."""
ANSWERS = ("aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero")
"""They wait for the device and give a number of Python."""


class Elsewhere(Tensor):
    """Says that it is on the device; its numbers are in `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=GPU
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Elsewhere({self.held})"

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert gpu:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")

    def tolist(self) -> Any:
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = Elsewhere(self.held.detach().clone())
        is_weight = isinstance(self, torch.nn.Parameter)
        return memo.setdefault(id(self), torch.nn.Parameter(copied, self.requires_grad) if is_weight else copied)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """An operation, if a GPU would do it."""
    flat = tree.tree_leaves((args, kwargs))
    there = [one for one in flat if isinstance(one, Elsewhere)]
    here = [one for one in flat if isinstance(one, Tensor) and not isinstance(one, Elsewhere)]
    name, device = func._schema.name, kwargs.get("device")
    result_there = bool(there) if device is None else torch.device(device).type == "gpu"
    if there and name not in MIXES and any(one.dim() for one in here):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
    if name == "aten::index" and there and not isinstance(args[0], Elsewhere):
        raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor (cpu): {func}")
    if result_there and any(isinstance(one, torch.Generator) for one in flat):  # all generators here are the CPU's
        raise RuntimeError(f"Expected a 'gpu' device type for generator but found 'cpu': {func}")

    def held(one: Any) -> Any:
        if isinstance(one, torch.device):
            return torch.device("cpu")
        return one.held if isinstance(one, Elsewhere) else one

    on_cpu, named = tree.tree_map(held, (args, dict(kwargs)))
    with torch._C.DisableTorchFunction():
        found = func(*on_cpu, **named)
    changed = [
        kwargs.get(one.name, args[place] if place < len(args) else None)
        for place, one in enumerate(func._schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write
    ]
    if changed and len(func._schema.returns) == 1:
        return changed[0]
    if name in ANSWERS or not result_there:
        return found
    return tree.tree_map_only(Tensor, lambda one: one if isinstance(one, Elsewhere) else Elsewhere(one), found)


class Rules(TorchDispatchMode):
    """Operations that no tensor of the device takes part in, such as those that make one there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Made(TorchFunctionMode):
    """torch.tensor and torch.as_tensor go by no operation that names their device, nor does a list that is an index."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.__getitem__ and isinstance(args[1], list):
            return args[0][torch.tensor(args[1])]
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **kwargs)
        device = torch.device(kwargs.pop("device", None) or torch.get_default_device())
        data, *rest = args
        made = func(data.held if isinstance(data, Elsewhere) else data, *rest, **kwargs, device="cpu")
        return Elsewhere(made) if device.type == "gpu" or isinstance(data, Elsewhere) else made


SAMPLING = Gaussian(0.5, n0=20, n=200)
CASES = {
    "GloRo": ("gloro-2c2f", Margin()),
    "GloRo, wide layers": ("gloro-mlp-512-256-6x128", Margin()),
    "LiResNet": ("liresnet-2x32", Margin()),
    "l-inf-distance net": (RECIPES["linf-dist-digits-0.1"].arch, LInfBox(steps=2)),
    "SPLITZ": ("lenet@conv1", RECIPES["splitz-mnist-0.50"].method.certifier().with_sampling(SAMPLING)),
    "smoothed": ("lenet", SAMPLING),
}
"""Architectures, and what certifies them."""


def certificates(arch: str, certifier: Any) -> tuple[list[Any], list[Any]]:
    """Of images here, and of the same ones there: prediction and radius."""
    info = DataInfo("digits", (1, 8, 8), 10, (0.3,), (0.4,))
    if arch.startswith("lenet"):
        info = DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,))
    torch.manual_seed(0)
    network = zoo.build(arch, info).eval()
    network = network if "@" in arch else capture(network, info.shape).module()
    x = torch.randint(0, 256, (2, *info.shape)) / 255

    def proven(model: Any, x: Tensor) -> list[Any]:
        norms._KNOWN.clear()
        found = certifier.certify_batch(model, x, [Seed(0, 0), Seed(0, 1)], 64)
        return [(one.prediction, one.radius) for _, one in found]

    with torch.no_grad():
        here = proven(network, x)
        with Rules(), Made():
            return here, proven(network.to(GPU), x.to(GPU))


def main() -> None:
    """Print what is proven, or why it is not."""
    torch.set_num_threads(1)
    norms._kept = lambda key: None  # nothing that was proven before, on the other device
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        try:
            found[name] = certificates(*case)
        except (RuntimeError, TypeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
