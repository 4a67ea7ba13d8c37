"""Layers of l-inf-distance neurons: 1-Lipschitz in l-inf at p = inf and in eval mode, whatever their weights are.

Zhang, Cai, Lu, He & Wang, "Towards Certifying L-infinity Robustness using Neural Networks with L-inf-dist Neurons",
ICML 2021, https://arxiv.org/abs/2102.05363, sections 3 to 5. A neuron's output is the distance of its input to its
weights. The mean of each output over the batch is subtracted; it is not scaled, which would change the constant. At the
end: the exponent p over training.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...bounds.box import distance_bounds
from ...core.config import Config
from ...ops.distance import dist, dist_of_parts, sort_dist, sort_dist_bounds, sort_weights
from ..processes import over_processes

UNIT = 2.0**-53
"""Largest relative error of one operation in float64."""
TERMS = 10
"""Sorted differences that count, as in the code of SortNet."""
GROUP = 32
"""Examples that share a random part of the inputs, as there."""


class LInfDistLinear(nn.Module):
    """Distances of the input to each row of the weights, less their mean over the batch.

    Args:
        inputs: numbers in one example; images are flattened.
        identity: output o starts with the weight -identity at its own input, so that |x_o + identity| is its largest
            term and the layer passes its inputs on; with fewer outputs than inputs these are chosen at random. None:
            all weights start as N(0, 1).
        shift: subtract the mean; else add a bias, as the last layer does.

    `p` is inf unless training lowers it (`set_exponent`).
    """

    mean: Tensor

    def __init__(self, inputs: int, outputs: int, identity: float | None = 10.0, shift: bool = True) -> None:
        super().__init__()
        self.p, self.momentum = math.inf, 0.1
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = None if shift else nn.Parameter(torch.zeros(outputs))
        if shift:
            self.register_buffer("mean", torch.zeros(outputs))
        if identity is not None:
            own = torch.arange(outputs) % inputs if inputs <= outputs else torch.randperm(inputs)[:outputs]
            with torch.no_grad():
                self.weight[torch.arange(outputs), own] = -identity

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        y = self.distances(x.flatten(1))
        if self.bias is None and self.training:
            mean = over_processes(y.mean(0))
            self.mean.lerp_(mean.detach(), self.momentum)
            return y - mean
        return y + self._offset()

    def distances(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """What the mean is subtracted from, or the bias added to."""
        return dist(x, self.weight, self.p)

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds on the outputs for all inputs in a box; eval mode, p = inf."""
        lower, upper = self._extremes(lower.flatten(1), upper.flatten(1))
        return lower + self._offset(), upper + self._offset()

    def rounding(self, limit: float, error: float) -> tuple[float, float]:
        """(largest output, its error) in float64, for inputs of at most `limit` that are known up to `error`."""
        limit = limit + float(self.weight.detach().abs().max())
        reach = limit + float(self._offset().detach().abs().max())
        return reach, error + (self._roundings() * limit + reach) * UNIT

    def _extremes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Of `distances`, over a box."""
        return distance_bounds(lower, upper, self.weight)

    def _roundings(self) -> int:
        """Of a distance, in units of the largest difference."""
        return 1

    def _offset(self) -> Tensor:
        return -self.mean if self.bias is None else self.bias


class SortDistLinear(LInfDistLinear):
    """SortNet's neurons: distances in the norm that sums the ten largest differences with geometric weights.

    Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function Perspective",
    NeurIPS 2022, https://arxiv.org/abs/2210.01787, section 4. In training they are estimated, as with dropout: by the
    largest difference (by the l_p distance while p is finite) of a random part of the inputs, drawn for every `GROUP`
    examples. The mean of the largest is the sorted sum, but for what is beyond its last term. In eval mode they are
    exact, and 1-Lipschitz in l-inf at p = inf. In their code all parts that a layer draws for a batch are of one random
    size, and outputs that the next layer leaves out are not computed, nor counted in their mean; here sizes are drawn
    one by one, and every output is computed.

    Args:
        keep: probability of an input to be in the part; 1 makes it a `LInfDistLinear`.
        identity: see `LInfDistLinear`.
    """

    def __init__(
        self, inputs: int, outputs: int, keep: float, identity: float | None = None, shift: bool = True
    ) -> None:
        super().__init__(inputs, outputs, identity, shift)
        sort_weights(keep, TERMS)
        self.keep, self.group = keep, GROUP

    def distances(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """The estimate where gradients are wanted in training mode; else the sorted sum."""
        if self.training and torch.is_grad_enabled():
            groups = range(0, len(x), self.group)
            kept = torch.stack([torch.rand(x.shape[1], device=x.device) < self.keep for _ in groups])
            return dist_of_parts(x, self.weight, kept, self.group, self.p)
        return sort_dist(x, self.weight, self.keep, TERMS) if self.p == math.inf else dist(x, self.weight, self.p)

    def _extremes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return sort_dist_bounds(lower, upper, self.weight, self.keep, TERMS)

    def _roundings(self) -> int:
        return TERMS + 8


class LInfDistConv2d(nn.Module):
    """`LInfDistLinear` at every position of an image, which is padded with zeros.

    Args:
        kernel: side of the square that one neuron sees.
        identity: as for `LInfDistLinear`, at the centre of the square.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, identity: float | None = 10.0
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.neurons = LInfDistLinear(inputs * kernel**2, outputs, identity=None)
        if identity is not None:
            own = torch.arange(outputs) % inputs * kernel**2 + kernel // 2 * (kernel + 1)
            with torch.no_grad():
                self.neurons.weight[torch.arange(outputs), own] = -identity

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        return self._image(self.neurons(self._patches(x)), x)

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """See `LInfDistLinear.bounds`."""
        low, high = self.neurons.bounds(self._patches(lower), self._patches(upper))
        return self._image(low, lower), self._image(high, upper)

    def rounding(self, limit: float, error: float) -> tuple[float, float]:
        """See `LInfDistLinear.rounding`."""
        return self.neurons.rounding(limit, error)

    def _patches(self, x: Tensor) -> Tensor:
        """(batch * positions, inputs * kernel * kernel)."""
        return F.unfold(x, self.kernel, padding=self.padding, stride=self.stride).transpose(1, 2).flatten(0, 1)

    def _image(self, y: Tensor, x: Tensor) -> Tensor:
        rows, columns = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in x.shape[2:])
        return y.unflatten(0, (len(x), rows, columns)).permute(0, 3, 1, 2)


