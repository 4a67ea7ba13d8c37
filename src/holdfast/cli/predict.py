"""What a classifier does at single images, with a proven radius; and whether attacks break what is proven."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    """Gradient attacks in the norm of the certificates; of a smoothed classifier, on its expectation over noise."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(at least one)")]
    """Folders of trained runs, or a folder of such folders."""
    epsilon: float
    """Besides its certified radius, attack every image at this one, in pixel units."""
    denoiser: str | None = None
    """What images go through before the classifier; see certify. The noise is then that of the denoiser's run."""
    split: str = ""
    """Split of the run's data set; default: its test split."""
    limit: int = 1000
    """Attack the first so many images."""
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


def attack(args: list[str]) -> None:
    """holdfast attack RUN... --epsilon E [options]; exit status 1 if a certificate is broken."""
    from ._common import attempt, conclude, expand, split
    from ._common import options as known

    words, rest = split(args, known(AttackOptions((), 0.0)))
    options = tyro.cli(AttackOptions, args=[*words, *rest], prog="holdfast attack")
    if not options.runs:
        raise ValueError("expected at least one run folder, as in: holdfast attack runs/NAME --epsilon 0.3")
    runs = expand(options.runs)
    broken, left = attempt(runs, lambda run: _attack(run, options))
    conclude(runs, left)
    if any(broken.values()):
        sys.exit(1)


def _attack(run: Path, options: AttackOptions) -> int:
    """Attack, and tell what was found; how many certificates were broken."""
    from ..certification.attack import attack_run
    from ..core.registry import trusted
    from ..formats.opened import layers_of
    from ..opening import recipe_of

    names = ("split", "limit", "steps", "batch_size", "seed", "copies", "n", "device", "data_dir")
    settings = {name: getattr(options, name) for name in names}
    settings["layers"] = None if options.denoiser else layers_of(run)
    model, certifier, folder = _target(run, options.denoiser)
    dataset = trusted(recipe_of(run).dataset)
    found, path = attack_run(model, dataset, certifier, options.epsilon, folder, **settings)
    fewer = not found.certified and certifier.drawing is not None
    named = f"{run} --denoiser {options.denoiser}" if options.denoiser else run
    hint = f"\nNone of these images is certified; first: holdfast certify {named}" if fewer else ""
    Console(soft_wrap=True, highlight=False).print(
        f"{found.certified:,} of {found.total:,} images certified; inside their radii {found.broken:,} were broken\n"
        f"at {options.epsilon:g}: {100 * found.proven / found.total:.2f} % proven, "
        f"{100 * found.standing / found.total:.2f} % right under attack; the truth lies between{hint}\nwritten: {path}"
    )
    return found.broken


def _target(run: Path, denoiser: str | None) -> "tuple[nn.Module, Certifier, Path]":
    """What is attacked, the certifier whose noise it is meant for, and the folder of its certificates."""
    from ..certification.identity import as_program, model_hash
    from ..opening import Source, as_classifier, info_of, recipe_of

    trained = Path(denoiser) if denoiser and (Path(denoiser) / "run.json").exists() else run
    certifier = recipe_of(trained).method.certifier()
    if not denoiser:
        return as_classifier(run), certifier, run
    sampling = certifier.sampling
    source = Source(str(run), denoiser=denoiser, sigma=sampling.sigma if sampling else None)
    model = as_program(source.load(), info_of(run).shape)
    return model, certifier, source.folder(run.parent, model_hash(model))
