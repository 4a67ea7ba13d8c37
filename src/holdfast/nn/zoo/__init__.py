"""Architectures by name: related families in a file, with a table ARCHITECTURES of functions from a data set.

Ours can be had in two halves: `lenet@conv1` is `lenet` cut behind its first convolution, with clipped ReLUs up to
there. Zhong & Tandon, "SPLITZ", IEEE TIFS 20, 2025, https://arxiv.org/abs/2407.02811, section 3.
"""

import copy

import torch
from torch import nn

from ...bounds.convolution import estimated_norm
from ...core.recipe import DataInfo
from ...core.registry import ARCHITECTURES, IMPORTABLE, in_a_line, unknown
from ..lipschitz.layers import ClippedReLU
from ..lipschitz.local import affine_of
from ..split import SplitClassifier


def clipped(left: nn.Module) -> nn.Module:
    """A copy in which every ReLU is a `ClippedReLU`."""
    left = copy.deepcopy(left)
    for name, layer in left.named_children():
        setattr(left, name, ClippedReLU() if isinstance(layer, nn.ReLU) else clipped(layer))
    return left


def _blocks(first: int, *stages: int) -> dict[str, int]:
    """`layer2.3` is behind block 3, from 0 on, of the second stage; the first block is layer `first` of the chain."""
    names = [f"layer{stage}.{block}" for stage, count in enumerate(stages, 1) for block in range(count)]
    return {name: first + index for index, name in enumerate(names, 1)}


CUTS: dict[str, dict[str, int]] = {
    "cnn": {"conv1": 2, "conv2": 4},
    "lenet": {"conv1": 2, "pool1": 3, "conv2": 5, "pool2": 6},
    "front-lenet": {"front": 2},
    "resnet20": {"conv1": 4, **_blocks(4, 3, 3, 3)},
    "resnet110": {"conv1": 4, **_blocks(4, 18, 18, 18)},
    "resnet50": {"conv1": 4, **_blocks(5, 3, 4, 6, 3)},
}
"""Names of the cut points of our architectures, and how many layers are before each."""


def in_two(whole: nn.Module, arch: str, cut: str, shape: tuple[int, ...]) -> SplitClassifier:
    """A freshly initialized architecture, cut at one of the names in `CUTS` or behind any of its modules.

    Args:
        shape: of an image.

    Raises:
        ValueError: it has no such cut point; the nearest names are suggested.
    """
    known = CUTS.get(arch, {})
    paths = dict(whole.named_modules())
    if cut not in known and cut not in paths:
        raise unknown(f"cut point of {arch}", cut, known or paths, f"holdfast list cuts {arch}")
    halves = SplitClassifier.cut(whole, known.get(cut, cut))
    left = clipped(halves.left)
    _start_small(left, shape)
    return SplitClassifier(left, halves.right)


@torch.no_grad()
def _start_small(left: nn.Module, shape: tuple[int, ...]) -> None:
    """Divide the weights of every convolution by its norm: from a constant of 1 on, a small one is soon learnt."""

    def divide(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        affine = affine_of(layer)
        assert affine is not None
        assert isinstance(layer, nn.Conv2d)
        layer.weight.data /= estimated_norm(affine, torch.ones(()), torch.ones_like(inputs[0]), steps=20)

    hooks = [part.register_forward_pre_hook(divide) for part in left.modules() if isinstance(part, nn.Conv2d)]
    training = left.training
    left.eval()(torch.zeros(1, *shape))
    left.train(training)
    for hook in hooks:
        hook.remove()


def build(arch: str, data: DataInfo) -> nn.Module:
    """A freshly initialized architecture for a data set.

    Args:
        arch: a name that `holdfast list architectures` shows, or `package.module:function`, called with `data`; with
            `@` and the name of a cut behind it, see `holdfast list cuts`, a `SplitClassifier`.
        data: of the images.

    Raises:
        ValueError: there is no architecture of that name, or it does not fit the images.
    """
    whole, at, cut = arch.partition("@")
    make = ARCHITECTURES[whole]
    try:
        network = make(data)
    except Exception as error:
        if isinstance(error, ValueError) or not IMPORTABLE.fullmatch(whole):
            raise
        raise ValueError(f"{whole} raised {in_a_line(error)}") from error  # the user's code may do anything
    if not isinstance(network, nn.Module):
        raise ValueError(f"the architecture {whole} returned a {type(network).__name__}; expected a torch.nn.Module")
    return in_two(network, whole, cut, data.shape) if at else network
