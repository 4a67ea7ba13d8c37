"""What a user is told before the long work, of the work itself and of a first look at the classifier.

Of the classifier: is it right on plain images, and on noisy ones? If not, why not?

Each suspicion is tried: would the classifier be right more often if its labels had another order, or its images other
values? It is told only where a sign test on the same images leaves no doubt. Nothing is changed, and nothing decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..core.certifier import Certifier
from ..data import Images
from ..nn.denoised import Denoised
from ..progress import clock
from .checks import check
from .runtime import GAIN, batch_size_of

if TYPE_CHECKING:
    from .run import Job

LONG = 600.0
"""Seconds of work that several processes are worth."""

LOOKED_AT = 200
"""Images, spread evenly over the data set."""
DOUBT = 1e-4
"""Probability of a finding that is chance, for each suspicion."""
PLAUSIBLE = 0.5
"""Accuracy that a cure must reach: random weights can be less wrong on changed images, too."""
GOOD = 0.6
"""Accuracy from which only what is hard to see is looked for."""
SIZES = (32, 64, 96, 128, 224)
"""Sides of images that published networks were trained with."""
STATISTICS = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "the middle of all values": ((0.5,), (0.5,)),
}
"""Means and deviations that images are often normalized with, besides those of the data set."""


@dataclass(frozen=True)
class FirstLook:
    """What was seen on a few images."""

    images: int
    accuracy: float
    sigma: float | None
    """Of the noise that was tried; None where the certifier draws none."""
    noisy: float | None
    """Accuracy on one noisy copy of each image."""
    stable: float | None
    """Share of the images whose noisy copy gets the class of the plain one."""
    found: tuple[str, ...]
    """What looks wrong, in words."""

    def words(self) -> Iterator[str]:
        """A line each."""
        under = "" if self.noisy is None or self.stable is None else (
            f"; {100 * self.noisy:.1f} % under noise of sigma {self.sigma:g}, which leaves the class of "
            f"{100 * self.stable:.1f} % as it was"
        )  # fmt: skip
        yield f"First look, on {self.images} images: {100 * self.accuracy:.1f} % right{under}."
        yield from self.found


@torch.inference_mode()
def first_look(
    model: nn.Module, data: Images, certifier: Certifier | None = None, batch_size: int | None = None
) -> FirstLook:
    """Try a classifier on a few images of a data set.

    Args:
        model: in eval mode; on the device of the data.
        certifier: whose noise is tried.

    Raises:
        ValueError: see `holdfast.certification.checks.check`.
    """
    chosen = torch.linspace(0, len(data) - 1, min(LOOKED_AT, len(data))).long().to(data.labels.device)
    x, y = data.pixels(chosen), data.labels[chosen].cpu()
    size = batch_size_of(batch_size, x.device)
    check(model, x, size)
    tried = _Tried(model, x, y, size)
    drawing = certifier.drawing if certifier else None
    if certifier is None or drawing is None:
        noisy = None
    else:
        generator = torch.Generator(x.device).manual_seed(0)
        z, classifier = certifier.smoothed_part(model, x)
        noisy = _classes(classifier, drawing.noise.sample(z, drawing.sigma, generator), size)
    accuracy = _share(tried.right)
    found = tuple(_suspicions(tried, data, accuracy, noisy, drawing.sigma if drawing else 0.0))
    right, stable = (None, None) if noisy is None else (_share(noisy == y), _share(noisy == tried.classes))
    return FirstLook(len(x), accuracy, drawing.sigma if drawing else None, right, stable, found)


def _share(chosen: Tensor) -> float:
    return float(chosen.float().mean())


class _Tried:
    """A model, images and labels, and what the model says of them."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, size: int) -> None:
        self.model, self.x, self.y, self.size = model, x, y, size
        self.classes = _classes(model, x, size)
        self.right = self.classes == y

    def better(self, change: Callable[[Tensor], Tensor]) -> float | None:
        """Accuracy on changed images, where that is higher beyond doubt."""
        try:
            right = _classes(self.model, change(self.x), self.size) == self.y
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return None  # the model takes no such images
        return self.judged(right)

    def judged(self, right: Tensor) -> float | None:
        """The accuracy, if it is plausible and a sign test says that it is higher."""
        return _share(right) if _share(right) >= PLAUSIBLE and self.gains(right) else None

    def gains(self, right: Tensor) -> bool:
        """Whether so many more are right that it is no chance."""
        gained, lost = int((right & ~self.right).sum()), int((self.right & ~right).sum())
        return gained > lost and bool(binomtest(gained, gained + lost, 0.5, "greater").pvalue < DOUBT)


def _suspicions(tried: _Tried, data: Images, accuracy: float, noisy: Tensor | None, sigma: float) -> Iterator[str]:
    classes = data.info.classes
    found = [*_order(tried, classes), *_pixels(tried, data, accuracy)]
    yield from found
    chance = binomtest(int(tried.right.sum()), len(tried.y), 1 / classes, "greater").pvalue > 0.01
    if chance and not found:
        yield (
            f"That is about chance for {classes} classes: has the model no trained weights, or was it trained on other "
            "data or with other preprocessing?"
        )
    if noisy is not None and not chance and _share(noisy == tried.y) < 0.5 * accuracy:
        own = isinstance(tried.model, Denoised)
        cure = "or train its denoiser for that" if own else "train with noise, or put a denoiser in front: --denoiser"
        yield (
            f"Noise of sigma {sigma:g} is more than it learned to see through; little will be certified. Use a "
            f"smaller sigma, {cure}"
        )


