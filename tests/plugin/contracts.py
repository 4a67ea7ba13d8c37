"""The contracts of certifiers, threat models and methods, for a package of one's own."""

from typing import ClassVar

import test_certifiers
import test_methods
import test_threat
from cases import Case, HalfSpace
from shapes.hoeffding import Hoeffding
from shapes.levels import LEVELS, levels
from shapes.training import UniformNoise
from shapes.uniform import Uniform
from torch import Tensor

from holdfast import Gaussian
from holdfast.certifiers.adaptive import Adaptive

SETTINGS = {"sigma": 0.5, "alpha": 0.05, "noise": Uniform()}


def distance(x: Tensor) -> Tensor:
    """To the hyperplane of HalfSpace, which symmetric noise leaves where it is: the largest weight is the dual norm."""
    return LEVELS * HalfSpace().score(x.double()).abs() / HalfSpace().get_buffer("w").double().abs().max()


class TestCertifier(test_certifiers.TestEveryCertifier):
    table: ClassVar = {
        "hoeffding-uniform": Case(Hoeffding(n=2000, **SETTINGS), distance=distance),
        "gaussian-uniform": Case(Gaussian(n=2000, **SETTINGS), distance=distance),
        "adaptive-uniform": Case(Adaptive(n_max=2000, **SETTINGS), distance=distance),
    }


class TestThreat(test_threat.TestThreat):
    table: ClassVar = {"levels": levels}


class TestMethod(test_methods.TestMethod):
    table: ClassVar = {"uniform": test_methods.Case(UniformNoise(test_methods.QUIET), UniformNoise(0.1))}
