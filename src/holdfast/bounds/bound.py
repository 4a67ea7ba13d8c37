"""What is proven about a map between l2 spaces: its Lipschitz constant, and how far float64 takes it from the truth.

Constants multiply along a chain (Szegedy et al., "Intriguing properties of neural networks", ICLR 2014, section 4.3,
https://arxiv.org/abs/1312.6199). Rounding follows the standard model of floating-point arithmetic (Higham, "Accuracy
and Stability of Numerical Algorithms", 2002, section 3.1): a sum of n products is off by at most n u / (1 - n u) times
the sum of the absolute values.
"""

from __future__ import annotations

from dataclasses import dataclass

from .verified import ETA, UNIT, product, up


@dataclass(frozen=True)
class Bound:
    """A map f with |f(x) - f(y)| <= norm |x - y| and |f(x)| <= norm |x| + offset, computed with an error.

    What a computer returns for f(x) is within error |x| + error_offset of it.
    """

    norm: float
    """A Lipschitz constant, rounded up."""
    offset: float = 0.0
    """At least |f(0)|."""
    error: float = 0.0
    error_offset: float = 0.0

    @classmethod
    def of_layer(cls, norm: float, offset: float = 0.0, gain: float | None = None, terms: int = 0) -> Bound:
        """A layer with `terms` roundings in each output.

        Args:
            gain: norm of the map whose weights are the absolute values of the layer's; by default `norm`.
        """
        gamma = terms * UNIT / (1 - terms * UNIT)
        return cls(norm, offset, gamma * (norm if gain is None else gain), gamma * offset + ETA)

    def after(self, first: Bound) -> Bound:
        """The composition: `first`, then this map."""
        computed = self.norm + self.error
        return Bound(
            norm=product(self.norm, first.norm),
            offset=self.norm * first.offset + self.offset,
            error=computed * first.error + self.error * first.norm,
            error_offset=computed * first.error_offset + self.error * first.offset + self.error_offset,
        )

    def plus_identity(self) -> Bound:
        """The residual map x + f(x)."""
        return Bound(
            norm=up(1 + self.norm),
            offset=self.offset,
            error=self.error + UNIT * (1 + self.norm + self.error),
            error_offset=self.error_offset + UNIT * (self.offset + self.error_offset) + ETA,
        )


IDENTITY = Bound(1.0)
