"""The attack on smoothed classifiers: an upper bound on what is right under attack, beside the certified lower bound.

Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS 2019,
https://arxiv.org/abs/1906.04584: gradient steps on the expectation over noise. What the smoothed classifier then says
is decided by PREDICT of Cohen et al. (2019) on fresh noise: an image has fallen only where another class is sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..attacks import attack
from ..core.certificate import Certificate
from ..core.certifier import Certifier
from ..data import Images
from ..runs import store
from ..runs.certified import CertifiedRun
from .smoothed import ABSTAIN, SmoothedClassifier


@dataclass(frozen=True)
class Strength:
    """How hard a smoothed classifier is attacked, and how surely its answer is known."""

    steps: int = 20
    """Gradient steps."""
    copies: int = 16
    """Noisy copies in each step."""
    n: int = 1000
    """Noise samples of each answer."""
    alpha: float = 0.001
    """Probability that an answer is wrong."""
    seed: int = 0


class Smoothed:
    """A smoothed classifier under attack.

    Raises:
        ValueError: its noise is no l2 noise on the images, or it has no gradients.
    """

    def __init__(
        self, model: nn.Module, certifier: Certifier, strength: Strength, batch_size: int | None = None
    ) -> None:
        self.classifier = SmoothedClassifier(model, certifier, batch_size=batch_size)
        sampling = self.classifier.sampling
        if certifier is not sampling or sampling.noise.threat != "l2":
            raise ValueError(f"the attack is on l2 noise that is added to images, got {certifier}")
        self.model, self.strength = model, strength
        self.noise, self.sigma = sampling.noise, sampling.sigma

    def fallen(
        self, x: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], radius: float, indices: list[int]
    ) -> Bool[Tensor, " batch"]:
        """Whether it surely gives another class than y to an image, or to one that the attack finds within a radius."""
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for images in (x, self.attacked(x, y, radius)):
            answers = self.classifier.predict(images, self.strength.n, self.strength.alpha, self.strength.seed, indices)
            found |= (answers != y) & (answers != ABSTAIN)
        return found

    def attacked(self, x: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], radius: float) -> Tensor:
        """Images in [0, 1] within a radius of x, at which y is as improbable as found."""
        if not len(x):
            return x
        generator = torch.Generator(x.device).manual_seed(self.strength.seed)
        zeros = torch.zeros(self.strength.copies * len(x), *x.shape[1:], dtype=x.dtype, device=x.device)
        noise = self.noise.sample(zeros, self.sigma, generator).view(self.strength.copies, *x.shape)
        step = 2 * radius / max(1, self.strength.steps)
        try:
            return attack(self.model, x, y, noise, self.strength.steps, step, radius)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise ValueError(
                "the classifier has no gradients, as one in an ONNX file; it cannot be attacked"
            ) from error


def known(run: Path, certifier: Certifier, asked: Mapping[str, str]) -> Mapping[int, Certificate]:
    """The certificates of a run folder for the same noise, by image: of the largest such certified run.

    Args:
        asked: the model, the data set and the split, under their names in run.json.
    """
    drawing = certifier.drawing
    found: Mapping[int, Certificate] = {}
    for source in sorted(file.parent for file in run.glob("certify-*/run.json")):
        told = store.read_run(source)["certification"]
        if any(told.get(name) != value for name, value in asked.items()):
            continue
        certified = CertifiedRun.open(source)
        if drawing is not None and certified.sigma == drawing.sigma and len(certified) > len(found):
            found = {record.index: record.certificate for record in certified.records}
    return found


def attack_smoothed(
    smoothed: Smoothed, data: Images, part: Tensor, epsilon: float, certificates: Mapping[int, Certificate]
) -> list[tuple[int, int, Certificate | None, bool, bool]]:
    """For each image of a part: index, label, certificate if known, whether that was kept, whether the label stood."""
    x, y, indices = data.pixels(part), data.labels[part], part.tolist()
    standing = ~smoothed.fallen(x, y, epsilon, indices)
    rows = []
    for row, index in enumerate(indices):
        proof = certificates.get(index)
        kept = True
        if proof is not None and proof.prediction is not None and proof.radius > 0:
            own = torch.tensor([proof.prediction], device=x.device)
            kept = not bool(smoothed.fallen(x[row : row + 1], own, proof.radius * (1 - 1e-6), [index]))
        rows.append((index, int(y[row]), proof, kept, bool(standing[row])))
    return rows