def _order(tried: _Tried, classes: int) -> Iterator[str]:
    """The permutation of labels that fits best, if it fits far better, with one half of the images and on the other."""
    if len(tried.y) < 10 * classes or int(tried.classes.max()) >= classes:
        return
    first = torch.rand(len(tried.y), generator=torch.Generator().manual_seed(0)) < 0.5
    names = _assignment(tried.classes[first], tried.y[first], classes)
    renamed = names[tried.classes] == tried.y
    if _share(renamed[~first]) < PLAUSIBLE or not tried.gains(torch.where(first, tried.right, renamed)):
        return
    fitted = _assignment(tried.classes, tried.y, classes)
    share = _share(fitted[tried.classes] == tried.y)
    told = ", ".join(f"{i} is {int(name)}" for i, name in enumerate(fitted) if int(name) != i)
    yield f"Its classes seem to be in another order: {100 * share:.1f} % would be right if of its classes {told}."


def _assignment(found: Tensor, labels: Tensor, classes: int) -> Tensor:
    """For each class of the model the label that it stands for."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (found.numpy(), labels.numpy()), 1)
    counts += 1e-3 * np.eye(classes)  # where nothing is seen of a class, it stays
    return torch.from_numpy(linear_sum_assignment(-counts)[1])


def _pixels(tried: _Tried, data: Images, accuracy: float) -> Iterator[str]:
    """What the images seem to lack."""
    changes = dict(_changes(data, tried.x, accuracy))
    scores = {words: tried.better(change) for words, change in changes.items()}
    better = {words: score for words, score in scores.items() if score is not None}
    if better:
        words = max(better, key=lambda one: better[one])
        yield f"{words}: then {100 * better[words]:.1f} % would be right."


def _changes(data: Images, x: Tensor, accuracy: float) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    if x.shape[1] == 3:
        yield "It seems to take blue, green, red; flip the channels inside of it", lambda x: x.flip(1)
    if accuracy >= GOOD:
        return
    yield "It seems to take pixels from 0 to 255; multiply by 255 inside of it", lambda x: 255 * x
    yield "It seems to divide by 255 once more; leave that out of it", lambda x: x / 255
    yield "It seems to take inverted images; put 1 - x inside of it", lambda x: 1 - x
    for name, (mean, std) in {f"{data.info.name}": (data.info.mean, data.info.std), **STATISTICS}.items():
        if len(mean) in (1, x.shape[1]):
            m, s = (torch.tensor(numbers, device=x.device).view(-1, 1, 1) for numbers in (mean, std))
            yield (
                f"It seems to take normalized images, by the mean and deviation of {name}; put holdfast.Normalize "
                "before it",
                lambda x, m=m, s=s: (x - m) / s,
            )
            yield (
                f"It seems to normalize twice, by the mean and deviation of {name}; leave one of them out",
                lambda x, m=m, s=s: x * s + m,
            )
    for side in SIZES:
        if side != x.shape[2]:
            yield (
                f"It seems to take images of {side}x{side} pixels; scale them inside of it",
                lambda x, side=side: interpolate(x, (side, side), mode="bilinear", antialias=True),
            )


def _classes(model: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """On the CPU; of copies, which the model may change."""
    return torch.cat([model(part.clone()).argmax(1) for part in x.split(size)]).cpu()


def foretold(job: Job, trained: Certifier | None = None, name: str = "This model", own: str = "") -> Iterator[str]:
    """What can be proven at best, how long it can take, and what may not be known of the certificates; a line each.

    Args:
        trained: the certifier that the model, or the denoiser before it, was trained for, where that is known.
        name: what was trained for it.
        own: `package.module:function` of a model that came without a file of weights.
    """
    certifier = job.task.certifier
    best = "" if math.isinf(certifier.cap()) else f"No radius can exceed {certifier.cap():.4f}. "
    yield str(certifier)
    seconds = job.seconds()
    several = f", {clock(seconds / 8)} in 8, {clock(seconds / 64)} in 64" if seconds > LONG else ""
    limit, besides = ("at most ", "") if certifier.sampling is certifier else ("", ", and what is proven besides")
    yield (
        f"{best}{job.examples} examples, at most {job.examples * certifier.samples():,} forward passes: "
        f"{limit}about {clock(seconds)} in one process{several}{besides}."
    )
    if hint := job.faster():
        yield f"--runtime {hint} was {GAIN} times as fast for such models, and is a setting of the run."
    before, now = trained.sampling if trained else None, certifier.sampling
    if before and now and (before.sigma, before.noise) != (now.sigma, now.noise):
        kinds = "" if before.noise == now.noise else f" of {now.noise}, not {before.noise}"
        yield f"{name} was trained with noise of sigma {before.sigma:g} and is certified at {now.sigma:g}{kinds}."
    if own:
        yield (
            f"No --weights: the model is certified as {own} returns it, with random weights unless it loads its own."
        )
    if before := job.earlier():
        yield f"Goes on from the samples of {before}, which it replaces for all examples; their alphas add up."
    for other in job.others():
        yield f"Not continued: {other}, for a model of other weights, code or files, or of an older holdfast."
