"""holdfast: train image classifiers whose predictions provably hold inside a ball, prove the radius, compare.

from holdfast import Gaussian, certify
certificates = certify(model, images, Gaussian(sigma=0.25))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from .bounds.norms import conv2d_norm, matrix_norm
    from .certification.attack import attack
    from .certification.engines import RayEngine
    from .certification.images import as_images, certify
    from .certification.run import certify_run
    from .certification.smoothed import SmoothedClassifier
    from .certifiers.adaptive import Adaptive
    from .certifiers.at_radius import AtRadius
    from .certifiers.betting import Betting
    from .certifiers.gaussian import Gaussian
    from .certifiers.linf_box import LInfBox
    from .certifiers.margin import Margin
    from .certifiers.split import Split
    from .core.certificate import Certificate, Evidence, Record
    from .core.certifier import Certifier
    from .core.config import Config
    from .core.recipe import DataInfo, Method, Optimizer, Recipe
    from .core.registry import RECIPES
    from .core.threat import Threat
    from .nn.denoised import Denoised
    from .nn.lipschitz.network import lipschitz_bound
    from .nn.normalize import Normalize
    from .nn.split import SplitClassifier
    from .opening import as_classifier, load
    from .report import report
    from .runs.certified import CertifiedRun
    from .runs.logs import read_log
    from .smoothing.certifier import SamplingCertifier
    from .smoothing.noise import Float32, Lattice, Noise
    from .training.loop import train

_HOMES = {
    "RECIPES": "core.registry",
    "Adaptive": "certifiers.adaptive",
    "AtRadius": "certifiers.at_radius",
    "Betting": "certifiers.betting",
    "Certificate": "core.certificate",
    "CertifiedRun": "runs.certified",
    "Certifier": "core.certifier",
    "Config": "core.config",
    "DataInfo": "core.recipe",
    "Denoised": "nn.denoised",
    "Evidence": "core.certificate",
    "Float32": "smoothing.noise",
    "Gaussian": "certifiers.gaussian",
    "LInfBox": "certifiers.linf_box",
    "Lattice": "smoothing.noise",
    "Margin": "certifiers.margin",
    "Method": "core.recipe",
    "Noise": "smoothing.noise",
    "Normalize": "nn.normalize",
    "Optimizer": "core.recipe",
    "RayEngine": "certification.engines",
    "Recipe": "core.recipe",
    "Record": "core.certificate",
    "SamplingCertifier": "smoothing.certifier",
    "SmoothedClassifier": "certification.smoothed",
    "Split": "certifiers.split",
    "SplitClassifier": "nn.split",
    "Threat": "core.threat",
    "as_classifier": "opening",
    "as_images": "certification.images",
    "attack": "certification.attack",
    "certify": "certification.images",
    "certify_run": "certification.run",
    "conv2d_norm": "bounds.norms",
    "lipschitz_bound": "nn.lipschitz.network",
    "load": "opening",
    "matrix_norm": "bounds.norms",
    "read_log": "runs.logs",
    "report": "report",
    "train": "training.loop",
}
"""Where the public names live. They are imported when first used: reading a report needs no torch."""

__all__ = [
    "RECIPES",
    "Adaptive",
    "AtRadius",
    "Betting",
    "Certificate",
    "CertifiedRun",
    "Certifier",
    "Config",
    "DataInfo",
    "Denoised",
    "Evidence",
    "Float32",
    "Gaussian",
    "LInfBox",
    "Lattice",
    "Margin",
    "Method",
    "Noise",
    "Normalize",
    "Optimizer",
    "RayEngine",
    "Recipe",
    "Record",
    "SamplingCertifier",
    "SmoothedClassifier",
    "Split",
    "SplitClassifier",
    "Threat",
    "__version__",
    "as_classifier",
    "as_images",
    "attack",
    "certify",
    "certify_run",
    "conv2d_norm",
    "lipschitz_bound",
    "load",
    "matrix_norm",
    "read_log",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("holdfast")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return home if _HOMES[name] == name else getattr(home, name)  # the package `report` can itself be called


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
