"""A classifier in two halves: noise is added to the features between them, and the radius is measured before them.

Zhong & Tandon, "SPLITZ: Certifiable Robustness via Split Lipschitz Randomized Smoothing", IEEE TIFS 20, 2025,
https://arxiv.org/abs/2407.02811, section 3. Where a network of ours can be cut has a name: `lenet@conv1` is `lenet` cut
behind its first convolution, whose ReLUs up to there are clipped.
"""

from typing import Literal

import torch
from torch import Tensor, fx, nn

from ..core.registry import unknown
from .lipschitz.network import materialise

Part = Literal["whole", "left", "right"]


class SplitClassifier(nn.Module):
    """right(left(x)): images in [0, 1] -> features -> logits.

    Everything that happens to an image before the noise belongs to the left half: also the normalisation.

    Args:
        left: a chain of layers with a proven bound; an empty `nn.Sequential` leaves plain smoothing.
        right: any network.
    """

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        if not isinstance(left, nn.Module) or not isinstance(right, nn.Module):
            found = f"{type(left).__name__} and {type(right).__name__}"
            raise ValueError(f"expected two halves that are torch.nn.Module, got {found}")
        self.left, self.right = left, right

    @classmethod
    def cut(cls, model: nn.Module, at: int | str) -> "SplitClassifier":
        """A network in two; the layers are shared, not copied.

        Args:
            model: an `nn.Sequential`, or any network that `torch.fx` can trace.
            at: the path of the module that ends the left half, such as "layer2.3"; or how many layers of an
                `nn.Sequential` come first.

        Raises:
            ValueError: there is no such cut, because the right half would need a value from before it, or the network
                cannot be traced.
        """
        if not isinstance(model, nn.Module) or isinstance(at, bool) or not isinstance(at, int | str):
            raise ValueError(
                f"expected a torch.nn.Module and the name of a part, got {type(model).__name__} and {at!r}"
            )
        if not isinstance(model, nn.Sequential) and isinstance(at, int):
            raise ValueError(
                f"only an nn.Sequential can be cut behind layer {at}, got a {type(model).__name__}; name a module"
            )
        names = [name for name, _ in model.named_children()]
        if not isinstance(model, nn.Sequential) or (isinstance(at, str) and at not in names):
            return cls(*_traced(model, str(at)))
        at = names.index(at) + 1 if isinstance(at, str) else at
        if not 0 <= at < len(names):
            raise ValueError(f"cannot cut a chain of {len(names)} layers at {at}: expected 0 to {len(names) - 1}")
        layers = list(model.children())
        return cls(nn.Sequential(*layers[:at]), nn.Sequential(*layers[at:]))

    def forward(self, x: Tensor, part: Part = "whole") -> Tensor:
        """The logits of images; or the features of images (left), or the logits of features (right)."""
        if part == "right":
            return self.right(x)
        features = self.left(x)
        return features if part == "left" else self.right(features)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """What the noise is added to, as it is certified: computed in float64, then rounded to the precision of x."""
        return materialise(self.left)(x.to(torch.float64, copy=True)).to(x.dtype)


def _traced(model: nn.Module, at: str) -> tuple[nn.Module, nn.Module]:
    """The halves of a network that is no chain, as graphs of its live modules."""
    paths = [name for name, _ in model.named_modules() if name]
    if at not in paths:
        raise unknown("module to cut behind", at, paths)
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception as error:  # tracing runs the user's own forward on stand-ins, and may raise anything
        raise ValueError(f"cannot cut a {type(model).__name__}, which torch.fx cannot trace: {error}") from error
    inside = [place for place, node in enumerate(nodes) if at in (node.target, *node.meta.get("nn_module_stack", ()))]
    end = max(inside, default=0)
    late = {used for node in nodes[end + 1 :] for used in node.all_input_nodes} - {nodes[end]}
    weights = [node for node in nodes[:end] if node in late and node.op == "get_attr"]
    early = [node for node in nodes[:end] if node in late and node.op != "get_attr"]
    if not 0 < end < len(nodes) - 2 or early:
        reason = f"what is behind it also uses {early[0]}" if early else "all of it is on one side"
        raise ValueError(f"a {type(model).__name__} cannot be cut at {at!r}: {reason}")
    left, right = fx.Graph(), fx.Graph()
    before: dict[fx.Node, fx.Node] = {}
    behind = {nodes[end]: right.placeholder("features")}
    for node in nodes[: end + 1]:
        before[node] = left.node_copy(node, before.__getitem__)
    left.output(before[nodes[end]])
    for node in [*weights, *nodes[end + 1 :]]:
        behind[node] = right.node_copy(node, behind.__getitem__)
    return fx.GraphModule(model, left), fx.GraphModule(model, right)
