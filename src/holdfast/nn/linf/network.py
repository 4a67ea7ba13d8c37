"""A classifier of l-inf-distance neurons, in pixel units: a proof of robustness costs one forward pass.

Zhang, Cai, Lu, He & Wang, "Towards Certifying L-infinity Robustness using Neural Networks with L-inf-dist Neurons",
ICML 2021, https://arxiv.org/abs/2102.05363, theorem 3.2: at p = inf features and logits are 1-Lipschitz in l-inf. Its
last part, the head, bounds the difference of two logits: distances (section 3), or a perceptron (section 6.1, the nets
that they call l-inf-dist Net+MLP).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...core.certifier import unwrapped
from .layers import UNIT, LInfDistConv2d, LInfDistLinear, SortDistLinear, distance_layers


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


class LInfDistNet(nn.Module):
    """Images in [0, 1] -> std * head(body((x - mean) / std)), with one std for all channels.

    Args:
        body: layers of l-inf-distance neurons.
        head: from their features to logits.
        mean: of the pixels, per channel.
        std: of all pixels. Logits are multiplied by it, so that their constants hold in pixel units.
    """

    norm: str = "linf"
    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Sequential, head: Head, mean: tuple[float, ...], std: float) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        return self.head(self.body(self._normalized(x))) * self.std

    def tempered(self, logits: Float[Tensor, "batch class"]) -> Float[Tensor, "batch class"]:
        """Logits for cross-entropy: before the factor std, times the temperature of the head."""
        return logits * (self.head.temperature() / self.std)

    def lower_margins(self, lower: Tensor, upper: Tensor, label: Int[Tensor, " batch"]) -> Float[Tensor, "batch class"]:
        """A lower bound on logit_label - logit_j over all images between `lower` and `upper`; 0 for the label itself.

        Raises:
            ValueError: the network is not at p = inf, or in training mode.
        """
        self._refuse_change()
        lower, upper = self._normalized(lower), self._normalized(upper)
        for layer in self._layers():
            lower, upper = layer.bounds(lower, upper)
        return self.head.lower_margins(lower, upper, label) * self.std

    def difference_constants(self) -> Float[Tensor, "class class"]:
        """Entry (i, j) is a proven l-inf Lipschitz constant of logit_i - logit_j, in pixel units; float64.

        Raises:
            ValueError: the network is not at p = inf, or in training mode.
        """
        self._refuse_change()
        return self.head.difference_constants()

    def difference_errors(self) -> Float[Tensor, "class class"]:
        """By how much float64 can falsify a comparison of logit_i - logit_j between two images, or of their bounds.

        Holds for images in [-1, 2]: those in the cube, and all within its diameter. Bounds take up to 16 times as many
        bits as the forward pass, because `distance_bounds` moves its box.
        """
        limit = float((0.5 - self.mean.double()).abs().max() + 1.5) / float(self.std)
        error = 4 * limit * UNIT
        for layer in self._layers():
            limit, error = layer.rounding(limit, error)
        return 32 * float(self.std) * self.head.difference_errors(limit, error)

    def _normalized(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def _layers(self) -> list[LInfDistLinear | LInfDistConv2d]:
        return list(self.body)  # pyright: ignore[reportReturnType]

    def _refuse_change(self) -> None:
        if self.training:
            raise ValueError("in training mode the means depend on the batch, and nothing is proven; call .eval()")
        exponents = {layer.p for layer in distance_layers(self)}
        if exponents - {math.inf}:
            raise ValueError(
                f"at p = {min(exponents):g} the network is not 1-Lipschitz; "
                "call holdfast.nn.linf.set_exponent(network, math.inf)"
            )


def linf_net(model: object) -> LInfDistNet:
    """The network inside the wrappers that training puts around it; a ValueError if there is none."""
    expected = "a network of l-inf-distance neurons, such as linf-dist-1024x3, or a LInfDistNet of your own"
    return unwrapped(model, LInfDistNet, expected)
