"""What a classifier does at single images, with a proven radius; and whether attacks break what is proven."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro
from rich.console import Console

from ..core.certifier import Certifier

if TYPE_CHECKING:
    from torch import nn

    from ..opening import Source

USAGE = """usage: holdfast predict RUN [CERTIFIER] IMAGE... [options]
       holdfast predict package.module:function --weights FILE [CERTIFIER] IMAGE... [options]

RUN is the folder of a trained run; or model.onnx, hf:org/name, hf:./folder, ..., as for holdfast certify. CERTIFIER
defaults to the one that it was trained for, and to gaussian for a model of your own; its options are those of holdfast
certify. Options may stand anywhere; of the words, the model comes first.
"""


@dataclass
class Options:
    """What is proven about single images."""

    certifier: Certifier
    weights: Path | None = None
    """Weights of a model of your own: a .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt)."""
    allow_pickle: bool = False
    """Read weights from a file that holds more than tensors. Such a pickle is a program: reading it runs whatever its
    author put there."""
    denoiser: str | None = None
    """What images go through before the classifier; see certify."""
    shape: Annotated[tuple[int, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Channels (1 or 3), height and width in pixels that the model takes; by default those of the run's data set, or of
    the image file."""
    seed: int | None = None
    """Seed of the noise; without one a fresh seed is drawn."""
    precision: str = "32-true"
    """32-true, 64-true, bf16-true or 16-true: numbers the model computes with. That function is the certified one."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    batch_size: int | None = None
    """Noisy images in one forward pass; default 64 on a CPU, 1024 on a GPU. Changes no noise."""


def main(args: list[str]) -> None:
    """holdfast predict MODEL [CERTIFIER] IMAGE... [options]."""
    from ..opening import Source, certifier_for
    from ._common import certifier_among, certifiers_for, options, split

    words, rest = split(args, options(*(Options(certifier) for certifier in certifiers_for(args))))
    if {"-h", "--help"} & set(rest):
        Console(soft_wrap=True).print(USAGE, markup=False, highlight=False)
        _parse(certifier_for(None, certifier_among(words)[0]), rest)
    if not words:
        raise ValueError("expected the folder of a run, or package.module:function; then images")
    chosen, images = certifier_among(words[1:])
    if not images:
        raise ValueError("expected at least one image, as in: holdfast predict RUN photo.png")
    found = _parse(certifier_for(Source(words[0]).run, chosen), rest)
    sampling = found.certifier.sampling if found.denoiser else None
    sigma = sampling.sigma if sampling else None
    source = Source(words[0], found.weights, found.allow_pickle, denoiser=found.denoiser, sigma=sigma)
    _predict(source, list(map(Path, images)), found)


def _parse(certifier: Certifier, args: list[str]) -> Options:
    from ._common import parsed

    return parsed(Options(certifier), args, "holdfast predict MODEL")


def _predict(source: "Source", paths: list[Path], options: Options) -> None:
    """Tell what is proven about every image that can be read, and name the others."""
    from ..certification.images import predict
    from ..data.pictures import read_picture
    from ..opening import info_of
    from ._common import attempt, conclude

    shape = options.shape or (info_of(source.run).shape if source.run else ())
    pictures, left = attempt(paths, lambda path: read_picture(path, shape))
    settings = {name: getattr(options, name) for name in ("seed", "precision", "device", "batch_size")}
    if pictures:
        for found in predict(source, list(pictures.values()), options.certifier, **settings):
            text = f"{list(pictures)[found.index]}: {found.certificate}, {found.seconds:.1f} s"
            Console(soft_wrap=True, highlight=False, markup=False).print(text)
    conclude(paths, left)


@dataclass
class AttackOptions:
    """Gradient attacks in the norm of the certificates; of a smoothed classifier, on its expectation over noise.

    Of a model of your own, a word says how it was certified, gaussian if there is none; that certifier's options, such
    as --sigma, may be given, too."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(at least one)")]
    """Folders of trained runs, or a folder of such folders."""
    epsilon: float
    """Besides its certified radius, attack every image at this one, in pixel units."""
    model: str | None = None
    """A classifier of your own instead: package.module:function, model.onnx, hf:org/name, ...; see certify."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or what torch.save wrote (.pt, .pth, .ckpt)."""
    allow_pickle: bool = False
    """Read a .pt2 file, or weights from a file that holds more than tensors; see certify."""
    dataset: str = ""
    """Data set; that of the run by default, and required with --model."""
    denoiser: str | None = None
    """What images go through before the classifier; see certify. The noise is then that of the denoiser's run."""
    split: str = ""
    """Split of the data set; default: its test split."""
    limit: int = 1000
    """Attack the first so many images; of a smoothed classifier, of those that its run holds certificates of."""
    steps: int = 40
    """Gradient steps of each attack."""
    batch_size: int = 250
    """Images in one forward pass."""
    seed: int = 0
    """Seed of the starts of the attacks on an l-inf-distance network, and of noise."""
    copies: int = 16
    """Of a smoothed classifier: noisy copies in each step of the attack."""
    n: int = 1000
    """Of a smoothed classifier: noise samples that decide each of its answers."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    data_dir: Path | None = None
    """Where named data sets are looked up first; default $HOLDFAST_DATA, then ./data."""
    runs: Path = Path("runs")
    """Folder of all runs, for classifiers that have no run of their own."""


def attack(args: list[str]) -> None:
    """holdfast attack RUN... --epsilon E [options]; exit status 1 if a certificate is broken."""
    from ..opening import OWN, certifier_for
    from ._common import apart, attempt, certifier_among, certifiers_for, conclude, expand, given, parsed, split
    from ._common import options as known

    own = known(AttackOptions((), 0.0))
    words, rest = split(args, known(*certifiers_for(["", *args])) | own)
    mine, theirs = apart(rest, own)
    chosen, paths = certifier_among(words) if given("--model", rest) else (None, words)
    options = tyro.cli(AttackOptions, args=[*paths, *mine], prog="holdfast attack")
    if bool(options.paths) == bool(options.model):
        raise ValueError("expected run folders, as in: holdfast attack runs/NAME --epsilon 0.3; or --model, not both")
    if theirs and not options.model:
        raise ValueError(f"{theirs[0]} goes with --model; a run is attacked as it was trained to be certified")
    if options.model:
        certifier = parsed(certifier_for(None, chosen), theirs, f"holdfast attack --model NAME {chosen or OWN}")
        target = _own(options, certifier, shlex.join([chosen or OWN, *theirs]))
        broken: Mapping[Path, int] = {Path(): _attack(target, options)}
    else:
        runs = expand(options.paths)
        broken, left = attempt(runs, lambda run: _attack(_target(run, options), options))
        conclude(runs, left)
    if any(broken.values()):
        sys.exit(1)


class Target(NamedTuple):
    """What is attacked."""

    model: "nn.Module"
    dataset: str
    certifier: Certifier
    """Whose noise it is meant for, or that proves it."""
    folder: Path
    """Of its certificates."""
    named: str
    """For `holdfast certify`."""
    layers: "nn.Module | None" = None
    identity: str | None = None


def _attack(target: Target, options: AttackOptions) -> int:
    """Attack, and tell what was found; how many certificates were broken."""
    from ..certification.attack import attack_run

    names = ("split", "limit", "steps", "batch_size", "seed", "copies", "n", "device", "data_dir")
    settings = {name: getattr(options, name) for name in names}
    settings |= {"layers": target.layers, "identity": target.identity}
    asked = (target.model, target.dataset, target.certifier, options.epsilon, target.folder)
    found, path = attack_run(*asked, **settings)
    fewer = not found.certified and target.certifier.drawing is not None
    hint = f"\nNone of these images is certified; first: holdfast certify {target.named}" if fewer else ""
    Console(soft_wrap=True, highlight=False).print(
        f"{found.certified:,} of {found.total:,} images certified; inside their radii {found.broken:,} were broken\n"
        f"at {options.epsilon:g}: {100 * found.proven / found.total:.2f} % proven, "
        f"{100 * found.standing / found.total:.2f} % right under attack; the truth lies between{hint}\nwritten: {path}"
    )
    return found.broken


def _target(run: Path, options: AttackOptions) -> Target:
    """A run, perhaps behind a denoiser."""
    from ..certification.identity import as_program, model_hash
    from ..core.registry import trusted
    from ..formats.opened import layers_of
    from ..opening import Source, as_classifier, info_of, recipe_of

    denoiser = options.denoiser
    trained = Path(denoiser) if denoiser and (Path(denoiser) / "run.json").exists() else run
    certifier = recipe_of(trained).method.certifier()
    dataset = options.dataset or trusted(recipe_of(run).dataset)
    if not denoiser:
        return Target(as_classifier(run), dataset, certifier, run, str(run), layers_of(run))
    sampling = certifier.sampling
    source = Source(str(run), denoiser=denoiser, sigma=sampling.sigma if sampling else None)
    model = as_program(source.load(), info_of(run).shape)
    folder = source.folder(run.parent, model_hash(model))
    return Target(model, dataset, certifier, folder, f"{run} --denoiser {denoiser}")


def _own(options: AttackOptions, certifier: Certifier, told: str) -> Target:
    """A classifier of the user's own, under the identity that `holdfast certify` gives it.

    Args:
        told: how the certifier was given.
    """
    from ..certification.identity import as_program
    from ..data import default_split, load
    from .certify import source_of

    if not options.dataset:
        raise ValueError("a model of your own needs --dataset, as in: --dataset cifar10")
    split = options.split or default_split(options.dataset, options.data_dir)
    source = source_of(None, certifier, options)
    model = as_program(source.load(), load(options.dataset, split, options.data_dir).info.shape)
    identity = source.identity(model)
    given = {"--model": options.model, "--weights": options.weights, "--denoiser": options.denoiser}
    words = [f"{name} {shlex.quote(str(value))} " for name, value in given.items() if value]
    named = f"{''.join(words)}--dataset {options.dataset} {told}"
    return Target(model, options.dataset, certifier, source.folder(options.runs, identity), named, identity=identity)
