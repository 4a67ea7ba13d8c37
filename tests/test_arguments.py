"""What makes no sense is refused by name, by every public function, before any work and with nothing written."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from holdfast import (
    RECIPES,
    Adaptive,
    AtRadius,
    Betting,
    Gaussian,
    LInfBox,
    Margin,
    Normalize,
    RayEngine,
    SmoothedClassifier,
    Split,
    SplitClassifier,
    attack,
    certify,
    certify_run,
    conv2d_norm,
    lipschitz_bound,
    matrix_norm,
    report,
    train,
)
from holdfast.certification.attack import attack_run
from holdfast.core.arguments import integer, sizes
from holdfast.data import load
from holdfast.training.launch import Machine

GAUSSIAN = Gaussian(0.25, n=100)
NAN = math.nan
X = torch.full((2, 1, 8, 8), 0.5)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


class Answering(nn.Module):
    """Makes something else of the logits of a network."""

    def __init__(self, made: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.network, self.made = linear(), made
        self.eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.made(self.network(x))


def certified(**options: Any) -> Any:
    return certify(options.pop("model", linear()), options.pop("images", X), GAUSSIAN, **options)


def running(**options: Any) -> Any:
    settings = {"limit": 2, "device": "cpu", "runs": "runs"} | options
    return certify_run(settings.pop("model", linear()), settings.pop("dataset", "digits"), GAUSSIAN, **settings)


def attacked(**options: Any) -> Any:
    settings: dict[str, Any] = {"limit": 2, "steps": 1} | options
    data: Any = settings.pop("data", None) or load("digits", "test", None)
    certifier: Any = settings.pop("certifier", Margin())
    return attack(linear(), data, certifier, settings.pop("epsilon", 0.1), **settings)


def smoothed(**options: Any) -> SmoothedClassifier:
    return SmoothedClassifier(linear(), GAUSSIAN, **options)


def recipe(**changes: Any) -> Any:
    return RECIPES["gaussian-digits-0.25"].replace(**{"epochs": 1} | changes)


WEIGHT = torch.ones(2, 2, 3, 3)

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "certify batch_size=-1": (lambda: certified(batch_size=-1), "batch_size to be an integer, 1 or more, got -1"),
    "certify batch_size=0": (lambda: certified(batch_size=0), "batch_size to be an integer, 1 or more, got 0"),
    "certify batch_size=2.5": (lambda: certified(batch_size=2.5), "batch_size to be an integer, 1 or more, got 2.5"),
    "certify seed='a'": (lambda: certified(seed="a"), "seed to be an integer, 0 or more, got 'a'"),
    "certify seed=1.5": (lambda: certified(seed=1.5), "seed to be an integer, 0 or more, got 1.5"),
    "certify seed=True": (lambda: certified(seed=True), "seed to be an integer, 0 or more, got True"),
    "certify indices=5": (lambda: certified(indices=5), "one index for each of 2 images, got 5"),
    "certify indices='ab'": (lambda: certified(indices="ab"), "an index to be an integer, 0 or more, got 'a'"),
    "certify indices below 0": (lambda: certified(indices=[0, -1]), "an index to be an integer, 0 or more, got -1"),
    "certify indices too large": (lambda: certified(indices=[0, 2**32]), "from 0 to 2.32 - 1, got 4294967296"),
    "certify indices doubled": (lambda: certified(indices=[3, 3]), "two images are called 3"),
    "certify too few indices": (lambda: certified(indices=[3]), "one index for each of 2 images, got 1"),
    "certify sparse images": (lambda: certified(images=X.to_sparse()), "torch.sparse_coo"),
    "certify images without content": (lambda: certified(images=X.to("meta")), "on meta"),
    "certify complex images": (lambda: certified(images=X * 1j), "got torch.complex64"),
    "complex logits": (lambda: certified(model=Answering(lambda y: y * 1j)), "dense real numbers, got torch.complex64"),
    "bool logits": (lambda: certified(model=Answering(lambda y: y > 0)), "dense real numbers, got torch.bool"),
    "sparse logits": (lambda: certified(model=Answering(lambda y: y.to_sparse())), "torch.sparse_coo"),
    "sigma nan": (lambda: Gaussian(sigma=NAN), "sigma must be positive, got nan"),
    "sigma a text": (lambda: Gaussian(sigma="a"), "expected sigma to be float, got 'a'"),  # pyright: ignore
    "sigma true": (lambda: Gaussian(sigma=True), "expected sigma to be float, got True"),
    "n below 0": (lambda: Gaussian(n=-1), "n must be at least 1, got -1"),
    "n=1.5": (lambda: Gaussian(n=1.5), "expected n to be int, got 1.5"),  # pyright: ignore[reportArgumentType]
    "alpha=0": (lambda: Gaussian(alpha=0), "expected alpha in"),
    "alpha=1": (lambda: Gaussian(alpha=1), "expected alpha in"),
    "alpha nan": (lambda: Gaussian(alpha=NAN), "expected alpha in"),
    "alpha a text": (lambda: Gaussian(alpha="a"), "expected alpha to be float, got 'a'"),  # pyright: ignore
    "noise a text": (lambda: Gaussian(noise="a"), "expected noise to be Noise, got 'a'"),  # pyright: ignore
    "a radius a text": (lambda: AtRadius(r=("a",)), "expected increasing radii"),  # pyright: ignore
    "n_max=1.5": (lambda: Adaptive(n_max=1.5), "expected n_max to be int, got 1.5"),  # pyright: ignore
    "threat unknown": (lambda: Margin("l3"), "threat to be one of own, l2, linf, got 'l3'"),  # pyright: ignore
    "form unknown": (lambda: Split(form="x"), "form to be one of reach, ratio, got 'x'"),  # pyright: ignore
    "run of a text": (lambda: running(model="runs/NAME"), "torch.nn.Module, or where one comes from"),
    "run of a function": (lambda: running(model=lambda x: x), "torch.nn.Module, or where one comes from"),
    "run batch_size=-1": (lambda: running(batch_size=-1), "batch_size to be an integer, 1 or more, got -1"),
    "run batch_size=0": (lambda: running(batch_size=0), "batch_size to be an integer, 1 or more, got 0"),
    "run seed='a'": (lambda: running(seed="a"), "expected seed to be int, got 'a'"),
    "run limit=1.5": (lambda: running(limit=1.5), "expected limit to be int or None, got 1.5"),
    "run every='a'": (lambda: running(every="a"), "expected every to be int, got 'a'"),
    "run devices=1.5": (lambda: running(devices=1.5), "devices to be an integer, 1 or more, got 1.5"),
    "run shard=3": (lambda: running(shard=3), r"expected a shard \(i, n\), got 3"),
    "run shard=(2, 2)": (lambda: running(shard=(2, 2)), r"i from 0 to n - 1, got \(2, 2\)"),
    "run shard=(-1, 2)": (lambda: running(shard=(-1, 2)), "i to be an integer, 0 or more, got -1"),
    "run shard=(0, 'a')": (lambda: running(shard=(0, "a")), "n to be an integer, 0 or more, got 'a'"),
    "run engine": (lambda: running(engine="ray"), "expected an engine, such as"),
    "run dataset=3": (lambda: running(dataset=3), "expected the name of a data set, got 3"),
    "run runs=3": (lambda: running(runs=3), "expected runs to be a path, got 3"),
    "run store=3": (lambda: running(store=3), "expected store to be a path, got 3"),
    "attack epsilon=inf": (lambda: attacked(epsilon=math.inf), "epsilon must be positive and finite, got inf"),
    "attack epsilon='a'": (lambda: attacked(epsilon="a"), "epsilon must be positive and finite, got 'a'"),
    "attack limit=-1": (lambda: attacked(limit=-1), "limit to be an integer, 1 or more, got -1"),
    "attack steps=0": (lambda: attacked(steps=0), "steps to be an integer, 1 or more, got 0"),
    "attack batch_size=0": (lambda: attacked(batch_size=0), "batch_size to be an integer, 1 or more, got 0"),
    "attack seed=-1": (lambda: attacked(seed=-1), "seed to be an integer, 0 or more, got -1"),
    "attack of samples": (lambda: attacked(certifier=GAUSSIAN), "a certifier that draws no samples"),
    "attack on images": (lambda: attacked(data=[X]), "expected a data set, such as .*got list"),
    "smoothed samples=1.5": (lambda: smoothed(samples=1.5), "samples to be an integer, 1 or more, got 1.5"),
    "smoothed batch_size=0": (lambda: smoothed(batch_size=0), "batch_size to be an integer, 1 or more, got 0"),
    "smoothed integers": (lambda: smoothed()(X.int()), "floating-point torch.Tensor of images, got torch.int32"),
    "smoothed list": (lambda: smoothed()([X]), "floating-point torch.Tensor of images, got <class 'list'>"),
    "predict n=0": (lambda: smoothed().predict(X, n=0), "n to be an integer, 1 or more, got 0"),
    "predict n=1.5": (lambda: smoothed().predict(X, n=1.5), "n to be an integer"),  # pyright: ignore
    "predict alpha='a'": (lambda: smoothed().predict(X, alpha="a"), "expected alpha in"),  # pyright: ignore
    "bound of None": (lambda: lipschitz_bound(None, (1, 8, 8)), "expected a torch.nn.Module"),  # pyright: ignore
    "bound shape=8": (lambda: lipschitz_bound(linear(), 8), "input_shape to be a tuple of positive"),  # pyright: ignore
    "bound shape below 0": (lambda: lipschitz_bound(linear(), (1, -8, 8)), "integer, 1 or more, got -8"),
    "bound shape of texts": (lambda: lipschitz_bound(linear(), "abc"), "positive integers, got 'abc'"),  # pyright: ignore
    "normalize nan": (lambda: Normalize((0.5,), (NAN,)), r"positive std per channel, got \(0.5,\) and \(nan,\)"),
    "normalize mean nan": (lambda: Normalize((NAN,), (0.5,)), "positive std per channel"),
    "normalize inf": (lambda: Normalize((0.5,), (math.inf,)), "positive std per channel"),
    "normalize by 0 in float32": (lambda: Normalize((0.5,), (1e-320,)), "positive std per channel"),
    "normalize numbers": (lambda: Normalize(0.5, 0.5), "positive std per channel"),  # pyright: ignore
    "normalize texts": (lambda: Normalize(("a",), ("b",)), "positive std per channel"),  # pyright: ignore
    "normalize nothing": (lambda: Normalize((), ()), "positive std per channel"),
    "norm of complex numbers": (lambda: matrix_norm(torch.ones(2, 2) * 1j), "dense real numbers, one or more"),
    "norm of nothing": (lambda: matrix_norm(torch.ones(0, 2)), "dense real numbers, one or more"),
    "norm of an array": (lambda: matrix_norm(np.eye(2)), "expected a torch.Tensor, got ndarray"),  # pyright: ignore
    "norm of a complex kernel": (lambda: conv2d_norm(WEIGHT * 1j, (8, 8)), "dense real numbers, one or more"),
    "norm input_size": (lambda: conv2d_norm(WEIGHT, 8), "input_size to be 2 positive integers, got 8"),  # pyright: ignore
    "norm stride=0": (lambda: conv2d_norm(WEIGHT, (8, 8), stride=0), "stride to be an integer, 1 or more, got 0"),
    "norm stride of 3": (lambda: conv2d_norm(WEIGHT, (8, 8), stride=(1, 1, 1)), "stride to be one number or two"),
    "norm padding=-1": (lambda: conv2d_norm(WEIGHT, (8, 8), padding=-1), "padding to be an integer, 0 or more, got -1"),
    "norm dilation=0": (lambda: conv2d_norm(WEIGHT, (8, 8), dilation=0), "dilation to be an integer, 1 or more, got 0"),
    "halves": (lambda: SplitClassifier(None, linear()), "halves that are torch.nn.Module"),  # pyright: ignore
    "cut at 1.5": (lambda: SplitClassifier.cut(linear(), 1.5), "name of a part, got Sequential and 1.5"),  # pyright: ignore
    "ray": (lambda: RayEngine(gpus_per_worker="a"), "gpus_per_worker to be float or None, got 'a'"),  # pyright: ignore
    "report 3": (lambda: report(3), "expected paths of runs and logs, got 3"),  # pyright: ignore
    "report [3]": (lambda: report([3]), "expected paths of runs and logs, got 3"),  # pyright: ignore
    "train by a name": (lambda: train("gaussian-digits-0.25", "mine"), "expected a recipe, such as"),  # pyright: ignore
    "train as ..": (lambda: train(recipe(), "../mine"), "expected a name that a folder can have, got '../mine'"),
    "train as nobody": (lambda: train(recipe(), ""), "expected a name that a folder can have, got ''"),
    "train on a text": (lambda: train(recipe(), "mine", machine="cpu"), "machine to be a Machine, got 'cpu'"),  # pyright: ignore
    "epochs=1.5": (lambda: recipe(epochs=1.5), "expected epochs to be int, got 1.5"),
    "recipe seed=-1": (lambda: recipe(seed=-1), "seed must be from 0"),
    "clip nan": (lambda: recipe(clip=NAN), "clip must be at least 0 and finite, got nan"),
    "method a text": (lambda: recipe(method="gaussian"), "expected method to be Method, got 'gaussian'"),
    "workers=1.5": (lambda: Machine(workers=1.5), "expected workers to be int or None, got 1.5"),  # pyright: ignore
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line_and_nothing_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason) as told:
        call()
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_integers_of_numpy_and_torch_are_integers() -> None:
    assert [integer("n", one) for one in (3, np.int64(3), torch.tensor(3))] == [3, 3, 3]
    assert sizes("shape", torch.Size((1, 8))) == (1, 8)
    first, second = certified(seed=np.int64(7), indices=np.arange(2)), certified(seed=7, indices=[0, 1])
    assert first == second
    assert all(type(value) is int for value in (first[0].evidence["seed"], first[1].evidence["index"]))


def test_the_fields_of_every_public_config_are_checked() -> None:
    """A field of every certifier, given an object of no use, is refused by its name."""
    kinds: tuple[Any, ...] = (Adaptive, AtRadius, Betting, Gaussian, LInfBox, Margin, Split)
    for kind in kinds:
        for field in dataclasses.fields(kind):
            with pytest.raises(ValueError, match=rf"\b{field.name}\b"):
                kind(**{field.name: object()})


def test_numbers_of_numpy_are_those_of_python_and_name_the_same_run(tmp_path: Path) -> None:
    number: Any = np
    chosen = Gaussian(sigma=number.float32(0.5), n=number.int64(300), two_class=number.bool_(True))
    assert chosen == Gaussian(sigma=0.5, n=300, two_class=True)
    assert chosen.fingerprint() == Gaussian(sigma=0.5, n=300, two_class=True).fingerprint()
    assert {type(value) for value in (chosen.sigma, chosen.n, chosen.two_class)} == {float, int, bool}
    assert AtRadius(r=(number.float32(0.25),)).to_dict() == AtRadius(r=(0.25,)).to_dict()
    assert Machine(devices=number.uint8(2)) == Machine(devices=2)
    short = RECIPES["gaussian-digits-0.25"].replace(epochs=number.int16(3), flip=number.bool_(False))
    assert short.fingerprint() == RECIPES["gaussian-digits-0.25"].replace(epochs=3).fingerprint()
    settings: dict[str, Any] = {"limit": number.int64(2), "every": number.int8(3), "seed": number.uint32(1)}
    run = certify_run(linear(), "digits", chosen, runs=tmp_path, **settings)
    assert [record.index for record in run.records] == [0, 3]
    shares = SmoothedClassifier(linear(), GAUSSIAN)
    assert len(shares.predict(X, n=number.int64(100), alpha=number.float32(0.01), seed=number.int64(1))) == 2
    found, path = attack_run(
        linear(), "digits", GAUSSIAN, number.float32(0.25), tmp_path, limit=number.int64(2), n=number.int8(99)
    )
    assert (found.total, path.exists()) == (2, True)


@pytest.mark.parametrize("wrong", [np.float64(3), np.bool_(True), np.array(3), np.str_("3")])
def test_other_things_of_numpy_are_no_integers(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected n to be int"):
        Gaussian(n=wrong)
