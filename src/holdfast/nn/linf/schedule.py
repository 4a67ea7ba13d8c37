"""The exponent p over training: constant, then growing exponentially, then inf.

Zhang, Cai, Lu, He & Wang, ICML 2021, https://arxiv.org/abs/2102.05363, section 5.2.
Ours: p on a ladder of integers, whose powers are a few products; their code takes another p for every batch.
"""

import math
from dataclasses import dataclass

from ...core.config import Config

LADDER = sorted({2.0**k for k in range(3, 11)} | {3 * 2.0**k for k in range(2, 9)})
"""8, 12, 16, 24, 32, ..., 1024: two steps per octave."""


@dataclass(frozen=True)
class ExponentSchedule(Config):
    """p = 8 at first, then exponentially up to `p_end`, then inf."""

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
