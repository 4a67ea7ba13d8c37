"""The last part of an l-inf-distance net, from features to logits, with bounds on the difference of two logits.

Distances: Zhang et al., ICML 2021, https://arxiv.org/abs/2102.05363, section 3; a perceptron: section 6.1, the nets
that they call l-inf-dist Net+MLP.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .layers import UNIT, LInfDistLinear, SortDistLinear


class Temperature(nn.Module):
    """A factor on logits, 1 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self) -> Tensor:
        return self.factor


class DistanceHead(nn.Module):
    """logit_i = -(|h - w_i|_inf + b_i): the nearest prototype wins.

    Args:
        keep: below 1 the distances are those of `SortDistLinear`, and the temperature that of `Temperature`.
    """

    def __init__(self, features: int, classes: int, keep: float = 1.0) -> None:
        super().__init__()
        if keep < 1:
            self.distances, self.heat = SortDistLinear(features, classes, keep, shift=False), Temperature()
        else:
            self.distances = LInfDistLinear(features, classes, identity=None, shift=False)
            self.heat = nn.Parameter(torch.zeros(()))

    def forward(self, h: Float[Tensor, "batch features"]) -> Float[Tensor, "batch class"]:
        return -self.distances(h)

    def temperature(self) -> Tensor:
        """A factor on the logits for cross-entropy, learnt from 1 on.

        It moves at a fifth of Adam's rate: 0.006 where that is 0.03, as in their code of 2022. That of SortNet moves at
        the whole rate, and decays to 0, as in its code.
        """
        return self.heat() if isinstance(self.heat, Temperature) else 1 + self.heat / 5

    def lower_margins(self, lower: Tensor, upper: Tensor, label: Int[Tensor, " batch"]) -> Float[Tensor, "batch class"]:
        """A lower bound on logit_label - logit_j for all features in a box; 0 for the label itself."""
        nearest, farthest = self.distances.bounds(lower, upper)
        margins = nearest - farthest.gather(1, label[:, None])
        return margins.scatter(1, label[:, None], 0)

    def difference_constants(self) -> Float[Tensor, "class class"]:
        """Of logit_i - logit_j, with respect to the features in l-inf."""
        classes = len(self.distances.weight)
        return 2 * (1 - torch.eye(classes, dtype=torch.float64))

    def difference_errors(self, limit: float, error: float) -> Float[Tensor, "class class"]:
        """By how much float64 falsifies logit_i - logit_j, for features up to `limit` known up to `error`."""
        _, error = self.distances.rounding(limit, error)
        return torch.full_like(self.difference_constants(), 2 * error)


class TanhHead(nn.Module):
    """One hidden layer with tanh. Sums are divided by the root of their length, and weights start as N(0, 1).

    Args:
        tempered: learn a `Temperature`, as SortNet does.
    """

    def __init__(self, features: int, hidden: int, classes: int, tempered: bool = False) -> None:
        super().__init__()
        self.heat = Temperature() if tempered else None
        self.first = nn.Linear(features, hidden)
        self.last = nn.Linear(hidden, classes)
        for layer in (self.first, self.last):
            nn.init.normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch class"]:
        return _scaled(self.last, torch.tanh(_scaled(self.first, h.flatten(1))))

    def temperature(self) -> Tensor:
        """1 unless it is learnt: a perceptron scales its logits itself."""
        return self.last.weight.new_ones(()) if self.heat is None else self.heat()

    def lower_margins(self, lower: Tensor, upper: Tensor, label: Int[Tensor, " batch"]) -> Float[Tensor, "batch class"]:
        """As for `DistanceHead`; the last layer is bounded per pair of classes."""
        lower, upper = lower.flatten(1), upper.flatten(1)
        middle = _scaled(self.first, (lower + upper) / 2)
        reach = ((upper - lower) / 2) @ self.first.weight.abs().T / math.sqrt(self.first.in_features)
        lower, upper = torch.tanh(middle - reach), torch.tanh(middle + reach)
        weight = (self.last.weight[label][:, None] - self.last.weight) / math.sqrt(self.last.in_features)
        bias = self.last.bias[label][:, None] - self.last.bias
        middle, reach = (lower + upper) / 2, (upper - lower) / 2
        return (weight @ middle[..., None] - weight.abs() @ reach[..., None]).squeeze(2) + bias

    def difference_constants(self) -> Float[Tensor, "class class"]:
        """As for `DistanceHead`: sum_h |v_ih - v_jh| |w_h|_1, since tanh is 1-Lipschitz."""
        lengths = self.first.weight.detach().double().abs().sum(1) / math.sqrt(self.first.in_features)
        return self._differences() @ lengths * (1 + 4 * (self.first.in_features + self.last.in_features) * UNIT)

    def difference_errors(self, limit: float, error: float) -> Float[Tensor, "class class"]:
        """As for `DistanceHead`, with dot products at their worst."""
        hidden = _worst(self.first, limit) * (self.first.in_features + 8) * UNIT + 8 * UNIT
        logits = _worst(self.last, 1.0) * (self.last.in_features + 8) * UNIT
        return self.difference_constants() * error + self._differences() @ hidden + logits[:, None] + logits

    def _differences(self) -> Tensor:
        """|v_ih - v_jh|, (class, class, hidden)."""
        weight = self.last.weight.detach().double() / math.sqrt(self.last.in_features)
        return (weight[:, None] - weight).abs()


Head = DistanceHead | TanhHead


def _scaled(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T / math.sqrt(layer.in_features) + layer.bias


def _worst(layer: nn.Linear, limit: float) -> Tensor:
    """The largest output of each neuron, for inputs of at most `limit`; float64."""
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    return weight.abs().sum(1) / math.sqrt(layer.in_features) * limit + bias.abs()
