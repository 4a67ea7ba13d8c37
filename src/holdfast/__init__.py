"""holdfast: train image classifiers whose predictions provably hold inside a ball, prove the radius, compare.

from holdfast import Gaussian, certify
certificates = certify(model, images, Gaussian(sigma=0.25))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .certification.driver import certify as certify
    from .certification.smoothed import SmoothedClassifier as SmoothedClassifier
    from .certifiers.gaussian import Gaussian as Gaussian
    from .certifiers.split import Split as Split
    from .core.certificate import Certificate as Certificate
    from .core.certificate import Record as Record
    from .core.certifier import Certifier as Certifier
    from .nn.split import SplitClassifier as SplitClassifier
    from .opening import load as load
    from .report.logs import read_log as read_log
    from .training.loop import train as train

_HOMES = {
    "certify": "certification",
    "Gaussian": "certifiers.gaussian",
    "Split": "certifiers.split",
    "SplitClassifier": "models.split",
    "load": "loading",
    "read_log": "report.logs",
    "SmoothedClassifier": "smoothed",
    "train": "training",
    "Certificate": "types",
    "Certifier": "types",
    "Record": "types",
}
"""Where the public names live. They are imported when first used: reading a report needs no torch."""

__all__ = [
    "Certificate",
    "Certifier",
    "Gaussian",
    "Record",
    "SmoothedClassifier",
    "Split",
    "SplitClassifier",
    "certify",
    "load",
    "read_log",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
