"""Architectures by name, one family per file, each with a table ARCHITECTURES of functions from a data set."""

from torch import nn

from ...core.recipe import DataInfo
from ...core.registry import ARCHITECTURES, IMPORTABLE


def build(arch: str, data: DataInfo) -> nn.Module:
    """A freshly initialized architecture for a data set.

    Args:
        arch: a name that `holdfast list architectures` shows, or `package.module:function`, called with `data`.
        data: of the images.

    Raises:
        ValueError: there is no architecture of that name, or it does not fit the images.
    """
    make = ARCHITECTURES[arch]
    try:
        network = make(data)
    except Exception as error:
        if isinstance(error, ValueError) or not IMPORTABLE.fullmatch(arch):
            raise
        raise ValueError(f"{arch} raised {type(error).__name__}: {error}") from error  # the user's code may do anything
    if not isinstance(network, nn.Module):
        raise ValueError(f"the architecture {arch} returned a {type(network).__name__}; expected a torch.nn.Module")
    return network
