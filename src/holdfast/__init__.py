"""holdfast: train image classifiers whose predictions provably hold inside a ball, prove the radius, compare.

from holdfast import Gaussian, certify
certificates = certify(model, images, Gaussian(sigma=0.25))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from .certification import certify as certify
    from .certifiers.gaussian import Gaussian as Gaussian
    from .certifiers.split import Split as Split
    from .loading import load as load
    from .models.split import SplitClassifier as SplitClassifier
    from .report.logs import read_log as read_log
    from .smoothed import SmoothedClassifier as SmoothedClassifier
    from .training import train as train
    from .types import Certificate as Certificate
    from .types import Certifier as Certifier
    from .types import Record as Record

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
    "__version__",
    "certify",
    "load",
    "read_log",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("holdfast")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
