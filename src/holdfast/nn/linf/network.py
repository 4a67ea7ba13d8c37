"""A classifier of l-inf-distance neurons, in pixel units: a proof of robustness costs one forward pass.

Zhang, Cai, Lu, He & Wang, "Towards Certifying L-infinity Robustness using Neural Networks with L-inf-dist Neurons",
ICML 2021, https://arxiv.org/abs/2102.05363, theorem 3.2: at p = inf features and logits are 1-Lipschitz in l-inf.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...core.certifier import unwrapped
from .heads import Head
from .layers import UNIT, LInfDistConv2d, LInfDistLinear, distance_layers


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
