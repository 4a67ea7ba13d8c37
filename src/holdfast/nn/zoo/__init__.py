"""Architectures by name, one family per file, each with a table ARCHITECTURES of functions from a data set."""

from torch import nn

from ...core.recipe import DataInfo
from ...core.registry import ARCHITECTURES, IMPORTABLE, in_a_line
from .split import in_two


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
