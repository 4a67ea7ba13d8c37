"""Attacks on certified networks: inside a certified ball nothing may be found; beyond it, they bound the truth.

Certified accuracy is at most the true robust accuracy, and that is at most the accuracy under an attack. Of proofs
without sampling, networks and images are float64, as in the certificates. Of smoothed classifiers, the attack is on the
average over noise, beside the certificates of the run.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..attacks import attack as averaged_attack
from ..attacks import attacks, inside
from ..core.arguments import integer, positive
from ..core.certificate import Certificate
from ..core.certifier import Certifier
from ..core.threat import THREATS, Threat, l2
from ..data import Images, default_split, load
from ..machine import choose
from ..nn.linf.network import LInfDistNet
from ..nn.lipschitz import materialise
from ..runs import store
from ..runs.certified import CertifiedRun
from .checks import check_certifier
from .identity import model_hash
from .images import certify
from .smoothed import ABSTAIN, SmoothedClassifier


@dataclass(frozen=True)
class Attacked:
    """What happened to one image."""

    index: int
    """Position in its data set."""
    label: int
    prediction: int | None
    """What was certified; None where nothing was."""
    radius: float
    """Its certified radius, in pixel units."""
    kept: bool
    """The certified prediction withstood the attack inside the radius, or there was none."""
    standing: bool
    """Predicted as its label whatever the attack at epsilon tried."""


@dataclass(frozen=True)
class Outcome:
    """Numbers of images, and the images."""

    total: int = 0
    certified: int = 0
    broken: int = 0
    """Lost their certified prediction inside their certified radius; anything but 0 is a false proof."""
    standing: int = 0
    """Predicted correctly whatever the attack at epsilon tried."""
    proven: int = 0
    """Predicted correctly with a certified radius of at least epsilon."""
    images: tuple[Attacked, ...] = ()

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))


def attack(
    model: nn.Module,
    data: Images,
    certifier: Certifier,
    epsilon: float,
    *,
    limit: int = 1000,
    steps: int = 40,
    batch_size: int = 250,
    seed: int = 0,
    layers: nn.Module | None = None,
) -> Outcome:
    """Attack the first `limit` images inside their certified radii, and once more at epsilon.

    Args:
        model: in eval mode; attacked in the norm that it is certified in.
        data: on the device of the model.
        certifier: a deterministic one.
        epsilon: pixel units.
        seed: of the starts of the attacks on an l-inf-distance network.
        layers: the network as layers, where the model is its program: attacks may follow other gradients of theirs.

    Raises:
        ValueError: epsilon or another number is not positive, or the certifier does not serve the network.
    """
    if not isinstance(data, Images):
        raise ValueError(f"expected a data set, such as holdfast.data.load('mnist', 'test'), got {type(data).__name__}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module to attack, got {type(model).__name__}")
    check_certifier(certifier)
    if certifier.drawing is not None:
        raise ValueError(f"expected a certifier that draws no samples, such as Margin(), got {certifier}")
    _check_numbers(epsilon, seed, limit=limit, steps=steps, batch_size=batch_size)
    outcome = Outcome()
    for part in torch.arange(min(limit, len(data))).split(batch_size):
        outcome += _attack_batch(model, data, part, certifier, epsilon, steps, seed, layers)
    return outcome


def _check_numbers(epsilon: float, seed: int, **counts: int) -> dict[str, Any]:
    """All of them by name, as numbers of Python."""
    told = {name: integer(name, value, 1) for name, value in counts.items()}
    return told | {"epsilon": positive("epsilon", epsilon), "seed": integer("seed", seed, 0)}


def _attack_batch(
    model: nn.Module,
    data: Images,
    part: Int[Tensor, " batch"],
    certifier: Certifier,
    epsilon: float,
    steps: int,
    seed: int,
    layers: nn.Module | None = None,
) -> Outcome:
    x, y = data.pixels(part), data.labels[part]
    found = certify(model, x, certifier)
    prediction = torch.tensor([-1 if c.prediction is None else c.prediction for c in found], device=x.device)
    radii = torch.tensor([c.radius for c in found], dtype=torch.float64, device=x.device)
    sure = prediction >= 0
    kept = torch.ones_like(sure)
    threat = THREATS[found[0].norm]
    kept[sure] = survives(model, x[sure], prediction[sure], radii[sure], threat, steps, seed, layers)
    standing = survives(model, x, y, torch.full_like(radii, epsilon), threat, steps, seed, layers)
    proven = (prediction == y) & (radii >= epsilon)
    numbers = [int(counted.sum()) for counted in (sure, ~kept, standing, proven)]
    rows = zip(part.tolist(), y.tolist(), found, kept.tolist(), standing.tolist(), strict=True)
    images = tuple(Attacked(i, label, c.prediction, c.radius, k, s) for i, label, c, k, s in rows)
    return Outcome(len(x), *numbers, images=images)


def survives(
    model: nn.Module,
    x: Float[Tensor, "batch channel height width"],
    y: Int[Tensor, " batch"],
    radii: Float[Tensor, " batch"],
    threat: Threat,
    steps: int,
    seed: int,
    layers: nn.Module | None = None,
) -> Bool[Tensor, " batch"]:
    """Whether the float64 network predicts y on an image and on all that the attacks within its radius find."""
    network, x = materialise(model), x.double()
    lending = materialise(layers).to(x.device) if layers else network
    if isinstance(lending, LInfDistNet):
        attacked = list(attacks(lending, x, y, radii, steps, seed, network).values())
    else:
        seen = network if threat is l2 else lambda images: network(images.clamp(0, 1))  # as linf-box proves it
        attacked = [inside(seen, x, y, threat, radii, steps)]
    return torch.stack([network(images).argmax(1) == y for images in (x, *attacked)]).all(0)


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

    Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS 2019,
    https://arxiv.org/abs/1906.04584: gradient steps on the expectation over noise. What the smoothed classifier then
    says is decided by PREDICT of Cohen et al. (2019) on fresh noise: an image has fallen only where another class is
    sure.

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
            return averaged_attack(self.model, x, y, noise, self.strength.steps, step, radius)
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


def _attack_smoothed(
    smoothed: Smoothed, data: Images, epsilon: float, proofs: Mapping[int, Certificate], limit: int, batch_size: int
) -> Outcome:
    """Of the images with a certificate, or of all where none has one, the first `limit`."""
    outcome = Outcome()
    for part in torch.tensor((sorted(proofs) or range(len(data)))[:limit]).split(batch_size):
        outcome += _attack_smoothed_batch(smoothed, data, part, epsilon, proofs)
    return outcome


def _attack_smoothed_batch(
    smoothed: Smoothed, data: Images, part: Int[Tensor, " batch"], epsilon: float, proofs: Mapping[int, Certificate]
) -> Outcome:
    x, y, indices = data.pixels(part), data.labels[part], part.tolist()
    standing = ~smoothed.fallen(x, y, epsilon, indices)
    outcome = Outcome()
    for row, (index, label, stands) in enumerate(zip(indices, y.tolist(), standing.tolist(), strict=True)):
        proof = proofs.get(index)
        prediction, radius = (None, 0.0) if proof is None else (proof.prediction, proof.radius)
        kept = True
        if prediction is not None and radius > 0:
            own = torch.tensor([prediction], device=x.device)
            kept = not bool(smoothed.fallen(x[row : row + 1], own, radius * (1 - 1e-6), [index]))
        proven = prediction == label and radius >= epsilon
        image = Attacked(index, label, prediction, radius, kept, stands)
        outcome += Outcome(1, int(prediction is not None), int(not kept), int(stands), int(proven), (image,))
    return outcome


def attack_run(
    model: nn.Module,
    dataset: str,
    certifier: Certifier,
    epsilon: float,
    folder: Path,
    *,
    split: str | None = None,
    limit: int = 1000,
    steps: int = 40,
    batch_size: int = 250,
    seed: int = 0,
    copies: int = 16,
    n: int = 1000,
    device: str = "auto",
    data_dir: Path | str | None = None,
    layers: nn.Module | None = None,
    identity: str | None = None,
) -> tuple[Outcome, Path]:
    """`attack` on images of a data set (its test split); where a certifier samples, on the smoothed one, and on images
    that the run holds certificates of, if there are any.

    Args:
        folder: of the run; a file in it, which is returned too, holds what was asked and what happened to every image.
        identity: what its certified runs call the model; by default `model_hash`.
    """
    check_certifier(certifier)
    given = _check_numbers(epsilon, seed, limit=limit, steps=steps, batch_size=batch_size, copies=copies, n=n)
    split, copies, n = split or default_split(dataset, data_dir), given.pop("copies"), given.pop("n")
    task = {"model": identity or model_hash(model), "dataset": dataset, "split": split}
    settings = {**task, **given, "certifier": certifier.to_dict()}
    model, data = model.to(where := choose(device)), load(dataset, split, data_dir).to(where)
    if certifier.drawing is None:
        found = attack(model, data, certifier, **given, layers=layers)
    else:
        settings |= {"copies": copies, "n": n}
        whole = Smoothed(model, certifier, Strength(given["steps"], copies, n, seed=given["seed"]))
        proofs = known(folder, certifier, task)
        found = _attack_smoothed(whole, data, given["epsilon"], proofs, given["limit"], given["batch_size"])
    return found, _keep(folder, settings, found)


def _keep(folder: Path, settings: Mapping[str, Any], found: Outcome) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    content = asdict(found)
    images = content.pop("images")
    path = folder / f"attack-{digest}.json"
    folder.mkdir(parents=True, exist_ok=True)  # of a classifier behind a denoiser, it is there once that is certified
    store.write_whole(path, (json.dumps({"attack": settings, "found": content, "images": images}) + "\n").encode())
    return path
