"""A threat model: the sum of all changes, in the levels 0 to 255 of image files."""

from torch import Tensor

from holdfast.core.threat import Threat, l1

LEVELS = 255


class Levels(Threat):
    """The l1 norm with another unit."""

    name, symbol = "l1-levels", r"$\ell_1$"
    unit = "levels of 0 to 255"

    def diameter(self, numbers: int) -> float:
        return LEVELS * l1.diameter(numbers)

    def length(self, shift: Tensor) -> Tensor:
        return LEVELS * l1.length(shift)

    def project(self, shift: Tensor, radius: Tensor) -> Tensor:
        return l1.project(shift, radius / LEVELS)

    def direction(self, gradient: Tensor, smallest: float = 1e-30) -> Tensor:
        return l1.direction(gradient, smallest) / LEVELS


levels = Levels()