class SortDistConv2d(LInfDistConv2d):
    """`SortDistLinear` at every pixel of an image; all positions of an image share the part of its channels."""

    def __init__(self, inputs: int, outputs: int, keep: float) -> None:
        super().__init__(inputs, outputs, 1, identity=None)
        self.neurons: SortDistLinear = SortDistLinear(inputs, outputs, keep)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs height width"]:
        if self.training:
            self.neurons.group = GROUP * x.shape[2] * x.shape[3]
        return super().forward(x)


def distance_layers(model: nn.Module) -> list[LInfDistLinear]:
    """All layers of l-inf-distance neurons in a network."""
    return [layer for layer in model.modules() if isinstance(layer, LInfDistLinear)]


def set_exponent(model: nn.Module, p: float) -> None:
    """Let every distance layer compute the l_p distance."""
    for layer in distance_layers(model):
        layer.p = p


@torch.no_grad()
def estimate_means(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running means by the means over all images, at p = inf, and leave the network in eval mode.

    Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness", NeurIPS 2022,
    https://arxiv.org/abs/2210.01787, do so before they certify. Sorted neurons take part as they will be certified.
    """
    set_exponent(model, math.inf)
    model.train()
    seen = 0
    for images in batches:
        seen += len(images)
        for layer in distance_layers(model):
            layer.momentum = len(images) / seen
        model(images)
    for layer in distance_layers(model):
        layer.momentum = 0.1
    model.eval()


LADDER = sorted({2.0**k for k in range(3, 11)} | {3 * 2.0**k for k in range(2, 9)})
"""8, 12, 16, 24, 32, ..., 1024: two steps per octave."""


@dataclass(frozen=True)
class ExponentSchedule(Config):
    """p = 8 at first, then exponentially up to `p_end`, then inf.

    Zhang, Cai, Lu, He & Wang, ICML 2021, https://arxiv.org/abs/2102.05363, section 5.2. Ours: p on a ladder of
    integers, whose powers are a few products; their code takes another p for every batch.
    """

    p_constant: float = 0.45
    """Share of training with p = 8."""
    p_inf: float = 0.1
    """Share of training with p = inf, at the end."""
    p_end: float = 1000.0
    """The exponent that the growth ends with, at most 1024."""

    def __post_init__(self) -> None:
        if not (self.p_constant >= 0 and self.p_inf > 0 and self.p_constant + self.p_inf < 1):
            found = f"{self.p_constant} and {self.p_inf}"
            raise ValueError(f"expected p_constant >= 0 and p_inf > 0 with a sum below 1, got {found}")
        if not LADDER[0] <= self.p_end <= LADDER[-1]:
            raise ValueError(f"expected p_end between {LADDER[0]:g} and {LADDER[-1]:g}, got {self.p_end}")

    @classmethod
    def of_epochs(cls, constant: int, growing: int, final: int) -> "ExponentSchedule":
        """From numbers of epochs, as papers give them."""
        total = constant + growing + final
        return cls(constant / total, final / total)

    def growth(self, t: float) -> float:
        """From 0 to 1 while p grows; t is the progress in [0, 1]. Published losses decay with it."""
        return min(1.0, max(0.0, (t - self.p_constant) / (1 - self.p_inf - self.p_constant)))

    def exponent(self, t: float) -> float:
        """p at progress t: the step of the ladder next to the exponential, or inf."""
        if t >= 1 - self.p_inf - 1e-9:
            return math.inf
        wanted = LADDER[0] * (self.p_end / LADDER[0]) ** self.growth(t)
        return min(LADDER, key=lambda step: abs(math.log(step / wanted)))
